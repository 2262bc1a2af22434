"""Metrics with confidence bounds, by influence functions; pure numpy.

The influence of a row is how far it moves a metric: `metric ≈ value + mean(influence)`, so that the
variance of a metric, and of the difference of two models on the same rows, is that of a mean. For
`roc_auc` this is DeLong's estimator. Two rows of the largest influence either way are added before
the variance is taken, as Agresti and Coull (one model) and Bonett and Price (two) do for
proportions: without them, ten right answers of ten would prove a model right always. Bounds of one
plain proportion (accuracy, precision, recall) are exact.

Bounds are one-sided, each at the confidence that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[Any]
NEEDS_BOTH = 5
"""rows of each class below which nothing is said about scores"""
_NORMAL = NormalDist()
_EPS = 1e-15


class Undefined(Exception):
    """The metric has no value on these rows; the message says why."""


@dataclass(frozen=True)
class Estimate:
    value: float
    influence: Floats
    """of each row; its mean is 0"""
    lumpy: bool = False
    """a row counts or does not: rows that never differed may still differ next time"""
    counts: tuple[int, int] | None = None
    """hits and rows of a plain proportion, whose bounds are exact (Clopper and Pearson)"""


@dataclass(frozen=True)
class Bounds:
    value: float
    low: float
    high: float
    error: float
    """standard error"""
    rows: int
    counts: tuple[int, int] | None = None

    def proof_above(self, limit: float) -> float:
        """p-value of the claim that the true value is larger than the limit."""
        if self.counts is not None:
            hits, rows = self.counts
            return _beta(min(max(limit, 0.0), 1.0), hits, rows - hits + 1) if hits else 1.0
        return upper_tail(self._z(limit))

    def proof_below(self, limit: float) -> float:
        if self.counts is not None:
            hits, rows = self.counts
            share = 1 - min(max(limit, 0.0), 1.0)
            return _beta(share, rows - hits, hits + 1) if hits < rows else 1.0
        return upper_tail(-self._z(limit))

    def _z(self, limit: float) -> float:
        if self.error == 0:
            return math.copysign(math.inf, self.value - limit) if self.value != limit else 0.0
        return (self.value - limit) / self.error


def upper_tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


def quantile(confidence: float, rows: int) -> float:
    """Of Student's t, to the first order."""
    z = _NORMAL.inv_cdf(confidence)
    return z + (z**3 + z) / (4 * max(rows - 1, 1))


def bounds(estimate: Estimate, confidence: float) -> Bounds:
    """Of one model."""
    influence = estimate.influence
    most = float(np.abs(influence).max(initial=0.0))
    found = _bounds(estimate.value, influence, most, confidence)
    if estimate.counts is None:
        return found
    low, high = _exact(*estimate.counts, 1 - confidence)
    return replace(found, low=low, high=high, counts=estimate.counts)


def _exact(hits: int, rows: int, alpha: float) -> tuple[float, float]:
    from scipy.special import betaincinv

    low = float(betaincinv(hits, rows - hits + 1, alpha)) if hits else 0.0
    high = float(betaincinv(hits + 1, rows - hits, 1 - alpha)) if hits < rows else 1.0
    return low, high


def _beta(share: float, a: int, b: int) -> float:
    """P(at least `a` hits of a + b - 1) when each is as likely as `share`."""
    from scipy.special import betainc

    return float(betainc(a, b, share))


def difference(one: Estimate, other: Estimate, confidence: float) -> Bounds:
    """Of two models on the same rows, the one less the other."""
    apart = one.influence - other.influence
    parts = (one.influence, other.influence) if one.lumpy else (apart,)
    most = max(float(np.abs(part).max(initial=0.0)) for part in parts)
    return _bounds(one.value - other.value, apart, most, confidence)


def _bounds(value: float, influence: Floats, most: float, confidence: float) -> Bounds:
    rows = len(influence)
    error = math.sqrt(float(np.sum(influence**2)) + 2 * most**2) / (rows + 2)
    half = quantile(confidence, rows) * error
    return Bounds(value, value - half, value + half, error, rows)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: whatever is below alpha then is so for the whole family."""
    order = sorted(range(len(p)), key=lambda place: p[place])
    found, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        found[place] = highest
    return found


# Metrics -------------------------------------------------------------------------------------


def classification(
    metric: str, truth: Array, label: Array, classes: int, positive: int | None
) -> Estimate:
    """accuracy, balanced_accuracy, precision, recall, f1. truth, label: codes; positive: the code
    that counts, None for the mean over all classes."""
    if metric == "accuracy":
        right = (truth == label).astype(np.float64)
        found = _mean(right, lumpy=True)
        return replace(found, counts=(int(right.sum()), len(right)))
    if metric == "balanced_accuracy":
        there = [code for code in range(classes) if (truth == code).any()]
        return _average([_ratio("recall", truth == c, label == c) for c in there])
    if positive is not None:
        return _ratio(metric, truth == positive, label == positive)
    there = [c for c in range(classes) if (truth == c).any() or (label == c).any()]
    return _average([_ratio(metric, truth == c, label == c) for c in there])


def _ratio(metric: str, truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> Estimate:
    hit = (truth & found).astype(np.float64)
    t, f = truth.astype(np.float64), found.astype(np.float64)
    above, below = {
        "recall": (hit, t),
        "precision": (hit, f),
        "f1": (2 * hit, t + f),
    }[metric]
    share = float(below.mean())
    if share == 0:
        what = "nothing was found" if metric == "precision" else "there is nothing to find"
        raise Undefined(f"{metric} has no value: {what}")
    value = float(above.mean()) / share
    counts = None if metric == "f1" else (int(hit.sum()), int(below.sum()))
    return Estimate(value, (above - value * below) / share, lumpy=True, counts=counts)


def scored(metric: str, truth: NDArray[np.bool_], score: Floats) -> Estimate:
    """roc_auc, average_precision, log_loss, brier of scores for true and false."""
    if not np.isfinite(score).all():
        raise Undefined(f"{int((~np.isfinite(score)).sum())} scores are no numbers")
    if metric == "brier":
        return _mean((score - truth) ** 2)
    if metric == "log_loss":
        if score.min() < 0 or score.max() > 1:
            raise Undefined("the scores are no probabilities")
        likely = np.clip(np.where(truth, score, 1 - score), _EPS, 1.0)
        return _mean(-np.log(likely))
    count = int(truth.sum())
    if min(count, len(truth) - count) < NEEDS_BOTH:
        raise Undefined(f"{count} of {len(truth)} rows are true: too few of one kind")
    return _auc(truth, score) if metric == "roc_auc" else _average_precision(truth, score)


def likelihood(truth: Array, probability: Floats) -> Estimate:
    """log_loss of several classes. truth: codes of the columns."""
    share = probability / np.maximum(probability.sum(axis=1, keepdims=True), _EPS)
    return _mean(-np.log(np.clip(share[np.arange(len(truth)), truth], _EPS, 1.0)))


def _auc(truth: NDArray[np.bool_], score: Floats) -> Estimate:
    good, bad = np.sort(score[truth]), np.sort(score[~truth])
    share = float(truth.mean())
    place = np.empty(len(score))
    place[truth] = _below(bad, score[truth]) / len(bad)
    place[~truth] = 1 - _below(good, score[~truth]) / len(good)
    value = float(place[truth].mean())
    weight = np.where(truth, 1 / share, 1 / (1 - share))
    return Estimate(value, (place - value) * weight)


def _below(sorted_values: Floats, values: Floats) -> Floats:
    """How many are smaller; equal ones by half."""
    left = np.searchsorted(sorted_values, values, side="left")
    return (left + np.searchsorted(sorted_values, values, side="right")) / 2


def _average_precision(truth: NDArray[np.bool_], score: Floats) -> Estimate:
    rows = len(score)
    ordered = np.sort(score)
    from_here = rows - np.searchsorted(ordered, score, side="left")  # rows at or above
    good = np.sort(score[truth])
    hits = len(good) - np.searchsorted(good, score, side="left")
    precision = hits / from_here
    share = float(truth.mean())
    value = float(precision[truth].mean())
    # What a row does to the precision at every true row that does not lie above it.
    weight = truth * rows / from_here
    order = np.argsort(score, kind="stable")
    upto = np.searchsorted(ordered, score, side="right")
    first = np.concatenate([[0.0], np.cumsum(weight[order])])[upto] / rows
    second = np.concatenate([[0.0], np.cumsum((weight * precision)[order])])[upto] / rows
    influence = (truth * (precision - value) + truth * first - second) / share
    return Estimate(value, influence)


def regression(metric: str, truth: Floats, found: Floats) -> Estimate:
    """rmse, mae, mape, r2."""
    if not np.isfinite(found).all():
        raise Undefined(f"{int((~np.isfinite(found)).sum())} answers are no numbers")
    off = found - truth
    if metric == "mae":
        return _mean(np.abs(off))
    if metric == "mape":
        return _mean(np.abs(off) / np.maximum(np.abs(truth), np.finfo(np.float64).eps))
    squares = off**2
    mean = float(squares.mean())
    if metric == "rmse":
        value = math.sqrt(mean)
        return Estimate(value, (squares - mean) / (2 * value) if value else squares)
    spread = (truth - truth.mean()) ** 2
    variance = float(spread.mean())
    if variance == 0:
        raise Undefined("r2 has no value: the target is the same in all rows")
    influence = -(squares - mean) / variance + mean * (spread - variance) / variance**2
    return Estimate(1 - mean / variance, influence)


def _mean(values: Floats, lumpy: bool = False) -> Estimate:
    value = float(values.mean())
    return Estimate(value, values - value, lumpy)


def _average(parts: Sequence[Estimate]) -> Estimate:
    value = float(np.mean([part.value for part in parts]))
    influence = np.mean([part.influence for part in parts], axis=0)
    return Estimate(value, influence, lumpy=parts[0].lumpy)


# Proportions -----------------------------------------------------------------------------------


def wilson(hits: float, rows: float, z: float) -> tuple[float, float]:
    """Score interval of a proportion."""
    share = hits / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(a: tuple[int, int], b: tuple[int, int], z: float) -> tuple[float, float]:
    """Interval of the difference of two proportions (hits, rows): Newcombe's hybrid score."""
    p, q = a[0] / a[1], b[0] / b[1]
    (low_a, high_a), (low_b, high_b) = wilson(*a, z), wilson(*b, z)
    low = p - q - math.hypot(p - low_a, high_b - q)
    return low, p - q + math.hypot(high_a - p, q - low_b)


def katz(a: tuple[int, int], b: tuple[int, int], z: float) -> tuple[float, float]:
    """Interval of the ratio of two proportions. `Undefined` if one of them is 0."""
    if not a[0] or not b[0]:
        raise Undefined("a ratio with no hits has no bounds")
    p, q = a[0] / a[1], b[0] / b[1]
    error = math.sqrt((1 - p) / a[0] + (1 - q) / b[0])
    return p / q * math.exp(-z * error), p / q * math.exp(z * error)
