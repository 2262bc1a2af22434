"""The judge: is the canary worse than the stable version, as good, or can't one tell yet?

It reads closed ticks, each once and in order, and keeps its whole state in one value that is
stored with the rollout, so that a restart changes nothing. Every metric is tested two ways:
*harm* (it is worse than the margin allows) and *proof* (it is within the margin). With m metrics
harm needs m/alpha, proof 1/alpha each, so that both the chance of a false rollback and that of
a false promotion stay below alpha however often one looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from modelfleet.rollouts.analysis import Analysis, Arm, Tick
from modelfleet.rollouts.findings import Finding, MetricVerdict, Verdict, judged
from modelfleet.rollouts.sequential import Mean, OneArm, Sums, TwoArm, split_log_e
from modelfleet.telemetry.latency import BOUNDS_US, BUCKETS, quantile_us

__all__ = ["Finding", "JudgeState", "MetricVerdict", "Verdict", "begin", "update", "verdict"]

WARM_UP_TICKS = 5
HARD_RATE = 0.2
HARD_REQUESTS = 50
SPLIT_LIMIT = math.log(1000)


@dataclass(frozen=True)
class Latency:
    """`threshold_us` is frozen at the end of the warm-up; the tests begin after it."""

    ticks: int = 0
    warm_up: tuple[int, ...] = ()
    threshold_us: float | None = None
    harm: TwoArm = TwoArm(1, 0.0)
    proof: TwoArm = TwoArm(-1, 0.0)


@dataclass(frozen=True)
class Outcomes:
    """Losses by labels of equal age: as shares (tests) or as a mean."""

    harm: TwoArm = TwoArm(1, 0.0)
    proof: TwoArm = TwoArm(-1, 0.0)
    loss: Mean = Mean()
    """canary - stable"""
    stable: tuple[int, float] = (0, 0.0)
    """labels, and the sum of losses"""
    canary: tuple[int, float] = (0, 0.0)


@dataclass(frozen=True)
class JudgeState:
    """Everything the judge knows of one attempt."""

    errors_harm: TwoArm
    errors_proof: TwoArm
    latency: Latency = Latency()
    scores_stable: tuple[int, ...] = ()
    """of this step, as are those of the canary"""
    scores_canary: tuple[int, ...] = ()
    change: Mean = Mean()
    """mean score, canary - stable"""
    outcomes: Outcomes = Outcomes()
    disagree_harm: OneArm = OneArm(1, 0.05)
    disagree_proof: OneArm = OneArm(-1, 0.05)
    differences: Mean = Mean()
    split: float = 0.0
    """ln E of the steps before"""
    step_samples: tuple[int, int] = (0, 0)
    hard: tuple[int, int] = (0, 0)
    """requests and errors of the canary, all steps"""
    stable_seen: tuple[int, int] = (0, 0)
    lately: tuple[int, int] = (0, 0)
    """requests and errors of the canary since the hard limit was last looked at"""
    stable_lately: tuple[int, int] = (0, 0)
    broken: tuple[int, int] | None = None
    """the first of these that broke the hard limit in this step"""
    pairs: tuple[int, int] = (0, 0)
    """mirrored requests that could be compared, and those whose answers differed"""
    paired_us: tuple[float, float] = (0.0, 0.0)
    """sums of the latencies of these, stable's and the shadow's"""
    last_tick: int = -1
    notes: tuple[str, ...] = field(default_factory=tuple)


def begin(analysis: Analysis) -> JudgeState:
    margin = analysis.errors_max_increase or 0.0
    worse = analysis.outcomes_max_increase
    limit = analysis.disagreements_max if analysis.disagreements_max is not None else 0.05
    return JudgeState(
        errors_harm=TwoArm(1, margin),
        errors_proof=TwoArm(-1, margin),
        outcomes=Outcomes(TwoArm(1, worse), TwoArm(-1, worse)),
        disagree_harm=OneArm(1, limit),
        disagree_proof=OneArm(-1, limit),
    )


def next_step(state: JudgeState, weight: float) -> JudgeState:
    """A new weight: distribution and split start anew, the e-processes go on."""
    stable, canary = state.step_samples
    ended = split_log_e(canary, stable + canary, weight)
    return replace(
        state,
        split=state.split + ended,
        scores_stable=(),
        scores_canary=(),
        step_samples=(0, 0),
        lately=(0, 0),
        stable_lately=(0, 0),
        broken=None,
    )


def update(state: JudgeState, analysis: Analysis, tick: Tick) -> JudgeState:
    """Take one tick in. A tick that was seen already changes nothing."""
    if tick.number <= state.last_tick:
        return state
    a, b = tick.stable, tick.canary
    counts = (a.requests, a.errors, b.requests, b.errors)
    scores = _scores(state, tick)
    state = _look_at_hard_limit(state, analysis, a, b)
    return replace(
        state,
        errors_harm=state.errors_harm.update(*counts),
        errors_proof=state.errors_proof.update(*counts),
        latency=_latency(state.latency, analysis, a, b),
        scores_stable=scores[0],
        scores_canary=scores[1],
        change=state.change.difference(a.score_sums, b.score_sums),
        outcomes=_outcomes(state.outcomes, analysis, a, b),
        disagree_harm=state.disagree_harm.update(tick.pairs, tick.disagreements),
        disagree_proof=state.disagree_proof.update(tick.pairs, tick.disagreements),
        differences=state.differences.single(tick.differences),
        step_samples=_samples(state.step_samples, tick),
        hard=(state.hard[0] + b.requests, state.hard[1] + b.errors),
        stable_seen=(state.stable_seen[0] + a.requests, state.stable_seen[1] + a.errors),
        pairs=(state.pairs[0] + tick.pairs, state.pairs[1] + tick.disagreements),
        paired_us=(state.paired_us[0] + tick.stable_us, state.paired_us[1] + tick.shadow_us),
        last_tick=tick.number,
    )


def _look_at_hard_limit(state: JudgeState, analysis: Analysis, a: Arm, b: Arm) -> JudgeState:
    """In blocks of at least 50 requests, so that long good times don't hide a bad moment."""
    begun = state.lately if state.lately[0] < HARD_REQUESTS else (0, 0)
    stable = state.stable_lately if begun == state.lately else (0, 0)
    lately = (begun[0] + b.requests, begun[1] + b.errors)
    stable = (stable[0] + a.requests, stable[1] + a.errors)
    broken, limit = state.broken, analysis.hard_errors
    if broken is None and breaks(*lately, limit) and not breaks(*stable, limit):
        broken = lately
    return replace(state, lately=lately, stable_lately=stable, broken=broken)


def breaks(requests: int, errors: int, limit: float = HARD_RATE) -> bool:
    """Whether these counts are over a hard limit."""
    return requests >= HARD_REQUESTS and errors > limit * requests


def _outcomes(state: Outcomes, analysis: Analysis, a: Arm, b: Arm) -> Outcomes:
    """Losses are what outcomes lack: rows that were wrong, or absolute errors."""
    if analysis.outcomes is None or not (a.outcomes or b.outcomes):
        return state
    after = replace(
        state,
        stable=(state.stable[0] + a.outcomes, state.stable[1] + _lost(analysis, a)),
        canary=(state.canary[0] + b.outcomes, state.canary[1] + _lost(analysis, b)),
    )
    if analysis.outcomes == "absolute_error":
        sums = (Sums(one.outcomes, -one.outcome_sum, one.outcome_squares) for one in (a, b))
        return replace(after, loss=state.loss.difference(*sums))
    counts = (a.outcomes, round(_lost(analysis, a)), b.outcomes, round(_lost(analysis, b)))
    return replace(after, harm=state.harm.update(*counts), proof=state.proof.update(*counts))


def _lost(analysis: Analysis, arm: Arm) -> float:
    if analysis.outcomes == "absolute_error":
        return -arm.outcome_sum
    return arm.outcomes - arm.outcome_sum


def _scores(state: JudgeState, tick: Tick) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The scores of this step. A tick whose two arms were not counted in the same bins is none."""
    kept = state.scores_stable, state.scores_canary
    a, b = tick.stable.scores, tick.canary.scores
    lengths = {len(part) for part in (a, b, *kept) if part}
    if tick.turning or len(lengths) > 1:
        return kept
    return _add(kept[0], a), _add(kept[1], b)


def _samples(before: tuple[int, int], tick: Tick) -> tuple[int, int]:
    if tick.turning:
        return before
    return before[0] + tick.stable.requests, before[1] + tick.canary.requests


def _add(before: tuple[int, ...], more: tuple[int, ...]) -> tuple[int, ...]:
    if not more:
        return before
    if not before:
        return more
    return tuple(x + y for x, y in zip(before, more, strict=True))


def _latency(state: Latency, analysis: Analysis, a: Arm, b: Arm) -> Latency:
    if analysis.latency_max_ratio is None or not a.latency:
        return state
    if state.threshold_us is None:
        warm_up = _add(state.warm_up, a.latency)
        ticks = state.ticks + 1
        if ticks < WARM_UP_TICKS or sum(warm_up) < max(analysis.min_samples, 1):
            return replace(state, warm_up=warm_up, ticks=ticks)
        counts = np.array(warm_up, dtype=np.int64)
        threshold = _nearest_bound(quantile_us(counts, analysis.latency_quantile))
        return replace(state, warm_up=(), ticks=ticks, threshold_us=threshold)
    stable = np.array(a.latency, dtype=np.int64)
    canary = np.array(b.latency or (0,) * BUCKETS, dtype=np.int64)
    own = int(np.searchsorted(BOUNDS_US, state.threshold_us, side="left"))
    allowed = max(analysis.latency_max_ratio * state.threshold_us, analysis.latency_floor_ms * 1000)
    above = int(np.searchsorted(BOUNDS_US, allowed, side="left"))
    below = max(int(np.searchsorted(BOUNDS_US, allowed, side="right")) - 1, 0)
    n_a, n_b = int(stable.sum()), int(canary.sum())
    slow = int(stable[own + 1 :].sum())
    return replace(
        state,
        harm=state.harm.update(n_a, slow, n_b, int(canary[above + 1 :].sum())),
        proof=state.proof.update(n_a, slow, n_b, int(canary[below + 1 :].sum())),
    )


def know_latency(state: JudgeState, analysis: Analysis, counts: tuple[int, ...]) -> JudgeState:
    """Take the threshold from what the stable version took before, by latency bucket. Too few
    requests leave it to the warm-up."""
    if sum(counts) < max(analysis.min_samples, 1):
        return state
    found = quantile_us(np.array(counts, dtype=np.int64), analysis.latency_quantile)
    return replace(state, latency=replace(state.latency, threshold_us=_nearest_bound(found)))


def _nearest_bound(latency_us: float) -> float:
    """A bucket bound, so that what is slower than it can be counted exactly."""
    return float(BOUNDS_US[np.abs(np.log(BOUNDS_US / latency_us)).argmin()])


def verdict(
    state: JudgeState,
    analysis: Analysis,
    *,
    steps: int,
    weight: float,
    mirrored: bool,
    arms: int = 1,
    whole: bool = False,
) -> Verdict:
    """What the ticks so far say. `steps`: weights of the whole plan that are judged.

    `weight`: the canary's share of the live traffic of both. `mirrored`: it gets copies instead.
    `arms`: how many versions are compared with the stable one at once. `whole`: samples are
    those of all steps, as where each client counts once.
    """
    if hard := hard_limit(state, analysis):
        return _overall(state, (), Finding.HARM, hard, whole)
    metrics = judged(state, analysis, steps, mirrored, arms)
    stable, canary = state.step_samples
    split = state.split if mirrored else state.split + split_log_e(canary, stable + canary, weight)
    if split >= SPLIT_LIMIT:
        sentence = "Traffic is not split as it should be, so nothing can be concluded from it."
        return _overall(state, metrics, Finding.OPEN, sentence, whole)
    worst = [one for one in metrics if one.finding is Finding.HARM]
    if worst:
        return _overall(state, metrics, Finding.HARM, worst[0].sentence, whole)
    needed = [one for one in metrics if one.required]
    if needed and all(one.finding is Finding.PROOF for one in needed):
        names = ", ".join(one.metric for one in needed)
        return _overall(
            state, metrics, Finding.PROOF, f"Proven within its margins: {names}.", whole
        )
    missing = ", ".join(one.metric for one in needed if one.finding is Finding.OPEN)
    return _overall(state, metrics, Finding.OPEN, f"Not proven yet: {missing}.", whole)


def hard_limit(state: JudgeState, analysis: Analysis) -> str:
    """Which hard limit the canary broke, as a sentence; empty if none."""
    if state.broken is not None:
        requests, errors = state.broken
        limit = f"over the hard limit of {100 * analysis.hard_errors:g} %"
        return f"{errors} of {requests} requests failed: {limit}."
    return ""


def late_harm(state: JudgeState, analysis: Analysis, *, arms: int = 1) -> str:
    """While a promoted version bakes: what labels of the time before say, if it is harm."""
    found = [one for one in judged(state, analysis, 1, False, arms) if one.metric == "outcomes"]
    return found[0].sentence if found and found[0].finding is Finding.HARM else ""


def _overall(
    state: JudgeState,
    metrics: tuple[MetricVerdict, ...],
    finding: Finding,
    sentence: str,
    whole: bool,
) -> Verdict:
    stable, canary = (state.stable_seen[0], state.hard[0]) if whole else state.step_samples
    return Verdict(finding, metrics, stable, canary, sentence)
