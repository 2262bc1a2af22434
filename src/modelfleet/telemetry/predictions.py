"""Predictions on their way into Parquet: held as Arrow batches, sealed by size or time.

A file counts only once evidence.db knows it: `seal` writes files, the collector then commits
their rows together with the segments' cursors. Files that nobody committed are removed at start.
"""

from __future__ import annotations

import os
import time
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.batches import Batch, Row
from modelfleet.telemetry.columns import (
    FEW_VALUES,
    WITHOUT_STATISTICS,
    held_schema,
    schema,
    to_arrow,
    to_rows,
)
from modelfleet_worker.wire.ids import time_of

if TYPE_CHECKING:
    import pyarrow as pa

_HOUR_US = 3_600_000_000
_ROW_GROUP = 16_384
_PAUSE_SECONDS = 0.003
"""Between two row groups: half a second without would be felt by those who answer requests on the
same cores."""


@dataclass(frozen=True)
class SealedFile:
    """A written file, not yet committed. Times in milliseconds, of the prediction ids."""

    path: Path
    rows: int
    bytes: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True)
class _Batch:
    first_serial: int
    first_ms: int
    last_ms: int
    data: pa.RecordBatch


class PredictionBuffer:
    """Records that were counted but not yet sealed. Serials number them since the start."""

    def __init__(self) -> None:
        self._schema = schema()
        self._held = held_schema(self._schema)
        self._batches: list[_Batch] = []
        self._superseded: set[int] = set()
        self._aliases: dict[bytes, list[bytes]] = {}
        self.next_serial = 0
        self.bytes = 0

    @property
    def rows(self) -> int:
        return sum(batch.data.num_rows for batch in self._batches)

    def append(self, batch: Batch, scores: NDArray[np.float64]) -> None:
        """Take records over; the first gets the serial `next_serial`."""
        if not len(batch):
            return
        data = to_arrow(batch, scores, self._held)
        self._batches.append(_Batch(self.next_serial, *batch.span_ms(), data))
        self.next_serial += len(batch)
        self.bytes += data.get_total_buffer_size()

    def skip(self, count: int) -> int:
        """Give serials to records that were sealed already; returns the first one's."""
        self.next_serial += count
        return self.next_serial - count

    def holds(self, serial: int) -> bool:
        return bool(self._batches) and serial >= self._batches[0].first_serial

    def supersede(self, serials: Iterable[int]) -> None:
        """Drop held records."""
        self._superseded.update(serials)

    def add_alias(self, alias: bytes, prediction: bytes) -> None:
        """`prediction` stands for `alias` and for what that stood for."""
        known = self._aliases.setdefault(prediction, [])
        known += [*self._aliases.pop(alias, []), alias]

    def batch(self, serials: Sequence[int]) -> Batch:
        """Held records, rebuilt, in the order of these serials."""
        import pyarrow as pa

        firsts = [batch.first_serial for batch in self._batches]
        rows: dict[int, Row] = {}
        for number, some in groupby(sorted(serials), lambda serial: bisect_right(firsts, serial)):
            held, wanted = self._batches[number - 1], list(some)
            data = held.data.take(pa.array(np.array(wanted) - held.first_serial))
            rows.update(zip(wanted, to_rows(data), strict=True))
        return Batch([rows[serial] for serial in serials])

    def between(self, first_ms: int, last_ms: int) -> pa.Table:
        """Held predictions whose ids were made in this time, superseded ones included."""
        import pyarrow as pa

        found = [b.data for b in self._batches if b.first_ms <= last_ms and b.last_ms >= first_ms]
        return pa.Table.from_batches(found, schema=self._held)

    def seal(self, folder: Path) -> list[SealedFile]:
        """Write everything held to Parquet, a file per hour. Nothing is forgotten: see `clear`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self._batches:
            return []
        table = pa.Table.from_batches([batch.data for batch in self._batches], self._held)
        table = self._with_aliases(table.drop_columns(["key"]))
        if self._superseded:
            serials = np.concatenate(
                [b.first_serial + np.arange(b.data.num_rows) for b in self._batches]
            )
            keep = ~np.isin(serials, np.fromiter(self._superseded, np.int64))
            table = table.filter(pa.array(keep))
        versions = np.asarray(table.column("version_index"))
        times = np.asarray(pc.cast(table.column("time"), pa.int64()))
        order = np.lexsort((times, versions))
        hours = times[order] // _HOUR_US
        return [
            _write(table.take(pa.array(order[hours == hour])), folder, hour)
            for hour in np.unique(hours).tolist()
        ]

    def _with_aliases(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        ids = table.column("prediction_id")
        lengths = np.zeros(len(ids), dtype=np.int32)
        found: list[bytes] = []
        if self._aliases:
            wanted = pa.array(self._aliases, pa.binary(16))
            places = np.flatnonzero(pc.is_in(ids, value_set=wanted))
            aliases = [self._aliases[one] for one in ids.take(pa.array(places)).to_pylist()]
            lengths[places] = [len(some) for some in aliases]
            found = list(chain.from_iterable(aliases))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        column = pa.ListArray.from_arrays(offsets, pa.array(found, pa.binary(16)))
        return table.append_column(self._schema.field("aliases"), column)

    def clear(self) -> None:
        """What was held is committed."""
        self._batches, self._superseded, self._aliases, self.bytes = [], set(), {}, 0


def _write(table: pa.Table, folder: Path, hour: int) -> SealedFile:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    moment = np.datetime64(hour, "h")
    target = folder / f"day={str(moment)[:10]}" / f"hour={hour % 24:02d}"
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{uuid.uuid4().hex}.parquet"
    with pq.ParquetWriter(
        path,
        table.schema,
        compression="zstd",
        use_dictionary=FEW_VALUES,
        write_statistics=[one for one in table.column_names if one not in WITHOUT_STATISTICS],
    ) as writer:
        for start in range(0, table.num_rows, _ROW_GROUP):
            if start:
                time.sleep(_PAUSE_SECONDS)
            writer.write_table(table.slice(start, _ROW_GROUP))
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
    ids = pc.min_max(table.column("prediction_id"))
    first, last = time_of(ids["min"].as_py()), time_of(ids["max"].as_py())
    return SealedFile(path, table.num_rows, path.stat().st_size, first, last)


def remove_uncommitted(folder: Path, committed: set[str]) -> int:
    """Delete Parquet files that a killed collector wrote but did not commit."""
    strays = [path for path in folder.glob("day=*/**/*.parquet") if str(path) not in committed]
    for path in strays:
        path.unlink()
    return len(strays)
