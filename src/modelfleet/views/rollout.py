"""One rollout: where it stands, and what the judge knew at each tick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet.core.authorization import Action, Principal
from modelfleet.core.clock import to_us
from modelfleet.identity.approvals import Approval, may_answer
from modelfleet.rollouts.judge import MetricVerdict
from modelfleet.rollouts.plan import Kind, Step
from modelfleet.rollouts.service import Details
from modelfleet.rollouts.step import AT_A_STEP, ENDED, State, describe
from modelfleet.rollouts.store import Evidence, Move, Rollout
from modelfleet.serving.endpoints import FULL
from modelfleet.views.times import moment
from modelfleet.wiring import Fleet

TICKS = 600
_DRAWN = 120
_E_VALUES = frozenset({"errors", "latency", "disagreements"})
"""metrics that are drawn as evidence; the others are drawn as bounds"""


@dataclass(frozen=True)
class StepView:
    title: str
    note: str
    state: str
    """done, now, next or skipped"""


@dataclass(frozen=True)
class MetricView:
    """What the judge says of one metric, and how it came there.

    For counts of bad requests `harm` and `proof` are ln E against their `needed`; for distances and
    means they are the bound that is sure and the one that is possible, against the limit.
    """

    name: str
    finding: str
    sentence: str
    is_distance: bool
    times_us: tuple[int, ...]
    harm: tuple[float, ...]
    proof: tuple[float, ...]
    harm_needed: float
    proof_needed: float
    key: str = ""
    """distinct on a page"""
    version: str = ""
    """of the arm, if there are several"""


@dataclass(frozen=True)
class ApprovalView:
    approval: Approval
    may_answer: bool
    answers: str


@dataclass(frozen=True)
class RolloutView:
    rollout: Rollout
    steps: tuple[StepView, ...]
    moves: Sequence[Move]
    metrics: tuple[MetricView, ...]
    finding: str
    verdict: str
    samples_stable: int
    samples_canary: int
    ticks: int
    marks_us: tuple[tuple[int, str], ...]
    """when steps began, for drawing"""
    ended: bool
    may_pause: bool
    may_resume: bool
    may_abort: bool
    may_promote: bool
    may_retry: bool
    may_override: bool
    approvals: tuple[ApprovalView, ...]
    group: Sequence[Rollout]


def rollout_view(fleet: Fleet, principal: Principal, rollout_id: str) -> RolloutView:
    return present(fleet.rollouts.get(principal, rollout_id, TICKS), principal)


def present(details: Details, principal: Principal) -> RolloutView:
    rollout, last = details.rollout, details.evidence[-1].verdict if details.evidence else None
    ended = rollout.state in {state.value for state in ENDED}
    steers = not ended and rollout.desired != "abort"
    may_steer = steers and principal.may(Action.ROLLOUT, rollout.owner_team)
    waiting = {State.PENDING, State.GATING, State.AWAITING_APPROVAL}
    stepping = rollout.state in {*waiting, State.STEPPING, State.PAUSED}
    failed = ended and rollout.state != State.SUCCEEDED and not rollout.group
    return RolloutView(
        rollout=rollout,
        steps=steps_of(rollout),
        moves=details.moves,
        metrics=_all_metrics(details),
        finding=last.finding.value if last else "inconclusive",
        verdict=last.sentence if last else "The judge has seen nothing yet.",
        samples_stable=last.samples_stable if last else 0,
        samples_canary=last.samples_canary if last else 0,
        ticks=len(details.evidence),
        marks_us=tuple((to_us(moment(m.at)), m.state.replace("_", " ")) for m in details.moves),
        ended=ended,
        may_pause=may_steer and stepping and rollout.desired == "run",
        may_resume=may_steer and rollout.desired == "pause",
        may_abort=steers
        and rollout.state != State.ROLLING_BACK
        and principal.may(Action.ROLL_BACK, rollout.owner_team),
        may_promote=may_steer and rollout.state in AT_A_STEP and not rollout.arms,
        may_retry=failed and principal.may(Action.ROLLOUT, rollout.owner_team),
        may_override=not ended
        and rollout.waits.startswith("Frozen")
        and principal.may(Action.FREEZE, rollout.owner_team),
        approvals=tuple(approval_view(one, principal) for one in details.approvals),
        group=details.group,
    )


def approval_view(one: Approval, principal: Principal) -> ApprovalView:
    return ApprovalView(one, may_answer(principal, one), _answers(one))


def _answers(one: Approval) -> str:
    return ", ".join(
        f"{given.principal} {given.decision}" + (f" ({given.reason})" if given.reason else "")
        for given in one.answers
    )


def steps_of(rollout: Rollout) -> tuple[StepView, ...]:
    """The plan as a list: the steps, then all traffic (a shadow ends without it)."""
    spec, state = rollout.spec, rollout.state
    titles = [(_title(step), _note(step)) for step in spec.plan]
    if spec.promotes:
        bakes = "" if spec.strategy == "immediate" else f"then {spec.bake:g} s of watching"
        titles.append(("100%", bakes))
    here = len(titles) - 1 if state in ("baking", "succeeded") else rollout.step
    if state in ("pending", "gating"):
        here = -1
    return tuple(
        StepView(title, note, _place(number, here, state))
        for number, (title, note) in enumerate(titles)
    )


def _title(step: Step) -> str:
    match step.kind:
        case Kind.APPROVE:
            return "Approval"
        case Kind.PAUSE:
            return "Pause"
        case Kind.PREVIEW:
            return "Preview"
        case Kind.SHADOW:
            return f"{step.shadow / FULL:.0%} copied"
        case _:
            return f"{step.weight / FULL:.0%}"


def _note(step: Step) -> str:
    if step.approve is not None:
        return f"{step.approve.quorum} {step.approve.role}"
    if step.pause:
        return "until somebody resumes"
    least = f"at least {step.seconds:g} s"
    if step.preview is not None:
        return f"{describe(step)} {least}" if step.seconds else describe(step)
    return least


def _place(number: int, here: int, state: str) -> str:
    if state in ("rolled_back", "rolling_back", "frozen", "cancelled", "superseded"):
        return "done" if number < here else "stopped" if number == here else "skipped"
    if state == "succeeded" or number < here:
        return "done"
    return "now" if number == here else "next"


def metrics_of(
    evidence: Sequence[Evidence], arm: int = 0, version: str = ""
) -> tuple[MetricView, ...]:
    """Series by metric of one arm, thinned to what a chart can show; the last tick is there.

    version: of the arm, if there are several.
    """
    own = [one for one in evidence if one.arm == arm]
    if not own:
        return ()
    stride = max(1, math.ceil(len(own) / _DRAWN))
    drawn = [*own[:-1][::stride], own[-1]]
    return tuple(_metric(one, drawn, arm, version) for one in own[-1].verdict.metrics)


def _metric(one: MetricVerdict, drawn: Sequence[Evidence], arm: int, version: str) -> MetricView:
    points = [
        (to_us(moment(tick.at)), metric)
        for tick in drawn
        for metric in tick.verdict.metrics
        if metric.metric == one.metric
    ]
    return MetricView(
        name=one.metric,
        finding=one.finding.value,
        sentence=one.sentence,
        is_distance=one.metric not in _E_VALUES,
        times_us=tuple(at for at, _ in points),
        harm=tuple(metric.harm for _, metric in points),
        proof=tuple(metric.proof for _, metric in points),
        harm_needed=one.harm_needed,
        proof_needed=one.proof_needed,
        key=f"{one.metric}-{arm}" if version else one.metric,
        version=version,
    )


def _all_metrics(details: Details) -> tuple[MetricView, ...]:
    arms = details.rollout.arms
    if not arms:
        return metrics_of(details.evidence)
    return tuple(
        metric
        for number, arm in enumerate(arms)
        for metric in metrics_of(details.evidence, number, arm.version)
    )
