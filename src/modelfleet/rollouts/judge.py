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
from enum import StrEnum

import numpy as np

from modelfleet.rollouts.analysis import Analysis, Arm, Tick
from modelfleet.rollouts.sequential import OneArm, TwoArm, kolmogorov_band, split_log_e
from modelfleet.telemetry.latency import BOUNDS_US, BUCKETS, quantile_us

WARM_UP_TICKS = 5
HARD_RATE = 0.2
HARD_REQUESTS = 50
SPLIT_LIMIT = math.log(1000)


class Finding(StrEnum):
    HARM = "fail"
    PROOF = "pass"
    OPEN = "inconclusive"


@dataclass(frozen=True)
class MetricVerdict:
    metric: str
    finding: Finding
    sentence: str
    harm: float
    """ln E against "within the margin"; for predictions the distance that is sure"""
    harm_needed: float
    proof: float
    """ln E against "beyond the margin"; for predictions the distance that is possible"""
    proof_needed: float


@dataclass(frozen=True)
class Verdict:
    finding: Finding
    metrics: tuple[MetricVerdict, ...]
    samples_stable: int
    samples_canary: int
    sentence: str


@dataclass(frozen=True)
class Latency:
    """`threshold_us` is frozen at the end of the warm-up; the tests begin after it."""

    ticks: int = 0
    warm_up: tuple[int, ...] = ()
    threshold_us: float | None = None
    harm: TwoArm = TwoArm(1, 0.0)
    proof: TwoArm = TwoArm(-1, 0.0)


@dataclass(frozen=True)
class JudgeState:
    """Everything the judge knows of one attempt."""

    errors_harm: TwoArm
    errors_proof: TwoArm
    latency: Latency = Latency()
    scores_stable: tuple[int, ...] = ()
    """of this step, as are those of the canary"""
    scores_canary: tuple[int, ...] = ()
    disagree_harm: OneArm = OneArm(1, 0.05)
    disagree_proof: OneArm = OneArm(-1, 0.05)
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
    last_tick: int = -1
    notes: tuple[str, ...] = field(default_factory=tuple)


def begin(analysis: Analysis) -> JudgeState:
    margin = analysis.errors_max_increase or 0.0
    limit = analysis.disagreements_max if analysis.disagreements_max is not None else 0.05
    return JudgeState(
        errors_harm=TwoArm(1, margin),
        errors_proof=TwoArm(-1, margin),
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
    state = _look_at_hard_limit(state, a, b)
    return replace(
        state,
        errors_harm=state.errors_harm.update(*counts),
        errors_proof=state.errors_proof.update(*counts),
        latency=_latency(state.latency, analysis, a, b),
        scores_stable=scores[0],
        scores_canary=scores[1],
        disagree_harm=state.disagree_harm.update(tick.pairs, tick.disagreements),
        disagree_proof=state.disagree_proof.update(tick.pairs, tick.disagreements),
        step_samples=_samples(state.step_samples, tick),
        hard=(state.hard[0] + b.requests, state.hard[1] + b.errors),
        stable_seen=(state.stable_seen[0] + a.requests, state.stable_seen[1] + a.errors),
        pairs=(state.pairs[0] + tick.pairs, state.pairs[1] + tick.disagreements),
        last_tick=tick.number,
    )


def _look_at_hard_limit(state: JudgeState, a: Arm, b: Arm) -> JudgeState:
    """In blocks of at least 50 requests, so that long good times don't hide a bad moment."""
    begun = state.lately if state.lately[0] < HARD_REQUESTS else (0, 0)
    stable = state.stable_lately if begun == state.lately else (0, 0)
    lately = (begun[0] + b.requests, begun[1] + b.errors)
    stable = (stable[0] + a.requests, stable[1] + a.errors)
    broken = state.broken
    if broken is None and breaks(*lately) and not breaks(*stable):
        broken = lately
    return replace(state, lately=lately, stable_lately=stable, broken=broken)


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
) -> Verdict:
    """What the ticks so far say. `steps`: weights of the whole plan that are judged.

    `weight`: the canary's share of the traffic of the pair. `mirrored`: it gets copies instead.
    `arms`: comparisons that share alpha.
    """
    analysis = replace(analysis, alpha=analysis.alpha / arms)
    if state.broken is not None:
        requests, errors = state.broken
        sentence = f"{errors} of {requests} requests failed: over the hard limit of 20 %."
        return _overall(state, (), Finding.HARM, sentence)
    metrics = _metrics(state, analysis, steps, mirrored)
    stable, canary = state.step_samples
    split = state.split if mirrored else state.split + split_log_e(canary, stable + canary, weight)
    if split >= SPLIT_LIMIT:
        sentence = "Traffic is not split as it should be, so nothing can be concluded from it."
        return _overall(state, metrics, Finding.OPEN, sentence)
    worst = [one for one in metrics if one.finding is Finding.HARM]
    if worst:
        return _overall(state, metrics, Finding.HARM, worst[0].sentence)
    if metrics and all(one.finding is Finding.PROOF for one in metrics):
        names = ", ".join(one.metric for one in metrics)
        return _overall(state, metrics, Finding.PROOF, f"Proven within its margins: {names}.")
    missing = ", ".join(one.metric for one in metrics if one.finding is Finding.OPEN)
    return _overall(state, metrics, Finding.OPEN, f"Not proven yet: {missing}.")


def breaks(requests: int, errors: int) -> bool:
    """Whether these counts are over the hard limit."""
    return requests >= HARD_REQUESTS and errors > HARD_RATE * requests


def _overall(
    state: JudgeState, metrics: tuple[MetricVerdict, ...], finding: Finding, sentence: str
) -> Verdict:
    stable, canary = state.step_samples
    return Verdict(finding, metrics, stable, canary, sentence)


def _metrics(
    state: JudgeState, analysis: Analysis, steps: int, mirrored: bool
) -> tuple[MetricVerdict, ...]:
    wanted = analysis.metrics(mirrored=mirrored)
    m = len(wanted)
    found: list[MetricVerdict] = []
    if "errors" in wanted:
        found.append(_errors(state, analysis, m))
    if "latency" in wanted:
        found.append(_slowness(state, analysis, m))
    if "predictions" in wanted:
        found.append(_distance(state, analysis, m, steps))
    if "disagreements" in wanted:
        found.append(_disagreement(state, analysis, m))
    return tuple(found)


def _rate(errors: int, requests: int) -> str:
    return f"{100 * errors / requests:.2f} %" if requests else "nothing"


def _errors(state: JudgeState, analysis: Analysis, m: int) -> MetricVerdict:
    ours = _rate(state.hard[1], state.hard[0])
    theirs = _rate(state.stable_seen[1], state.stable_seen[0])
    margin = 100 * (analysis.errors_max_increase or 0.0)
    facts = f"canary fails {ours}, stable {theirs}, {margin:g} points more are allowed"
    return _evalue("errors", facts, state.errors_harm, state.errors_proof, analysis, m)


def _slowness(state: JudgeState, analysis: Analysis, m: int) -> MetricVerdict:
    latency = state.latency
    if latency.threshold_us is None:
        facts = "the stable version's latency is being learnt"
    else:
        ratio, floor = analysis.latency_max_ratio or 1.0, analysis.latency_floor_ms
        allowed = max(ratio * latency.threshold_us / 1000, floor)
        quantile = f"p{100 * analysis.latency_quantile:g}"
        facts = (
            f"stable's {quantile} is {latency.threshold_us / 1000:.3g} ms, "
            f"the canary's may be {allowed:.3g} ms"
        )
    return _evalue("latency", facts, latency.harm, latency.proof, analysis, m)


def _disagreement(state: JudgeState, analysis: Analysis, m: int) -> MetricVerdict:
    pairs, different = state.pairs
    limit = 100 * (analysis.disagreements_max or 0.0)
    facts = f"{different} of {pairs} pairs of answers differ, {limit:g} % may"
    return _evalue("disagreements", facts, state.disagree_harm, state.disagree_proof, analysis, m)


def _evalue(
    metric: str,
    facts: str,
    harm: TwoArm | OneArm,
    proof: TwoArm | OneArm,
    analysis: Analysis,
    m: int,
) -> MetricVerdict:
    harm_needed, proof_needed = math.log(m / analysis.alpha), math.log(1 / analysis.alpha)
    finding, word = Finding.OPEN, "Undecided"
    if harm.highest >= harm_needed:
        finding, word = Finding.HARM, "Worse"
    elif proof.highest >= proof_needed:
        finding, word = Finding.PROOF, "Proven"
    sentence = f"{word} in {metric}: {facts}."
    return MetricVerdict(
        metric, finding, sentence, harm.highest, harm_needed, proof.highest, proof_needed
    )


def _distance(state: JudgeState, analysis: Analysis, m: int, steps: int) -> MetricVerdict:
    limit = analysis.predictions_max_distance or 0.0
    a = np.array(state.scores_stable or (0,), dtype=np.float64)
    b = np.array(state.scores_canary or (0,), dtype=np.float64)
    n_a, n_b = int(a.sum()), int(b.sum())
    if n_a == 0 or n_b == 0:
        sentence = "Undecided in predictions: one side has not predicted yet."
        return MetricVerdict("predictions", Finding.OPEN, sentence, 0.0, limit, 1.0, limit)
    distance = float(np.abs(np.cumsum(a) / n_a - np.cumsum(b) / n_b).max())
    per_step = analysis.alpha / max(steps, 1)
    sure = distance - _band(n_a, n_b, per_step / m)
    possible = distance + _band(n_a, n_b, per_step)
    finding, word = Finding.OPEN, "Undecided"
    if sure > limit:
        finding, word = Finding.HARM, "Worse"
    elif possible < limit:
        finding, word = Finding.PROOF, "Proven"
    sentence = (
        f"{word} in predictions: their distributions lie {distance:.3f} apart "
        f"(at least {max(sure, 0):.3f}, at most {min(possible, 1):.3f}), {limit:g} is allowed."
    )
    return MetricVerdict("predictions", finding, sentence, sure, limit, possible, limit)


def _band(n_a: int, n_b: int, alpha: float) -> float:
    return kolmogorov_band(n_a, alpha / 2) + kolmogorov_band(n_b, alpha / 2)
