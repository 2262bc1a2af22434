"""Predictions on their way into Parquet: held as Arrow batches, sealed by size or time.

A file counts only once evidence.db knows it: `seal` writes files, the collector then commits
their rows together with the segments' cursors. Files that nobody committed are removed at start.
"""

from __future__ import annotations

import os
import time
import uuid
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.batches import ID_BYTES, Batch
from modelfleet.telemetry.reading import PAUSE_SECONDS
from modelfleet_worker.wire.ids import time_of
from modelfleet_worker.wire.segment import SHADOW, Record

if TYPE_CHECKING:
    import pyarrow as pa

_HOUR_US = 3_600_000_000
_ROW_GROUP = 16_384
_FEW_VALUES = [
    "version_index",
    "endpoint",
    "status",
    "attempt",
    "shadow",
    "caller",
    "client_request_id",
    "trace_id",
    "rows",
    "error",
]
"""Columns for which a dictionary pays: trying one on the others takes longer than writing them."""
_WITHOUT_STATISTICS = {"request_id", "inputs", "outputs"}
"""Columns whose least and greatest value say nothing."""


def schema() -> pa.Schema:
    """Columns of a prediction file. Tensors are raw bytes in the order of the signature."""
    import pyarrow as pa

    return pa.schema(
        [
            ("prediction_id", pa.binary(16)),
            ("request_id", pa.string()),
            ("version_index", pa.uint32()),
            ("endpoint", pa.string()),
            ("time", pa.timestamp("us", tz="UTC")),
            ("latency_ns", pa.int64()),
            ("status", pa.int16()),
            ("attempt", pa.int16()),
            ("shadow", pa.bool_()),
            ("caller", pa.string()),
            ("client_request_id", pa.string()),
            ("trace_id", pa.binary()),
            ("rows", pa.int32()),
            ("inputs", pa.list_(pa.binary())),
            ("outputs", pa.list_(pa.binary())),
            ("score", pa.float64()),
            ("error", pa.string()),
            ("aliases", pa.list_(pa.binary(16))),
        ]
    )


def _held_schema(sealed: pa.Schema) -> pa.Schema:
    """Keys are needed as long as another attempt may come; aliases are known in the end."""
    import pyarrow as pa

    return sealed.remove(sealed.get_field_index("aliases")).append(pa.field("key", pa.string()))


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
        self._held = _held_schema(self._schema)
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
        import pyarrow as pa

        if not len(batch):
            return
        columns = [
            pa.array(column, field.type, from_pandas=field.name == "score")
            for column, field in zip(_columns(batch, scores), list(self._held)[1:], strict=True)
        ]
        kind, buffers = pa.binary(ID_BYTES), [None, pa.py_buffer(batch.ids)]
        ids = pa.Array.from_buffers(kind, len(batch), buffers)
        data = pa.RecordBatch.from_arrays([ids, *columns], schema=self._held)
        self._batches.append(_Batch(self.next_serial, *batch.span_ms(), data))
        self.next_serial += len(batch)
        self.bytes += data.get_total_buffer_size()

    def skip(self, count: int) -> int:
        """Give serials to records that were sealed already; returns the first one's."""
        self.next_serial += count
        return self.next_serial - count

    def holds(self, serial: int) -> bool:
        return bool(self._batches) and serial >= self._batches[0].first_serial

    def supersede(self, serial: int, old: bytes, new: bytes) -> None:
        """Drop a held record; prediction `new` stands for `old` and for what `old` stood for."""
        self._superseded.add(serial)
        self.move_aliases(old, new)

    def move_aliases(self, old: bytes, new: bytes) -> None:
        """Prediction `new` stands for `old` and its aliases."""
        self._aliases[new] = [*self._aliases.pop(old, []), old]

    def add_alias(self, alias: bytes, prediction: bytes) -> None:
        self._aliases.setdefault(prediction, []).append(alias)

    def record(self, serial: int) -> Record:
        """A held record, rebuilt."""
        place = bisect_right([batch.first_serial for batch in self._batches], serial) - 1
        batch = self._batches[place]
        row = batch.data.slice(serial - batch.first_serial, 1)
        values = {name: row.column(name)[0] for name in row.schema.names}
        return Record(
            version=values["version_index"].as_py(),
            prediction_id=values["prediction_id"].as_py(),
            request_id=values["request_id"].as_py(),
            trace_id=values["trace_id"].as_py(),
            time_ns=values["time"].value * 1000,
            latency_ns=values["latency_ns"].as_py(),
            status=values["status"].as_py(),
            attempt=values["attempt"].as_py(),
            flags=SHADOW if values["shadow"].as_py() else 0,
            rows=values["rows"].as_py(),
            inputs=values["inputs"].as_py(),
            outputs=values["outputs"].as_py(),
            caller=values["caller"].as_py(),
            client_request_id=values["client_request_id"].as_py(),
            endpoint=values["endpoint"].as_py(),
            error=values["error"].as_py(),
            key=values["key"].as_py(),
        )

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
            for place in np.flatnonzero(pc.is_in(ids, value_set=wanted)).tolist():
                aliases = self._aliases[ids[place].as_py()]
                lengths[place] = len(aliases)
                found += aliases
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        column = pa.ListArray.from_arrays(offsets, pa.array(found, pa.binary(16)))
        return table.append_column(self._schema.field("aliases"), column)

    def clear(self) -> None:
        """What was held is committed."""
        self._batches, self._superseded, self._aliases, self.bytes = [], set(), {}, 0


def _columns(batch: Batch, scores: NDArray[np.float64]) -> list[object]:
    """All but the prediction ids."""
    return [
        batch.request_ids,
        batch.version,
        batch.endpoints,
        batch.time_ns // 1000,
        batch.latency_ns,
        batch.status,
        batch.attempt,
        (np.array(batch.flags) & SHADOW).astype(np.bool_),
        batch.callers,
        batch.client_request_ids,
        batch.trace_ids,
        batch.rows,
        batch.inputs,
        batch.outputs,
        scores,
        batch.errors,
        batch.keys,
    ]


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
        use_dictionary=_FEW_VALUES,
        write_statistics=[one for one in table.column_names if one not in _WITHOUT_STATISTICS],
    ) as writer:
        for start in range(0, table.num_rows, _ROW_GROUP):
            if start:
                time.sleep(PAUSE_SECONDS)
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
