"""The last few predictions of each version, for people who look at a model just now.

Parquet files are a minute behind; this small table is seconds behind.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.batches import Batch, Row, groups
from modelfleet_worker.wire.segment import SHADOW, Record

KEPT = 10
_SAVE_SECONDS = 3.0
_MAX_TENSOR_BYTES = 2048


class RecentPrediction(msgspec.Struct, frozen=True, array_like=True):
    """A prediction as kept here. Large tensors are left out (empty lists)."""

    prediction_id: bytes
    time_us: int
    latency_ns: int
    status: int
    attempt: int
    shadow: bool
    rows: int
    score: float
    inputs: list[bytes]
    outputs: list[bytes]
    caller: str
    request_id: str
    error: str


_encode = msgspec.msgpack.Encoder().encode
decode_recent = msgspec.msgpack.Decoder(list[RecentPrediction]).decode


class Recent:
    def __init__(self) -> None:
        self._last: dict[int, deque[tuple[Row, float]]] = {}
        self._changed: set[int] = set()
        self._saved_at: dict[int, float] = {}

    def add(self, batch: Batch, scores: NDArray[np.float64]) -> None:
        for places in groups(np.flatnonzero(batch.served()), batch.version):
            newest = places[-KEPT:].tolist()
            version = batch.versions[newest[0]]
            last = self._last.setdefault(version, deque(maxlen=KEPT))
            last.extend((batch.row(place), float(scores[place])) for place in newest)
            self._changed.add(version)

    def save(self, connection: sqlite3.Connection) -> None:
        """Write versions that changed and were not written just before."""
        now = time.monotonic()
        due = [v for v in self._changed if now - self._saved_at.get(v, 0.0) >= _SAVE_SECONDS]
        connection.executemany(
            "INSERT OR REPLACE INTO recent (version_index, predictions) VALUES (?, ?)",
            [(version, _encode([_of(*one) for one in self._last[version]])) for version in due],
        )
        self._changed.difference_update(due)
        self._saved_at.update(dict.fromkeys(due, now))


def _of(row: Row, score: float) -> RecentPrediction:
    record = Record(*row)
    small = sum(map(len, record.inputs)) + sum(map(len, record.outputs)) <= _MAX_TENSOR_BYTES
    return RecentPrediction(
        record.prediction_id,
        record.time_ns // 1000,
        record.latency_ns,
        record.status,
        record.attempt,
        bool(record.flags & SHADOW),
        record.rows,
        score,
        record.inputs if small else [],
        record.outputs if small else [],
        record.caller,
        record.request_id,
        record.error,
    )
