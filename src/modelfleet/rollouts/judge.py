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

from modelfleet.rollouts.sequential import OneArm, TwoArm, kolmogorov_band, split_log_e
from modelfleet.telemetry.latency import BOUNDS_US, BUCKETS, quantile_us

WARM_UP_TICKS = 5
HARD_RATE = 0.2
HARD_REQUESTS = 50
SPLIT_LIMIT = math.log(1000)


@dataclass(frozen=True)
class Analysis:
    """What is judged and how much worse the canary may be. None leaves a metric out."""

    alpha: float = 0.05
    errors_max_increase: float | None = 0.01
    """absolute increase of the share of failed requests"""
    latency_max_ratio: float | None = 1.5
    latency_quantile: float = 0.95
    latency_floor_ms: float = 5.0
    """nobody feels a change below this"""
    predictions_max_distance: float | None = 0.2
    """largest difference of the two distributions of scores (Kolmogorov-Smirnov distance)"""
    disagreements_max: float | None = 0.05
    """share of mirrored requests whose answers may differ (shadow only)"""
    min_samples: int = 50
    """requests that each arm must have had before a step may end"""


@dataclass(frozen=True)
class Arm:
    """One version in one tick: counts."""

    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = ()
    scores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tick:
    number: int
    stable: Arm
    canary: Arm
    pairs: int = 0
    disagreements: int = 0
    turning: bool = False
    """the weights changed in it: no good for the split and the distributions"""


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
    )


def update(state: JudgeState, analysis: Analysis, tick: Tick) -> JudgeState:
    """Take one tick in. A tick that was seen already changes nothing."""
    if tick.number <= state.last_tick:
        return state
    a, b = tick.stable, tick.canary
    counts = (a.requests, a.errors, b.requests, b.errors)
    return replace(
        state,
        errors_harm=state.errors_harm.update(*counts),
        errors_proof=state.errors_proof.update(*counts),
        latency=_latency(state.latency, analysis, a, b),
        scores_stable=_add(state.scores_stable, () if tick.turning else a.scores),
        scores_canary=_add(state.scores_canary, () if tick.turning else b.scores),
        disagree_harm=state.disagree_harm.update(tick.pairs, tick.disagreements),
        disagree_proof=state.disagree_proof.update(tick.pairs, tick.disagreements),
        step_samples=_samples(state.step_samples, tick),
        hard=(state.hard[0] + b.requests, state.hard[1] + b.errors),
        stable_seen=(state.stable_seen[0] + a.requests, state.stable_seen[1] + a.errors),
        pairs=(state.pairs[0] + tick.pairs, state.pairs[1] + tick.disagreements),
        last_tick=tick.number,
    )


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
        if ticks < WARM_UP_TICKS or sum(warm_up) < analysis.min_samples:
            return replace(state, warm_up=warm_up, ticks=ticks)
        counts = np.array(warm_up, dtype=np.int64)
        threshold = quantile_us(counts, analysis.latency_quantile)
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


def verdict(
    state: JudgeState, analysis: Analysis, *, steps: int, weight: float, mirrored: bool
) -> Verdict:
    """What the ticks so far say. `steps`: weights of the whole plan that are judged.

    `weight`: share of live traffic that the canary gets now. `mirrored`: it gets copies instead.
    """
    requests, errors = state.hard
    if _breaks(requests, errors) and not _breaks(*state.stable_seen):
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


def _breaks(requests: int, errors: int) -> bool:
    return requests >= HARD_REQUESTS and errors > HARD_RATE * requests


def _overall(
    state: JudgeState, metrics: tuple[MetricVerdict, ...], finding: Finding, sentence: str
) -> Verdict:
    stable, canary = state.step_samples
    return Verdict(finding, metrics, stable, canary, sentence)


def _metrics(
    state: JudgeState, analysis: Analysis, steps: int, mirrored: bool
) -> tuple[MetricVerdict, ...]:
    wanted = [
        analysis.errors_max_increase is not None,
        analysis.latency_max_ratio is not None,
        analysis.predictions_max_distance is not None and not mirrored,
        analysis.disagreements_max is not None and mirrored,
    ]
    m = sum(wanted)
    found: list[MetricVerdict] = []
    if wanted[0]:
        found.append(_errors(state, analysis, m))
    if wanted[1]:
        found.append(_slowness(state, analysis, m))
    if wanted[2]:
        found.append(_distance(state, analysis, m, steps))
    if wanted[3]:
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
