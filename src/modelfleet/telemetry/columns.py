"""A prediction file's columns: records become Arrow arrays, and records again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.batches import ID_BYTES, Batch, Row
from modelfleet_worker.wire.segment import SHADOW

if TYPE_CHECKING:
    import pyarrow as pa

FEW_VALUES = [
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
WITHOUT_STATISTICS = {"request_id", "inputs", "outputs"}
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


def held_schema(sealed: pa.Schema) -> pa.Schema:
    """Keys are needed as long as another attempt may come; aliases are known in the end."""
    import pyarrow as pa

    return sealed.remove(sealed.get_field_index("aliases")).append(pa.field("key", pa.string()))


def to_arrow(batch: Batch, scores: NDArray[np.float64], held: pa.Schema) -> pa.RecordBatch:
    """The records in the columns of `held_schema`."""
    import pyarrow as pa

    kind, buffers = pa.binary(ID_BYTES), [None, pa.py_buffer(batch.ids)]
    ids = pa.Array.from_buffers(kind, len(batch), buffers)
    others = [
        pa.array(column, field.type, from_pandas=field.name == "score")
        for column, field in zip(_columns(batch, scores), list(held)[1:], strict=True)
    ]
    return pa.RecordBatch.from_arrays([ids, *others], schema=held)


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


def to_rows(data: pa.RecordBatch) -> Iterator[Row]:
    """The records of a batch that `to_arrow` made. Times are whole microseconds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def column(name: str) -> list[Any]:
        values: list[Any] = data.column(name).to_pylist()
        return values

    times: list[int] = pc.cast(data.column("time"), pa.int64()).to_pylist()
    return zip(
        column("version_index"),
        column("prediction_id"),
        column("request_id"),
        column("trace_id"),
        [time_us * 1000 for time_us in times],
        column("latency_ns"),
        column("status"),
        column("attempt"),
        [SHADOW if shadow else 0 for shadow in column("shadow")],
        column("rows"),
        column("inputs"),
        column("outputs"),
        column("caller"),
        column("client_request_id"),
        column("endpoint"),
        column("error"),
        column("key"),
        strict=True,
    )
