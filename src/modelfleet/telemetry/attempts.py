"""Which record stands for a request that was tried more than once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.batches import Batch
from modelfleet.telemetry.dedupe import Deduplicator, Requests, request_keys
from modelfleet.telemetry.predictions import PredictionBuffer
from modelfleet_worker.wire.segment import Record


class Attempts:
    """The way of records into the buffer: each request once, other attempts as its aliases."""

    def __init__(self, buffer: PredictionBuffer) -> None:
        self._buffer = buffer
        self._dedupe = Deduplicator()
        self._aliases: list[tuple[bytes, bytes, int]] = []

    def forget(self) -> None:
        self._dedupe.forget(time.monotonic())

    def remember_sealed(self, files: Iterable[Requests]) -> None:
        """Requests of recent Parquet files."""
        for requests in files:
            serial = self._buffer.skip(len(requests.request_ids))
            self._dedupe.remember(request_keys(requests), serial)
            self._dedupe.keep(serial, requests)

    def distinct(self, batch: Batch) -> tuple[Batch, list[Record]]:
        """Records of new requests, and further attempts at requests that were taken earlier.

        The new ones must go to `hold` next, in this order: their serials are given out here.
        """
        keys = request_keys(batch)
        known = self._dedupe.known(keys)
        if not known and self._dedupe.remember(keys, self._buffer.next_serial):
            return batch, []
        fresh: dict[int, int] = {}
        further: list[Record] = []
        for place, key in enumerate(keys):
            earlier = fresh.setdefault(key, place)
            if key in known:
                further.append(batch.record(place))
            elif earlier != place:
                fresh[key] = self._better(batch, earlier, place)
        for key in known:
            del fresh[key]
        self._dedupe.remember(list(fresh), self._buffer.next_serial)
        return batch.take(list(fresh.values())), further

    def _better(self, batch: Batch, earlier: int, later: int) -> int:
        """Which of two new attempts stands for the other."""
        if batch.attempt[later] > batch.attempt[earlier]:
            old, new = batch.prediction_ids[earlier], batch.prediction_ids[later]
            self._buffer.move_aliases(old, new)
            self._alias(old, new)
            return later
        old, new = batch.prediction_ids[later], batch.prediction_ids[earlier]
        self._buffer.add_alias(old, new)
        self._alias(old, new)
        return earlier

    def hold(self, batch: Batch, scores: NDArray[np.float64]) -> None:
        self._dedupe.keep(self._buffer.next_serial, batch)
        self._buffer.append(batch, scores)

    def superseded_by(self, record: Record) -> Record | None:
        """The held record that this further attempt replaces. None if it replaces nothing:
        it is not the latest, or the earlier one is in a Parquet file already."""
        (key,) = request_keys(Batch.of([record]))
        seen = self._dedupe.find(key)
        if seen is None or record.attempt <= seen.attempt or not self._buffer.holds(seen.serial):
            return None
        return self._buffer.record(seen.serial)

    def supersede(self, record: Record, score: float) -> None:
        """`record` stands for its request from now on."""
        batch = Batch.of([record])
        keys = request_keys(batch)
        seen = self._dedupe.find(keys[0])
        self._dedupe.remember(keys, self._buffer.next_serial)
        self.hold(batch, np.array([score]))
        if seen is not None:
            self._buffer.supersede(seen.serial, seen.prediction_id, record.prediction_id)
            self._alias(seen.prediction_id, record.prediction_id)

    def discard(self, record: Record) -> None:
        """The attempt seen before stands for this one too."""
        (key,) = request_keys(Batch.of([record]))
        seen = self._dedupe.find(key)
        if seen is None or seen.prediction_id == record.prediction_id:
            return
        self._alias(record.prediction_id, seen.prediction_id)
        if self._buffer.holds(seen.serial):
            self._buffer.add_alias(record.prediction_id, seen.prediction_id)

    def _alias(self, alias: bytes, prediction: bytes) -> None:
        self._aliases.append((alias, prediction, time.time_ns() // 1000))

    def save(self, connection: sqlite3.Connection) -> None:
        """Write new aliases; part of the collector's transaction."""
        connection.executemany("INSERT OR REPLACE INTO alias VALUES (?, ?, ?)", self._aliases)
        self._aliases = []
