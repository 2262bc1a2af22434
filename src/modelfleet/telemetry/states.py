"""The one additive state of all evidence: what happened to one version in one stretch of time.

Windows, judge ticks and totals are the same `State` over different stretches; windows also count
features. Counts are int64 and merging is addition, so that any split of the records over batches,
restarts and windows gives the same result.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.latency import BUCKETS

Counts = NDArray[np.int64]


@dataclass(slots=True)
class State:
    """Counts of one version. `sizes`: bins of each feature, then of the score (0 = not counted).

    counts: latency buckets of answered requests (status 200), the features' bins one after the
    other, the score's bins: flat, so that a merge is one addition.
    """

    sizes: tuple[int, ...]
    counts: Counts
    requests: int = 0
    rows: int = 0
    """Rows of answered requests: what features and score of a window count."""
    errors: int = 0
    """Requests with a status of 500 or more."""
    codes: dict[int, int] = field(default_factory=dict)
    scored: int = 0
    score_sum: float = 0.0
    score_squares: float = 0.0

    @classmethod
    def empty(cls, sizes: tuple[int, ...] = (0,)) -> State:
        return cls(sizes, np.zeros(BUCKETS + sum(sizes), dtype=np.int64))

    @property
    def latency(self) -> Counts:
        return self.counts[:BUCKETS]

    @property
    def features(self) -> list[Counts]:
        """One array of counts per feature."""
        places = np.cumsum((BUCKETS, *self.sizes[:-1]))
        return [self.counts[a:b] for a, b in pairwise(places)]

    @property
    def feature_counts(self) -> Counts:
        """All features' bins, flat."""
        return self.counts[BUCKETS : len(self.counts) - self.sizes[-1]]

    @property
    def score(self) -> Counts:
        return self.counts[len(self.counts) - self.sizes[-1] :]

    def merge(self, other: State) -> None:
        """Add `other` to this state. ValueError if it counts other bins."""
        if other.sizes != self.sizes:
            raise ValueError(f"states with bins {self.sizes} and {other.sizes} can't be merged")
        self.counts[BUCKETS:] += other.counts[BUCKETS:]
        self.add_operations(other)

    def add_operations(self, other: State) -> None:
        """Add all but the bins of features and score."""
        self.counts[:BUCKETS] += other.counts[:BUCKETS]
        self.requests += other.requests
        self.rows += other.rows
        self.errors += other.errors
        self.scored += other.scored
        self.score_sum += other.score_sum
        self.score_squares += other.score_squares
        for code, count in other.codes.items():
            self.codes[code] = self.codes.get(code, 0) + count

    def negated(self) -> State:
        """What undoes this state when merged."""
        return State(
            self.sizes,
            -self.counts,
            -self.requests,
            -self.rows,
            -self.errors,
            {code: -count for code, count in self.codes.items()},
            -self.scored,
            -self.score_sum,
            -self.score_squares,
        )

    def encode(self) -> bytes:
        wire = _Wire(
            self.sizes,
            self.counts.tobytes(),
            self.requests,
            self.rows,
            self.errors,
            {code: count for code, count in self.codes.items() if count},
            self.scored,
            self.score_sum,
            self.score_squares,
        )
        return zlib.compress(_encode(wire), 1)

    @classmethod
    def decode(cls, blob: bytes) -> State:
        wire = _decode(zlib.decompress(blob))
        return cls(
            wire.sizes,
            np.frombuffer(wire.counts, dtype=np.int64).copy(),
            wire.requests,
            wire.rows,
            wire.errors,
            wire.codes,
            wire.scored,
            wire.score_sum,
            wire.score_squares,
        )


class _Wire(msgspec.Struct, array_like=True):
    sizes: tuple[int, ...]
    counts: bytes
    requests: int
    rows: int
    errors: int
    codes: dict[int, int]
    scored: int
    score_sum: float
    score_squares: float


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Wire).decode
