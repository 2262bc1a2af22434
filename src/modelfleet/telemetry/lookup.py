"""Finds predictions by id: held ones first, then the Parquet files whose time fits.

An id is a UUIDv7, so it says when the prediction was made and which files can hold it.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modelfleet.core.layout import Layout
from modelfleet.telemetry.database import open_reader
from modelfleet.telemetry.predictions import PredictionBuffer
from modelfleet_worker.wire.ids import time_of
from modelfleet_worker.wire.segment import SHADOW

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ["prediction_id", "version_index", "time", "score", "rows"]
_REQUESTS = ["request_id", "version_index", "shadow", "prediction_id", "attempt", "status"]
_CACHED_FILES = 8
_CHUNK = 500
_ALIAS_STEPS = 5
_CANDIDATES = (
    "SELECT path, first_ms, last_ms FROM file "
    "WHERE kind = 'predictions' AND last_ms >= ? AND first_ms <= ?"
)


@dataclass(frozen=True)
class Found:
    """What an outcome needs of its prediction. `outputs` only where asked for."""

    prediction_id: bytes
    version: int
    time_us: int
    score: float | None
    rows: int
    outputs: list[bytes] | None = None


@dataclass(frozen=True)
class SealedRequests:
    """Records of a file by column, as the deduplicator looks at them."""

    request_ids: Sequence[str]
    versions: Sequence[int]
    flags: Sequence[int]
    status: NDArray[np.int64]
    attempt: NDArray[np.int64]
    prediction_ids: Sequence[bytes]

    @property
    def ids(self) -> bytes:
        return b"".join(self.prediction_ids)


class PredictionLookup:
    def __init__(
        self, connection: sqlite3.Connection, evidence: Path, buffer: PredictionBuffer
    ) -> None:
        self._connection = connection
        self._evidence = evidence
        self._buffer = buffer
        self._files: OrderedDict[str, pa.Table] = OrderedDict()

    def find(self, ids: Collection[bytes], batched: Collection[bytes]) -> dict[bytes, Found]:
        """Predictions by the id that was asked for, be it an alias. `batched` get outputs."""
        stands_for = self._aliases(ids)
        wanted = {stands_for.get(one, one) for one in ids}
        with_outputs = {stands_for.get(one, one) for one in batched}
        found = self._find(wanted - with_outputs, _COLUMNS)
        found |= self._find(with_outputs, [*_COLUMNS, "outputs"])
        return {
            one: found[stands_for.get(one, one)] for one in ids if stands_for.get(one, one) in found
        }

    def _aliases(self, ids: Collection[bytes]) -> Mapping[bytes, bytes]:
        """Prediction by alias; an alias of an alias is followed to its end."""
        resolved = {one: one for one in ids}
        for _ in range(_ALIAS_STEPS):
            step = dict(self._alias_rows(set(resolved.values())))
            if not step:
                break
            resolved = {one: step.get(now, now) for one, now in resolved.items()}
        return {one: now for one, now in resolved.items() if now != one}

    def _alias_rows(self, ids: Collection[bytes]) -> Iterator[tuple[bytes, bytes]]:
        everything = list(ids)
        for start in range(0, len(everything), _CHUNK):
            chunk = everything[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            yield from self._connection.execute(
                f"SELECT alias, prediction FROM alias WHERE alias IN ({marks})", chunk
            )

    def _find(self, ids: set[bytes], columns: list[str]) -> dict[bytes, Found]:
        if not ids:
            return {}
        ordered = sorted(ids)
        first, last = time_of(ordered[0]), time_of(ordered[-1])
        found = _matching(self._buffer.between(first, last).select(columns), ordered)
        missing = [one for one in ordered if one not in found]
        times = [time_of(one) for one in missing]
        for path, first_ms, last_ms in self._candidates(first, last):
            part = missing[bisect_left(times, first_ms) : bisect_right(times, last_ms)]
            if part:
                found |= _matching(self._table(path, columns), part)
        return found

    def _candidates(self, first: int, last: int) -> list[tuple[str, int, int]]:
        return self._connection.execute(_CANDIDATES, (first, last)).fetchall()

    def _table(self, path: str, columns: list[str]) -> pa.Table:
        """Columns of a file. Without outputs it is kept for the next outcomes of its minute."""
        import pyarrow.parquet as pq

        if columns != _COLUMNS:
            return pq.read_table(self._evidence / path, columns=columns, partitioning=None)
        table = self._files.get(path)
        if table is None:
            table = pq.read_table(self._evidence / path, columns=columns, partitioning=None)
            self._files[path] = table
            if len(self._files) > _CACHED_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(path)
        return table

    def recent_requests(self, since_ms: int) -> Iterator[SealedRequests]:
        """Sealed requests since then, by file."""
        import pyarrow.parquet as pq

        for path, _, _ in self._candidates(since_ms, 1 << 48):
            table = pq.read_table(self._evidence / path, columns=_REQUESTS, partitioning=None)
            ids, versions, shadows, predictions = (
                table.column(name).to_pylist() for name in _REQUESTS[:4]
            )
            attempts, statuses = (
                np.asarray(table.column(name), np.int64) for name in _REQUESTS[4:]
            )
            flags = [SHADOW if shadow else 0 for shadow in shadows]
            yield SealedRequests(ids, versions, flags, statuses, attempts, predictions)


def sealed_ids(layout: Layout, ids: Collection[bytes]) -> set[bytes]:
    """Those of these predictions that stand in a committed Parquet file. For other processes than
    the collector."""
    import pyarrow.parquet as pq

    connection = open_reader(layout.evidence_database) if ids else None
    if connection is None:
        return set()
    with closing(connection):
        files = connection.execute(
            _CANDIDATES, (min(map(time_of, ids)), max(map(time_of, ids)))
        ).fetchall()
    found: set[bytes] = set()
    for path, _, _ in files:
        place = layout.predictions.parent / path
        table = pq.read_table(place, columns=["prediction_id"], partitioning=None)
        found.update(set(table.column(0).to_pylist()) & set(ids))
    return found


def _matching(table: pa.Table, ids: list[bytes]) -> dict[bytes, Found]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if table.num_rows == 0:
        return {}
    wanted = pa.array(ids, pa.binary(16))
    rows = table.filter(pc.is_in(table.column("prediction_id"), value_set=wanted))
    times = pc.cast(rows.column("time"), pa.int64()).to_pylist()
    outputs = (
        rows.column("outputs").to_pylist()
        if "outputs" in rows.column_names
        else [None] * rows.num_rows
    )
    values = (rows.column(name).to_pylist() for name in ("version_index", "score", "rows"))
    return {
        one: Found(one, version, time, score, count, raw)
        for one, version, score, count, time, raw in zip(
            rows.column("prediction_id").to_pylist(), *values, times, outputs, strict=True
        )
    }
