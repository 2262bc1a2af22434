"""Which record stands for a request that was tried more than once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.dedupe import Deduplicator, Seen
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

    def remember_sealed(self, requests: Iterable[tuple[str, int, int, Seen]]) -> None:
        """Requests of recent Parquet files: (request id, version, flags, record)."""
        for request_id, version, flags, seen in requests:
            self._dedupe.remember_key(request_id, version, flags, seen)

    def distinct(self, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        """Records of new requests, and further attempts at requests that were taken earlier.

        The new ones must go to `hold` next, in this order: their serials are given out here.
        """
        fresh: dict[int, Record] = {}
        further: list[Record] = []
        serial = self._buffer.next_serial
        for record in records:
            seen = self._dedupe.find(record)
            if seen is None:
                self._dedupe.remember(record, serial)
                fresh[serial] = record
                serial += 1
            elif seen.serial not in fresh:
                further.append(record)
            elif record.attempt > seen.attempt:
                fresh[seen.serial] = record
                self._dedupe.remember(record, seen.serial)
                self._buffer.move_aliases(seen.prediction_id, record.prediction_id)
                self._alias(seen.prediction_id, record.prediction_id)
            else:
                self._buffer.add_alias(record.prediction_id, seen.prediction_id)
                self._alias(record.prediction_id, seen.prediction_id)
        return list(fresh.values()), further

    def hold(self, records: Sequence[Record], scores: NDArray[np.float64]) -> None:
        self._buffer.append(records, scores)

    def superseded_by(self, record: Record) -> Record | None:
        """The held record that this further attempt replaces. None if it replaces nothing:
        it is not the latest, or the earlier one is in a Parquet file already."""
        seen = self._dedupe.find(record)
        if seen is None or record.attempt <= seen.attempt or not self._buffer.holds(seen.serial):
            return None
        return self._buffer.record(seen.serial)

    def supersede(self, record: Record, score: float) -> None:
        """`record` stands for its request from now on."""
        seen = self._dedupe.find(record)
        self._dedupe.remember(record, self._buffer.next_serial)
        self._buffer.append([record], np.array([score]))
        if seen is not None:
            self._buffer.supersede(seen.serial, seen.prediction_id, record.prediction_id)
            self._alias(seen.prediction_id, record.prediction_id)

    def discard(self, record: Record) -> None:
        """The attempt seen before stands for this one too."""
        seen = self._dedupe.find(record)
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
