"""How long a batch takes: a fixed part and a part for each row, learnt from the batches that ran.

A straight line by least squares in which older batches count less and less. While all batches have
the same size, nothing is known about rows: then a batch takes as long as it took.
"""

from __future__ import annotations

_MEMORY = 0.95
_SPREAD = 1e-3
"""Least variance of the sizes, in rows squared, from which a slope is read."""


class Pace:
    """seconds: what a batch of one row is thought to take before any ran."""

    def __init__(self, seconds: float) -> None:
        self._weight = 1.0
        self._rows = 1.0
        self._seconds = seconds
        self._variance = 0.0
        self._covariance = 0.0
        self.fixed = seconds
        self.each = 0.0

    def learn(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long."""
        self._weight = _MEMORY * self._weight + 1.0
        share = 1.0 / self._weight
        more_rows, more_seconds = rows - self._rows, seconds - self._seconds
        self._rows += share * more_rows
        self._seconds += share * more_seconds
        keep = 1.0 - share
        self._variance = keep * (self._variance + share * more_rows * more_rows)
        self._covariance = keep * (self._covariance + share * more_rows * more_seconds)
        self.each = 0.0
        if self._variance > _SPREAD:
            most = self._seconds / self._rows  # else the fixed part would be negative
            self.each = min(max(self._covariance / self._variance, 0.0), most)
        self.fixed = self._seconds - self.each * self._rows

    def takes(self, rows: int, batches: int = 1) -> float:
        """Seconds for so many rows in so many batches."""
        return batches * self.fixed + rows * self.each

    def fits(self, seconds: float) -> int:
        """How many rows a batch may have to take at most so long; at least one."""
        if self.each <= 0.0:
            return 1 << 30
        return max(1, int((seconds - self.fixed) / self.each))
