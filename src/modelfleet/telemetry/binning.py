"""Counts the rows of a batch into the bins of a reference profile, all features at once.

The same bins as `Profile.count` (a test holds the two together), but made for the collector: most
batches hold a handful of rows of one model, where a call per feature costs 110 us and one
comparison with the padded table of all edges 20 us.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelfleet_worker.wire.profile import LevelBins, NumericBins, Profile
from modelfleet_worker.wire.signature import Array

_FEW_ROWS = 64
"""Up to here one comparison with all steps is faster than one for each step; a binary search, whose
branches nobody can foretell, is slower than both."""


class Binner:
    """Bins of one profile, prepared."""

    def __init__(self, profile: Profile) -> None:
        self.sizes = tuple(bins.bins for bins in profile.features)
        self._total = sum(self.sizes)
        offsets = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.intp)
        numbers = [k for k, bins in enumerate(profile.features) if not _is_text(bins)]
        self._numbers = numbers
        self._texts = [
            (k, profile.features[k], int(offsets[k]))
            for k in range(len(profile.features))
            if k not in set(numbers)
        ]
        self._prepare([profile.features[k] for k in numbers], offsets[:-1][numbers][:, None])

    def _prepare(
        self, features: Sequence[NumericBins | LevelBins], offsets: NDArray[np.intp]
    ) -> None:
        """Tables over the numeric features: sorted steps (edges or levels) and bin by rank."""
        width = max((len(_steps(bins)) for bins in features), default=0)
        self._rows = np.arange(len(features))[:, None] * (width + 1)
        self._steps = np.full((len(features), width + 1), np.inf)
        self._sizes = np.zeros((len(features), 1), dtype=np.intp)
        self._bins = np.zeros((len(features), width + 1), dtype=np.intp)
        self._null = np.zeros((len(features), 1), dtype=np.intp)
        self._unseen = np.zeros((len(features), 1), dtype=np.intp)
        self._is_level = np.zeros((len(features), 1), dtype=np.bool_)
        for row, bins in enumerate(features):
            steps = np.asarray(_steps(bins), dtype=np.float64)
            order = np.argsort(steps, kind="stable")
            self._steps[row, : len(steps)] = steps[order]
            self._sizes[row] = len(steps)
            self._null[row] = bins.bins - 1
            self._unseen[row] = bins.bins - 2
            self._is_level[row] = isinstance(bins, LevelBins)
            ranks = np.arange(len(steps) + 1)
            by_rank = ranks
            if isinstance(bins, LevelBins):  # rank 0 lies below all levels
                by_rank = np.concatenate([[bins.bins - 2], order])
            self._bins[row, : len(steps) + 1] = by_rank
        for table in (self._bins, self._null, self._unseen):
            table += offsets
        self._has_levels = bool(self._is_level.any())

    def count(self, columns: Sequence[Array]) -> NDArray[np.int64]:
        """Flat int64 counts of all features' bins. columns: one array [rows] per feature."""
        rows = len(columns[0]) if columns else 0
        counts = np.zeros(self._total, dtype=np.int64)
        if rows and self._numbers:
            values = np.empty((len(self._numbers), rows))
            for row, k in enumerate(self._numbers):
                values[row] = as_numbers(columns[k])
            counts += np.bincount(self._bin(values).ravel(), minlength=self._total)
        for k, bins, offset in self._texts:
            counts[offset : offset + bins.bins] += bins.count(columns[k])
        return counts

    def _bin(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Place of each value among the bins of all features. values: [numeric features, rows]"""
        if values.shape[1] <= _FEW_ROWS:
            rank = (values[:, :, None] >= self._steps[:, None, :]).sum(axis=2)
        else:
            passed = np.zeros(values.shape, dtype=np.uint16)
            for step in range(self._steps.shape[1]):
                passed += values >= self._steps[:, step : step + 1]
            rank = passed.astype(np.intp)
        rank = np.minimum(rank, self._sizes)  # infinity passes the padding too
        rank += self._rows
        found = self._bins.take(rank)
        if self._has_levels:  # at rank 0 the step before is another feature's; unseen either way
            other = self._is_level & (self._steps.take(rank - 1, mode="clip") != values)
            found = np.where(other, self._unseen, found)
        null = np.isnan(values)
        return np.where(null, self._null, found) if null.any() else found


def as_numbers(column: Array) -> Array:
    """A column as float64; None and text that is no number become NaN."""
    if column.dtype.kind not in "OUS":
        return column
    return np.array([_number(value) for value in column.tolist()], dtype=np.float64)


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, str | bytes | int | float) else float("nan")
    except ValueError:
        return float("nan")


def _is_text(bins: NumericBins | LevelBins) -> bool:
    return isinstance(bins, LevelBins) and bool(bins.levels) and isinstance(bins.levels[0], str)


def _steps(bins: NumericBins | LevelBins) -> list[float]:
    if isinstance(bins, NumericBins):
        return bins.edges
    return [float(level) for level in bins.levels]
