"""The decision of a rollout: a pure function from what is seen to the next move.

    pending -> stepping <-> paused -> baking -> succeeded
    from any of these: rolling_back -> rolled_back, or frozen

It is called again and again with what is true now, so a crash between any two lines is followed
by the same decision. Three rules are kept elsewhere because they are facts of the world, not
decisions: the gateway takes new weights only when every version with traffic is resident
(`serving.routing`); a version stays resident while it is routed (`serving.pools`); and what was
decided commits together with the judge's state (`rollouts.service`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from modelfleet.rollouts.judge import HARD_RATE, Finding, Verdict, breaks
from modelfleet.rollouts.plan import FULL, Spec, Step, Strategy


class State(StrEnum):
    PENDING = "pending"
    STEPPING = "stepping"
    PAUSED = "paused"
    BAKING = "baking"
    ROLLING_BACK = "rolling_back"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FROZEN = "frozen"


ENDED = frozenset({State.SUCCEEDED, State.ROLLED_BACK})


@dataclass(frozen=True)
class Observed:
    state: State
    step: int
    step_seconds: float
    """how long the gateway has been running the routes of this step; 0 until it does"""
    waited_seconds: float
    """since the rollout entered this step, whether or not its routes are applied"""
    has_stable: bool
    version_status: str
    """pending, ready or failed"""
    version_reason: str
    load_error: str
    """why a worker could not load the new version; empty if none said so"""
    applied: bool
    """the gateway runs the routes that were set last"""
    verdict: Verdict | None
    bake_requests: int = 0
    bake_errors: int = 0
    bake_judged: bool = True
    """the ticks of the whole bake are closed, and read"""
    reason: str = ""
    """the sentence of the move before"""


class Desired(StrEnum):
    RUN = "run"
    PAUSE = "pause"
    ABORT = "abort"


class Traffic(StrEnum):
    """What the routes of the endpoint should be."""

    STABLE = "stable"
    STEP = "step"
    PROMOTED = "promoted"


@dataclass(frozen=True)
class Move:
    state: State
    step: int
    sentence: str
    traffic: Traffic | None = None
    """None leaves the routes alone"""


def decide(spec: Spec, seen: Observed, desired: Desired) -> Move | None:
    """The next move, or None to wait."""
    if seen.state in ENDED:
        return None
    if seen.state is State.ROLLING_BACK:
        return _rolling_back(seen)
    if seen.state is State.FROZEN:
        return _back(seen, "Aborted by request.") if desired is Desired.ABORT else None
    if desired is Desired.ABORT:
        return _back(seen, "Aborted by request.")
    if seen.state is State.PENDING:
        return _pending(spec, seen, desired)
    if seen.state is State.BAKING:
        return _baking(spec, seen)
    return _stepping(spec, seen, desired)


def _pending(spec: Spec, seen: Observed, desired: Desired) -> Move | None:
    if seen.version_status == "failed":
        return _never(f"The version is not fit to serve: {seen.version_reason}")
    if seen.version_status != "ready" or desired is Desired.PAUSE:
        return None
    if not seen.has_stable or not spec.steps:
        return Move(State.BAKING, 0, "All traffic moves to the new version.", Traffic.PROMOTED)
    return Move(State.STEPPING, 0, _describe(spec.steps[0]), Traffic.STEP)


def _never(reason: str) -> Move:
    return Move(State.ROLLED_BACK, 0, reason)


def _stepping(spec: Spec, seen: Observed, desired: Desired) -> Move | None:
    if seen.load_error:
        return _fail(spec, seen, f"A worker can't load the version: {seen.load_error}")
    verdict = seen.verdict
    if verdict is not None and verdict.finding is Finding.HARM:
        return _fail(spec, seen, verdict.sentence)
    if desired is Desired.PAUSE and seen.state is State.STEPPING:
        return Move(State.PAUSED, seen.step, "Paused by request.")
    if desired is Desired.RUN and seen.state is State.PAUSED:
        return Move(State.STEPPING, seen.step, "Resumed.")
    if seen.state is State.PAUSED:
        return None
    if not seen.applied or verdict is None:
        return _patience(spec, seen)
    step = spec.steps[seen.step]
    enough = min(verdict.samples_canary, verdict.samples_stable) >= spec.analysis.min_samples
    if seen.step_seconds < step.seconds or not enough:
        return _patience(spec, seen)
    if seen.step + 1 < len(spec.steps):
        following = spec.steps[seen.step + 1]
        return Move(State.STEPPING, seen.step + 1, _describe(following), Traffic.STEP)
    if verdict.finding is not Finding.PROOF:
        return _patience(spec, seen)
    if spec.strategy is Strategy.SHADOW:
        return Move(State.SUCCEEDED, seen.step, verdict.sentence, Traffic.STABLE)
    return Move(State.BAKING, seen.step, f"Promoted. {verdict.sentence}", Traffic.PROMOTED)


def _patience(spec: Spec, seen: Observed) -> Move | None:
    """Nothing is proven: wait, and after long enough do what the plan says."""
    patience = max(spec.inconclusive_after_seconds, spec.steps[seen.step].seconds)
    if seen.waited_seconds < patience or spec.on_inconclusive == "hold":
        return None
    return _back(seen, f"Nothing was proven in {patience:g} s.")


def _baking(spec: Spec, seen: Observed) -> Move | None:
    if seen.load_error and not seen.applied:
        return _fail(spec, seen, f"A worker can't load the version: {seen.load_error}")
    if breaks(seen.bake_requests, seen.bake_errors):
        sentence = (
            f"{seen.bake_errors} of {seen.bake_requests} requests failed: "
            f"over the hard limit of {HARD_RATE:.0%}."
        )
        return _fail(spec, seen, sentence)
    bake = _bake(spec, seen)
    if not seen.applied or seen.step_seconds < bake or (bake and not seen.bake_judged):
        return None
    return Move(State.SUCCEEDED, seen.step, "The new version is stable.")


def _bake(spec: Spec, seen: Observed) -> float:
    immediate = spec.strategy is Strategy.IMMEDIATE or not seen.has_stable
    return 0.0 if immediate else spec.bake_seconds


def _fail(spec: Spec, seen: Observed, reason: str) -> Move:
    if spec.on_fail == "freeze" and seen.has_stable:
        return Move(State.FROZEN, seen.step, f"Frozen for a person to decide. {reason}")
    return _back(seen, reason)


def _back(seen: Observed, reason: str) -> Move:
    if seen.state is State.PENDING:
        return _never(reason)
    return Move(State.ROLLING_BACK, seen.step, reason, Traffic.STABLE)


def _rolling_back(seen: Observed) -> Move | None:
    if not seen.applied:
        return None
    where = "back on the stable version" if seen.has_stable else "gone from the endpoint"
    back = f"{seen.reason} All traffic is {where}.".strip()
    return Move(State.ROLLED_BACK, seen.step, back)


def _describe(step: Step) -> str:
    if step.shadow:
        return f"{step.shadow / FULL:.0%} of the requests are copied to the new version."
    return f"{step.weight / FULL:.0%} of the traffic goes to the new version."
