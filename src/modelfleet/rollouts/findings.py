"""What is found of each metric: from the judge's state to a verdict, with the numbers behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from modelfleet.rollouts.sequential import Mean, OneArm, TwoArm, kolmogorov_band

if TYPE_CHECKING:
    from modelfleet.rollouts.analysis import Analysis
    from modelfleet.rollouts.judge import JudgeState


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
    """ln E against "within the margin"; of a bound, how much worse it surely is"""
    harm_needed: float
    proof: float
    """ln E against "beyond the margin"; of a bound, how much worse it may be"""
    proof_needed: float
    scale: str = "evidence"
    """evidence (harm and proof are shown when they reach what is needed), or bound (harm when it
    is above, proof when it is below)"""
    required: bool = True
    """whether a promotion waits for its proof"""


@dataclass(frozen=True)
class Verdict:
    finding: Finding
    metrics: tuple[MetricVerdict, ...]
    samples_stable: int
    samples_canary: int
    sentence: str


@dataclass(frozen=True)
class _Levels:
    """Chance of a false alarm that each metric may take; and of a false proof."""

    harm: float
    proof: float


def judged(
    state: JudgeState, analysis: Analysis, steps: int, mirrored: bool, arms: int
) -> tuple[MetricVerdict, ...]:
    """All metrics of the analysis, in its order."""
    wanted = analysis.metrics(mirrored=mirrored)
    levels = _Levels(analysis.alpha / (max(len(wanted), 1) * arms), analysis.alpha / arms)
    ways = {
        "errors": _errors,
        "latency": _slowness,
        "predictions": lambda s, a, e: _distance(s, a, e, steps),
        "scores": _change,
        "outcomes": _outcomes,
        "disagreements": _disagreement,
        "differences": _differences,
    }
    return tuple(ways[metric](state, analysis, levels) for metric in wanted)


def _rate(errors: float, requests: int) -> str:
    return f"{100 * errors / requests:.2f} %" if requests else "nothing"


def _errors(state: JudgeState, analysis: Analysis, levels: _Levels) -> MetricVerdict:
    ours = _rate(state.hard[1], state.hard[0])
    theirs = _rate(state.stable_seen[1], state.stable_seen[0])
    margin = 100 * (analysis.errors_max_increase or 0.0)
    facts = f"canary fails {ours}, stable {theirs}, {margin:g} points more are allowed"
    return _evalue("errors", facts, state.errors_harm, state.errors_proof, levels)


def _slowness(state: JudgeState, analysis: Analysis, levels: _Levels) -> MetricVerdict:
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
    return _evalue("latency", facts, latency.harm, latency.proof, levels)


def _disagreement(state: JudgeState, analysis: Analysis, levels: _Levels) -> MetricVerdict:
    pairs, different = state.pairs
    limit = 100 * (analysis.disagreements_max or 0.0)
    facts = f"{different} of {pairs} pairs of answers differ, {limit:g} % may"
    if pairs:
        stable, shadow = (us / pairs / 1000 for us in state.paired_us)
        facts += f"; on average they took {stable:.3g} ms and {shadow:.3g} ms"
    return _evalue("disagreements", facts, state.disagree_harm, state.disagree_proof, levels)


def _evalue(
    metric: str, facts: str, harm: TwoArm | OneArm, proof: TwoArm | OneArm, levels: _Levels
) -> MetricVerdict:
    harm_needed, proof_needed = math.log(1 / levels.harm), math.log(1 / levels.proof)
    finding = Finding.OPEN
    if harm.highest >= harm_needed:
        finding = Finding.HARM
    elif proof.highest >= proof_needed:
        finding = Finding.PROOF
    sentence = f"{_WORDS[finding]} in {metric}: {facts}."
    return MetricVerdict(
        metric, finding, sentence, harm.highest, harm_needed, proof.highest, proof_needed
    )


_WORDS = {Finding.HARM: "Worse", Finding.PROOF: "Proven", Finding.OPEN: "Undecided"}


def _bounded(metric: str, facts: str, sure: float, possible: float, limit: float) -> MetricVerdict:
    """Harm if it is surely beyond the limit, proof if it can't be."""
    finding = Finding.OPEN
    if sure > limit:
        finding = Finding.HARM
    elif possible < limit:
        finding = Finding.PROOF
    sentence = f"{_WORDS[finding]} in {metric}: {facts}."
    return MetricVerdict(metric, finding, sentence, sure, limit, possible, limit, scale="bound")


def _distance(state: JudgeState, analysis: Analysis, levels: _Levels, steps: int) -> MetricVerdict:
    limit = analysis.predictions_max_distance or 0.0
    a = np.array(state.scores_stable or (0,), dtype=np.float64)
    b = np.array(state.scores_canary or (0,), dtype=np.float64)
    n_a, n_b = int(a.sum()), int(b.sum())
    if n_a == 0 or n_b == 0:
        return _bounded("predictions", "one side has not predicted yet", 0.0, 1.0, limit)
    distance = float(np.abs(np.cumsum(a) / n_a - np.cumsum(b) / n_b).max())
    sure = distance - _band(n_a, n_b, levels.harm / max(steps, 1))
    possible = distance + _band(n_a, n_b, levels.proof / max(steps, 1))
    facts = (
        f"their distributions lie {distance:.3f} apart "
        f"(at least {max(sure, 0):.3f}, at most {min(possible, 1):.3f}), {limit:g} is allowed"
    )
    return _bounded("predictions", facts, sure, possible, limit)


def _band(n_a: int, n_b: int, alpha: float) -> float:
    return kolmogorov_band(n_a, alpha / 2) + kolmogorov_band(n_b, alpha / 2)


def _interval(mean: Mean, levels: _Levels, limit: float, *, both: bool) -> tuple[float, float]:
    """How much worse it surely is and may be. both: a change either way is one for the worse."""
    value = abs(mean.estimate) if both else mean.estimate
    harm = mean.half(levels.harm, two_sided=both, least=limit)
    proof = mean.half(levels.proof, two_sided=both, least=limit)
    # Sums that are compared and stored must be finite.
    return max(value - harm, -_WIDE), min(value + proof, _WIDE)


_WIDE = 1e12


def _change(state: JudgeState, analysis: Analysis, levels: _Levels) -> MetricVerdict:
    limit = analysis.scores_max_change or 0.0
    sure, possible = _interval(state.change, levels, limit, both=True)
    facts = f"the mean score differs by {state.change.estimate:+.4g}, {limit:g} is allowed"
    return _bounded("scores", facts, sure, possible, limit)


def _differences(state: JudgeState, analysis: Analysis, levels: _Levels) -> MetricVerdict:
    limit = analysis.differences_max or 0.0
    sure, possible = _interval(state.differences, levels, limit, both=False)
    facts = f"answers differ by {state.differences.estimate:.4g} on average, {limit:g} is allowed"
    return _bounded("differences", facts, sure, possible, limit)


def _outcomes(state: JudgeState, analysis: Analysis, levels: _Levels) -> MetricVerdict:
    seen, limit = state.outcomes, analysis.outcomes_max_increase
    rows = f"{seen.canary[0]} and {seen.stable[0]} labels"
    if analysis.outcomes == "absolute_error":
        sure, possible = _interval(seen.loss, levels, limit, both=False)
        change = f"{seen.loss.estimate:+.4g} on average"
        facts = f"by {rows} the error changed {change}, {limit:g} is allowed"
        found = _bounded("outcomes", facts, sure, possible, limit)
    else:
        ours, theirs = _rate(seen.canary[1], seen.canary[0]), _rate(seen.stable[1], seen.stable[0])
        what = _MISSED[str(analysis.outcomes)]
        facts = (
            f"by {rows} the canary {what} {ours}, stable {theirs}, "
            f"{100 * limit:g} points more are allowed"
        )
        found = _evalue("outcomes", facts, seen.harm, seen.proof, levels)
    return MetricVerdict(
        found.metric,
        found.finding,
        found.sentence,
        found.harm,
        found.harm_needed,
        found.proof,
        found.proof_needed,
        found.scale,
        analysis.outcomes_required,
    )


_MISSED = {
    "error_rate": "is wrong in",
    "precision": "is wrong when it says yes in",
    "recall": "misses of the true ones",
}
