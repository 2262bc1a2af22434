"""Which record stands for a request that was tried more than once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.batches import Batch
from modelfleet.telemetry.dedupe import Deduplicator, Requests, request_keys
from modelfleet.telemetry.predictions import PredictionBuffer


@dataclass(frozen=True)
class Replacements:
    """Later attempts at requests, each in the place of an earlier one that is still held."""

    serials: Sequence[int]
    """of the earlier ones"""
    earlier: Batch
    later: Batch


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

    def distinct(self, batch: Batch) -> tuple[Batch, list[Batch]]:
        """Records of new requests, and further attempts at requests that were taken earlier: first
        the first ones at each request, then the second ones, and so on.

        The new ones must go to `hold` next, in this order: their serials are given out here.
        """
        keys = request_keys(batch)
        known = self._dedupe.known(keys)
        if not known and self._dedupe.remember(keys, self._buffer.next_serial):
            return batch, []
        best: dict[int, int] = {}
        further: list[list[int]] = []
        turns = dict.fromkeys(known, 0)
        for place, key in enumerate(keys):
            if key in known:
                if turns[key] == len(further):
                    further.append([])
                further[turns[key]].append(place)
                turns[key] += 1
            elif (earlier := best.setdefault(key, place)) != place:
                best[key] = self._better(batch, earlier, place)
        self._dedupe.remember(list(best), self._buffer.next_serial)
        return batch.take(list(best.values())), [batch.take(places) for places in further]

    def _better(self, batch: Batch, earlier: int, later: int) -> int:
        """The attempt that stands for both."""
        ids, is_better = batch.prediction_ids, batch.attempt[later] > batch.attempt[earlier]
        worse, better = (earlier, later) if is_better else (later, earlier)
        self._alias(ids[worse], ids[better])
        return better

    def hold(self, batch: Batch, scores: NDArray[np.float64]) -> None:
        self._dedupe.keep(self._buffer.next_serial, batch)
        self._buffer.append(batch, scores)

    def replacements(self, further: Batch) -> Replacements:
        """The held records that further attempts replace, one at each request. Attempts that
        replace nothing become aliases: they are not the latest, or the earlier one is in a Parquet
        file already."""
        serials: list[int] = []
        places: list[int] = []
        for place, key in enumerate(request_keys(further)):
            seen, prediction = self._dedupe.find(key), further.prediction_ids[place]
            if seen is None or seen.prediction_id == prediction:
                continue
            is_held = self._buffer.holds(seen.serial)
            if is_held and further.attempt[place] > seen.attempt:
                serials.append(seen.serial)
                places.append(place)
            else:
                self._alias(prediction, seen.prediction_id, is_held=is_held)
        return Replacements(serials, self._buffer.batch(serials), further.take(places))

    def replace(self, found: Replacements, scores: NDArray[np.float64]) -> None:
        """The later attempts stand for their requests from now on. scores: theirs."""
        if not found.serials:
            return
        self._dedupe.remember(request_keys(found.later), self._buffer.next_serial)
        self.hold(found.later, scores)
        self._buffer.supersede(found.serials)
        ids = zip(found.earlier.prediction_ids, found.later.prediction_ids, strict=True)
        for earlier, later in ids:
            self._alias(earlier, later)

    def _alias(self, alias: bytes, prediction: bytes, *, is_held: bool = True) -> None:
        """`prediction` stands for `alias` and for what that stood for."""
        self._aliases.append((alias, prediction, time.time_ns() // 1000))
        if is_held:
            self._buffer.add_alias(alias, prediction)

    def save(self, connection: sqlite3.Connection) -> None:
        """Write new aliases; part of the collector's transaction."""
        connection.executemany("INSERT OR REPLACE INTO alias VALUES (?, ?, ?)", self._aliases)
        self._aliases = []
