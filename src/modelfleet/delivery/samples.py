"""How long each proof of a rollout will take, from what the endpoint is asked now.

The judge's own bets, at what they win on average if both versions are equally good. That is a
forecast, not a promise: half of all rollouts take longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from modelfleet.rollouts.plan import FULL, Kind, Spec
from modelfleet.rollouts.sequential import OneArm, TwoArm, kolmogorov_band

ERROR_RATE = 0.001
"""of requests, if nothing is known"""
_LEARNT = 1e6
"""requests after which the judge's guess is as good as the truth"""
_LEARNING = 1.0
"""what is lost while the judge learns the rates, in units of ln E"""
_SIGMA = 0.5
"""spread of the logarithm of latencies, as measured by the acceptance tests"""
_FORESEEN = frozenset({"errors", "latency", "predictions", "disagreements"})
"""metrics whose proof can be foreseen; that of means depends on how much they scatter"""


@dataclass(frozen=True)
class Expected:
    """One metric at one step."""

    step: int
    weight: float
    metric: str
    requests: float | None
    """to both versions; None if no number suffices"""
    seconds: float | None
    """None if there is no traffic, or no number suffices"""


def expected(spec: Spec, rate: float, error_rate: float | None = None) -> list[Expected]:
    """For each step and metric. rate: requests a second, of the whole endpoint."""
    found = []
    errors = ERROR_RATE if not error_rate else min(error_rate, 0.5)
    for number, step in enumerate(spec.plan):
        mirrored = step.shadow > 0
        if not step.is_judged or step.kind in (Kind.APPROVE, Kind.PAUSE):
            continue
        metrics = spec.analysis.metrics(mirrored=mirrored)
        weight = (step.shadow if mirrored else step.weight) / FULL
        for metric in metrics:
            if metric not in _FORESEEN:
                continue
            needed = _requests(spec, metric, weight, round(errors, 4), len(metrics), mirrored)
            takes = needed / rate if needed is not None and rate > 0 else None
            found.append(Expected(number, weight, metric, needed, takes))
    return found


def _requests(
    spec: Spec, metric: str, weight: float, errors: float, metrics: int, mirrored: bool
) -> float | None:
    """Requests to both versions until half of all rollouts have this proof."""
    told = spec.analysis
    needed = math.log(1 / told.alpha)
    if metric == "errors":
        # a shadow's requests come beside those of the stable version, not instead
        share = weight if not mirrored else weight / (1 + weight)
        return _two_arms(needed, told.errors_max_increase or 0.0, errors, errors, share)
    if metric == "latency":
        slower = 1 - told.latency_quantile
        normal = _normal_quantile(told.latency_quantile)
        ratio = told.latency_max_ratio or 1.0
        faster = _normal_tail(normal + math.log(max(ratio, 1e-9)) / _SIGMA)
        share = weight if not mirrored else weight / (1 + weight)
        return _two_arms(needed, 0.0, slower, faster, share)
    if metric == "disagreements":
        limit = told.disagreements_max or 0.0
        gain = _one_arm(limit)
        return None if gain <= 0 else (needed + _LEARNING) / gain / max(weight, 1e-9)
    alpha = told.alpha / (metrics * max(1, len(spec.plan)))
    return _distribution(told.predictions_max_distance or 0.0, alpha, weight)


@lru_cache(maxsize=4096)
def _two_arms(
    needed: float, margin: float, rate_a: float, rate_b: float, share: float
) -> float | None:
    total = 1000.0
    a, b = total * (1 - share), total * share
    judge = TwoArm(
        -1,
        margin,
        errors_a=rate_a * _LEARNT,
        errors_b=rate_b * _LEARNT,
        total_a=_LEARNT,
        total_b=_LEARNT,
    )
    # expected counts in place of counts: what a tick of 1000 requests wins on average
    gain = judge.update(a, a * rate_a, b, b * rate_b).log_e / total  # type: ignore[arg-type]
    return None if gain <= 1e-12 else (needed + _LEARNING) / gain


@lru_cache(maxsize=256)
def _one_arm(limit: float) -> float:
    """What a pair wins on average if answers never differ."""
    judge = OneArm(-1, limit, errors=1e-9 * _LEARNT, total=_LEARNT)
    return judge.update(1000, 0).log_e / 1000


@lru_cache(maxsize=4096)
def _distribution(distance: float, alpha: float, share: float) -> float | None:
    """Requests after which both bands together are narrower than the distance."""

    def wide(total: float) -> bool:
        a, b = max(1, int(total * (1 - share))), max(1, int(total * share))
        return kolmogorov_band(a, alpha / 2) + kolmogorov_band(b, alpha / 2) >= distance

    if not 0 < share < 1 or distance <= 0:
        return None
    low, high = 1.0, 2.0
    while wide(high):
        low, high = high, high * 2
        if high > 1e12:
            return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if wide(middle) else (low, middle)
    return high


def _normal_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2))


def _normal_quantile(probability: float) -> float:
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - _normal_tail(middle) < probability else (low, middle)
    return low
