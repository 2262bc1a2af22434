"""The decision of a rollout: a pure function from what is seen to the next move.

    pending -> gating -> awaiting_approval -> stepping <-> paused -> baking -> succeeded
    from any of these: rolling_back -> rolled_back, frozen, cancelled (nothing had moved yet) or
    superseded (by another rollout)

It is called again and again with what is true now, so a crash between any two lines is followed
by the same decision. Three rules are kept elsewhere because they are facts of the world, not
decisions: the gateway takes new weights only when every version with traffic is resident
(`serving.routing`); a version stays resident while it is routed (`serving.pools`); and what was
decided commits together with the judge's state (`rollouts.advance`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from modelfleet.rollouts.judge import Finding, Verdict, breaks
from modelfleet.rollouts.plan import FULL, Kind, Preview, Spec, Step, Strategy


class State(StrEnum):
    PENDING = "pending"
    GATING = "gating"
    AWAITING_APPROVAL = "awaiting_approval"
    STEPPING = "stepping"
    PAUSED = "paused"
    BAKING = "baking"
    ROLLING_BACK = "rolling_back"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FROZEN = "frozen"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


ENDED = frozenset({State.SUCCEEDED, State.ROLLED_BACK, State.CANCELLED, State.SUPERSEDED})
UNMOVED = frozenset({State.PENDING, State.GATING})
"""The routes are still those of before."""
AT_A_STEP = frozenset({State.AWAITING_APPROVAL, State.STEPPING, State.PAUSED, State.FROZEN})


class Desired(StrEnum):
    RUN = "run"
    PAUSE = "pause"
    ABORT = "abort"
    PROMOTE = "promote"


class Traffic(StrEnum):
    """What the routes of the endpoint should be."""

    STABLE = "stable"
    STEP = "step"
    PROMOTED = "promoted"


class Standing(StrEnum):
    """Of gates, and of approvals (where inconclusive is expired)."""

    WAITING = "waiting"
    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Answer:
    """How what somebody else decides stands: gates, or people."""

    standing: Standing = Standing.WAITING
    sentence: str = ""


@dataclass(frozen=True)
class Contest:
    """What an A/B/n test has come to."""

    decided: bool = False
    winner: int | None = None
    """the arm; None is the stable version"""
    sentence: str = ""
    harmed: int | None = None
    """an arm that must be taken out now"""
    shares: tuple[int, ...] | None = None
    """new weights of all arms, if they move now"""


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
    blocked: str = ""
    """why the schedule lets nothing advance now; empty if it does"""
    gates: Answer = Answer(Standing.PASSED)
    approval: Answer = Answer()
    """of this step"""
    asked: Answer | None = None
    """a person was asked what to do without a proof"""
    beyond_limit: str = ""
    """how the version breaks an absolute limit"""
    contest: Contest | None = None
    alerted: bool = False
    """people were told already that this harms"""
    resumed: bool = False
    """somebody ended the pause that this step asks for"""
    promoted: bool = False
    """the new version is the endpoint's stable one"""


@dataclass(frozen=True)
class Move:
    state: State
    step: int
    sentence: str
    traffic: Traffic | None = None
    """None leaves the routes alone"""
    asks: bool = False
    """a person is asked what to do"""
    tells: bool = False
    """people are told; nothing else happens"""
    winner: int | None = None
    out: int | None = None
    """an arm that is taken out"""
    shares: tuple[int, ...] | None = None
    resumes: bool = False
    """a pause ends: time at this step begins anew"""

    @property
    def is_forward(self) -> bool:
        """Schedules and freezes stop these; rollbacks always may."""
        return self.traffic in (Traffic.STEP, Traffic.PROMOTED) and self.out is None


def decide(spec: Spec, seen: Observed, desired: Desired) -> Move | None:
    """The next move, or None to wait."""
    move = _decide(spec, seen, desired)
    if move is not None and move.is_forward and seen.blocked:
        return None
    return move


def waits_for(spec: Spec, seen: Observed, desired: Desired, move: Move | None) -> str:
    """In words, what the next move waits for; empty if it is made or there is none."""
    if move is not None or seen.state in ENDED:
        return ""
    if seen.state is State.PENDING and seen.version_status != "ready":
        return "The version is being prepared."
    if seen.state is State.GATING:
        return seen.gates.sentence or "The gates are running."
    if seen.state is State.ROLLING_BACK:
        return "The gateway takes the routes back."
    if seen.state is State.FROZEN:
        return "A person promotes or aborts."
    if desired is Desired.PAUSE or seen.state is State.PAUSED:
        return "Somebody resumes it."
    if seen.asked is not None and seen.asked.standing is Standing.WAITING:
        return seen.asked.sentence
    approved = seen.approval.standing is Standing.PASSED
    if seen.state is State.AWAITING_APPROVAL and not approved:
        return seen.approval.sentence or "Somebody approves."
    if not seen.applied and seen.state not in UNMOVED:
        return "The gateway runs the new routes once every version with traffic is loaded."
    if seen.blocked and _decide(spec, seen, desired) is not None:
        return seen.blocked
    if seen.state is State.BAKING:
        return f"All traffic is watched for {spec.bake:g} s."
    return _missing(spec, seen)


def _missing(spec: Spec, seen: Observed) -> str:
    if seen.state not in (State.STEPPING, State.AWAITING_APPROVAL):
        return seen.blocked
    if seen.contest is not None:
        return seen.contest.sentence
    step, verdict = spec.plan[seen.step], seen.verdict
    if seen.step_seconds < step.seconds:
        return f"At least {step.seconds:g} s at this step."
    if step.is_judged and verdict is not None and not _enough(spec, verdict):
        return f"Each version needs {spec.analysis.min_samples} requests at this step."
    return verdict.sentence if verdict is not None else ""


def _decide(spec: Spec, seen: Observed, desired: Desired) -> Move | None:
    if seen.state in ENDED:
        return None
    if seen.state is State.ROLLING_BACK:
        return _rolling_back(seen)
    if desired is Desired.ABORT:
        return _back(seen, "Aborted by request.")
    if desired is Desired.PROMOTE and seen.state in AT_A_STEP:
        sentence = "Promoted by hand."
        if seen.promoted:  # it was frozen in its bake
            return Move(State.SUCCEEDED, seen.step, sentence)
        return Move(State.BAKING, seen.step, sentence, Traffic.PROMOTED)
    if seen.state is State.FROZEN:
        return None
    if seen.state is State.PENDING:
        return _pending(spec, seen, desired)
    if seen.state is State.GATING:
        return _gating(spec, seen, desired)
    if seen.state is State.BAKING:
        return _baking(spec, seen)
    return _stepping(spec, seen, desired)


# Before any traffic moves -------------------------------------------------------------------------


def _pending(spec: Spec, seen: Observed, desired: Desired) -> Move | None:
    if seen.version_status == "failed":
        return _never(seen, f"The version is not fit to serve: {seen.version_reason}")
    if seen.version_status != "ready" or desired is Desired.PAUSE:
        return None
    if spec.gates:
        return Move(State.GATING, 0, f"{len(spec.gates)} gates are checked.")
    return _first(spec, seen)


def _gating(spec: Spec, seen: Observed, desired: Desired) -> Move | None:
    if seen.gates.standing is Standing.FAILED:
        return _never(seen, f"It did not pass its gates. {seen.gates.sentence}")
    if desired is Desired.PAUSE:
        return None
    if seen.gates.standing is Standing.INCONCLUSIVE:
        if seen.waited_seconds < spec.inconclusive_after_seconds:
            return None
        if spec.on_inconclusive == "rollback":
            return _never(seen, f"Its gates could not be decided. {seen.gates.sentence}")
        return None
    if seen.gates.standing is not Standing.PASSED:
        return None
    return _first(spec, seen)


def _first(spec: Spec, seen: Observed) -> Move:
    first = _following(spec, seen, after=-1)
    if first is None:
        return Move(State.BAKING, 0, "All traffic moves to the new version.", Traffic.PROMOTED)
    return _enter(spec, first)


def _enter(spec: Spec, number: int) -> Move:
    step = spec.plan[number]
    state = State.AWAITING_APPROVAL if step.kind is Kind.APPROVE else State.STEPPING
    return Move(state, number, describe(step), Traffic.STEP)


def _never(seen: Observed, reason: str) -> Move:
    """Nothing has moved, so there is nothing to take back."""
    return Move(State.ROLLED_BACK, seen.step, reason)


# At a step ----------------------------------------------------------------------------------------


def _stepping(spec: Spec, seen: Observed, desired: Desired) -> Move | None:
    harm = _harm(seen)
    if harm:
        return _fail(spec, seen, harm)
    if seen.contest is not None and seen.contest.harmed is not None:
        out = seen.contest.harmed
        return Move(seen.state, seen.step, seen.contest.sentence, Traffic.STEP, out=out)
    step = spec.plan[seen.step]
    if step.kind is Kind.APPROVE:
        answered = _answered(spec, seen)
        if answered is not None:
            return answered
    paused = seen.state is State.PAUSED
    if desired is Desired.PAUSE and not paused:
        return Move(State.PAUSED, seen.step, "Paused by request.")
    if desired is Desired.RUN and paused:
        awaits = step.kind is Kind.APPROVE
        state = State.AWAITING_APPROVAL if awaits else State.STEPPING
        return Move(state, seen.step, "Resumed.", resumes=True)
    if paused:
        return None
    return _advance(spec, seen, step)


def _harm(seen: Observed) -> str:
    if seen.load_error and seen.contest is None:
        return f"A worker can't load the version: {seen.load_error}"
    if seen.verdict is not None and seen.verdict.finding is Finding.HARM:
        return seen.verdict.sentence
    return seen.beyond_limit


def _answered(spec: Spec, seen: Observed) -> Move | None:
    """What follows from a no, or from no answer in time; a yes is looked at with the step."""
    if seen.approval.standing is Standing.FAILED:
        return _back(seen, seen.approval.sentence)
    if seen.approval.standing is Standing.INCONCLUSIVE and spec.on_inconclusive == "rollback":
        return _back(seen, seen.approval.sentence)
    return None


def _advance(spec: Spec, seen: Observed, step: Step) -> Move | None:
    if seen.contest is not None:
        return _contest(spec, seen, seen.contest)
    if seen.asked is not None:
        if seen.asked.standing is Standing.PASSED:
            return _next(spec, seen, asked=True)
        if seen.asked.standing is Standing.FAILED:
            return _back(seen, seen.asked.sentence)
    if step.kind is Kind.APPROVE and seen.approval.standing is not Standing.PASSED:
        return None
    if step.kind is Kind.PAUSE and not seen.resumed:
        sentence = "Paused as planned, until somebody resumes it."
        return Move(State.PAUSED, seen.step, sentence) if seen.applied else None
    return _next(spec, seen) or _patience(spec, seen)


def _next(spec: Spec, seen: Observed, *, asked: bool = False) -> Move | None:
    """The next step if this one is done: its time is over, and enough was seen."""
    step = spec.plan[seen.step]
    if not seen.applied or seen.step_seconds < step.seconds:
        return None
    verdict = seen.verdict
    counts = step.is_judged and seen.has_stable and step.kind not in (Kind.APPROVE, Kind.PAUSE)
    if counts and not asked and (verdict is None or not _enough(spec, verdict)):
        return None
    following = _following(spec, seen)
    if following is not None:
        return _enter(spec, following)
    judged = seen.has_stable and any(one.is_judged for one in spec.plan)
    if judged and not asked and not _proven(verdict):
        return None
    sentence = verdict.sentence if verdict is not None and judged else ""
    if asked and seen.asked is not None:
        sentence = seen.asked.sentence
    if not spec.promotes:
        return Move(State.SUCCEEDED, seen.step, sentence, Traffic.STABLE)
    return Move(State.BAKING, seen.step, f"Promoted. {sentence}".strip(), Traffic.PROMOTED)


def _following(spec: Spec, seen: Observed, after: int | None = None) -> int | None:
    """The number of the next step. Without a stable version only people are waited for."""
    begin = seen.step if after is None else after
    for number in range(begin + 1, len(spec.plan)):
        if seen.has_stable or spec.plan[number].kind in (Kind.APPROVE, Kind.PAUSE):
            return number
    return None


def _proven(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.finding is Finding.PROOF


def _enough(spec: Spec, verdict: Verdict) -> bool:
    return min(verdict.samples_canary, verdict.samples_stable) >= spec.analysis.min_samples


def _contest(spec: Spec, seen: Observed, contest: Contest) -> Move | None:
    if not seen.applied:
        return _patience(spec, seen)
    if contest.decided and contest.winner is not None:
        sentence = f"Promoted. {contest.sentence}"
        return Move(State.BAKING, seen.step, sentence, Traffic.PROMOTED, winner=contest.winner)
    if contest.decided:
        return Move(State.SUCCEEDED, seen.step, contest.sentence, Traffic.STABLE)
    if contest.shares is not None:
        return Move(seen.state, seen.step, contest.sentence, Traffic.STEP, shares=contest.shares)
    return _patience(spec, seen)


def _patience(spec: Spec, seen: Observed) -> Move | None:
    """Nothing is proven: wait, and after long enough do what the plan says."""
    step = spec.plan[seen.step]
    patience = max(spec.inconclusive_after_seconds, step.seconds)
    if seen.waited_seconds < patience or spec.on_inconclusive == "hold":
        return None
    if step.kind in (Kind.APPROVE, Kind.PAUSE):
        return None  # people have a time of their own
    sentence = f"Nothing was proven in {patience:g} s."
    if spec.on_inconclusive == "rollback":
        return _back(seen, sentence)
    if seen.asked is not None:
        return None
    return Move(seen.state, seen.step, f"{sentence} A person is asked.", asks=True)


# After promotion ----------------------------------------------------------------------------------


def _baking(spec: Spec, seen: Observed) -> Move | None:
    if seen.load_error and not seen.applied:
        return _fail(spec, seen, f"A worker can't load the version: {seen.load_error}")
    if breaks(seen.bake_requests, seen.bake_errors, spec.analysis.hard_errors):
        sentence = (
            f"{seen.bake_errors} of {seen.bake_requests} requests failed: "
            f"over the hard limit of {100 * spec.analysis.hard_errors:g} %."
        )
        return _fail(spec, seen, sentence)
    if seen.beyond_limit:
        return _fail(spec, seen, seen.beyond_limit)
    bake = _bake(spec, seen)
    if not seen.applied or seen.step_seconds < bake or (bake and not seen.bake_judged):
        return None
    return Move(State.SUCCEEDED, seen.step, "The new version is stable.")


def _bake(spec: Spec, seen: Observed) -> float:
    immediate = spec.strategy is Strategy.IMMEDIATE or not seen.has_stable
    return 0.0 if immediate else spec.bake


# Back ---------------------------------------------------------------------------------------------


def _fail(spec: Spec, seen: Observed, reason: str) -> Move | None:
    if spec.on_fail == "freeze" and seen.has_stable:
        return Move(State.FROZEN, seen.step, f"Frozen for a person to decide. {reason}")
    if spec.on_fail == "alert" and seen.has_stable:
        if seen.alerted:
            return None
        sentence = f"{reason} Nothing moves on; abort or promote it."
        return Move(seen.state, seen.step, sentence, tells=True)
    return _back(seen, reason)


def _back(seen: Observed, reason: str) -> Move:
    if seen.state in UNMOVED:
        return Move(State.CANCELLED, seen.step, reason)
    return Move(State.ROLLING_BACK, seen.step, reason, Traffic.STABLE)


def _rolling_back(seen: Observed) -> Move | None:
    if not seen.applied:
        return None
    where = "back on the stable version" if seen.has_stable else "gone from the endpoint"
    back = f"{seen.reason} All traffic is {where}.".strip()
    return Move(State.ROLLED_BACK, seen.step, back)


def describe(step: Step) -> str:
    if step.kind is Kind.APPROVE and step.approve is not None:
        return f"Waits for the approval of {step.approve.quorum} {step.approve.role}."
    if step.kind is Kind.PAUSE:
        return "Waits for somebody to resume it."
    if step.preview is not None:
        return f"{_who(step.preview)} reach the new version; nobody else does."
    if step.shadow:
        return f"{step.shadow / FULL:.0%} of the requests are copied to the new version."
    return f"{step.weight / FULL:.0%} of the traffic goes to the new version."


def _who(preview: Preview) -> str:
    if preview.header:
        return f"Requests with {preview.header}: {preview.equals or preview.prefix + '...'}"
    return f"Requests of {preview.caller or 'the team ' + preview.team}"
