"""Latency in buckets that add up exactly and are fine enough to prove a ratio of 1.15.

Bounds grow by 2^(1/8) from 1 us to just above 60 s; bucket i holds bounds[i-1] < latency <=
bounds[i], the last one what is slower than all bounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEPS_PER_DOUBLING = 8
_LONGEST_US = 60e6

BOUNDS_US: NDArray[np.float64] = 2.0 ** (
    np.arange(int(np.ceil(np.log2(_LONGEST_US) * _STEPS_PER_DOUBLING)) + 1) / _STEPS_PER_DOUBLING
)
BUCKETS = len(BOUNDS_US) + 1

CLASSIC_SECONDS: tuple[float, ...] = tuple(2.0**k * 1e-6 for k in range(7, 26))
"""Bounds of the exposed Prometheus histogram, 128 us to 33.5 s. Each is one of ours: exact."""


def bucket(latency_ns: NDArray[np.int64]) -> NDArray[np.intp]:
    """Index of the bucket of each latency."""
    return np.searchsorted(BOUNDS_US, latency_ns / 1000.0, side="left")


def quantile_us(counts: NDArray[np.int64], q: float) -> float:
    """The q-quantile in microseconds, interpolated within its bucket; NaN without counts."""
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    cumulative = np.cumsum(counts)
    rank = q * total
    index = int(np.searchsorted(cumulative, rank, side="left"))
    if index >= len(BOUNDS_US):
        return float(BOUNDS_US[-1])
    low = float(BOUNDS_US[index - 1]) if index else 0.0
    before = float(cumulative[index - 1]) if index else 0.0
    share = (rank - before) / max(float(counts[index]), 1.0)
    return low + (float(BOUNDS_US[index]) - low) * min(max(share, 0.0), 1.0)


def classic_cumulative(counts: NDArray[np.int64]) -> list[int]:
    """Requests at or below each of `CLASSIC_SECONDS`."""
    cumulative = np.cumsum(counts)
    return [int(cumulative[_STEPS_PER_DOUBLING * k]) for k in range(7, 26)]


def mean_us(counts: NDArray[np.int64]) -> float:
    """Mean from bucket midpoints: for drawing and `_sum`, never for judging."""
    total = int(counts.sum())
    return float(counts @ _MIDPOINTS_US) / total if total else float("nan")


_MIDPOINTS_US = np.concatenate(
    [[BOUNDS_US[0] / 2], (BOUNDS_US[:-1] + BOUNDS_US[1:]) / 2, [BOUNDS_US[-1]]]
)
