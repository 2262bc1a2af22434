"""Turns kept tensors back into named values, for people who look at single predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from modelfleet.telemetry.recent import decode_recent
from modelfleet.telemetry.views import PredictionView
from modelfleet_worker.wire import ids, spec, tensors
from modelfleet_worker.wire.bundle import BundleCorrupt
from modelfleet_worker.wire.signature import Array, Signature, TensorSpec

_COLUMNS = [
    "prediction_id",
    "time",
    "latency_ns",
    "status",
    "attempt",
    "shadow",
    "rows",
    "score",
    "inputs",
    "outputs",
    "caller",
    "request_id",
    "error",
]


def recent_views(blob: bytes, bundle: str) -> list[PredictionView]:
    """Views of a row of the table `recent`, newest first."""
    signature = _signature(bundle)
    return [
        PredictionView(
            ids.format_id(one.prediction_id),
            one.time_us,
            one.latency_ns / 1000,
            one.status,
            one.attempt,
            one.shadow,
            one.rows,
            one.score,
            first_row_of_inputs(signature, one.inputs, one.rows),
            first_row_of_outputs(signature, one.outputs, one.rows),
            one.caller,
            one.request_id,
            one.error,
        )
        for one in reversed(decode_recent(blob))
    ]


def sealed_views(
    paths: Sequence[Path], version_index: int, bundle: str, limit: int
) -> Iterator[PredictionView]:
    """Up to `limit` views from files, in the files' order and newest first within each."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    signature = _signature(bundle) if paths else None
    for path in paths:
        if limit <= 0:
            return
        try:
            table = pq.read_table(
                path,
                columns=_COLUMNS,
                filters=[("version_index", "=", version_index)],
                partitioning=None,
            )
        except FileNotFoundError:
            continue
        table = table.sort_by([("time", "descending")]).slice(0, limit)
        limit -= table.num_rows
        times = pc.cast(table.column("time"), pa.int64()).to_pylist()
        for row, time_us in zip(table.drop_columns(["time"]).to_pylist(), times, strict=True):
            yield _sealed_view(row, time_us, signature)


def _sealed_view(
    row: Mapping[str, object], time_us: int, signature: Signature | None
) -> PredictionView:
    one = msgspec.convert(dict(row), _SealedRow)
    return PredictionView(
        ids.format_id(one.prediction_id),
        time_us,
        one.latency_ns / 1000,
        one.status,
        one.attempt,
        one.shadow,
        one.rows,
        float("nan") if one.score is None else one.score,
        first_row_of_inputs(signature, one.inputs, one.rows),
        first_row_of_outputs(signature, one.outputs, one.rows),
        one.caller,
        one.request_id,
        one.error,
    )


class _SealedRow(msgspec.Struct):
    prediction_id: bytes
    latency_ns: int
    status: int
    attempt: int
    shadow: bool
    rows: int
    score: float | None
    inputs: list[bytes]
    outputs: list[bytes]
    caller: str
    request_id: str
    error: str


def first_row_of_inputs(
    signature: Signature | None, raws: Sequence[bytes], rows: int
) -> dict[str, object]:
    """The first row's features by name; empty if the bytes can't be read."""
    if signature is None or len(raws) != len(signature.inputs) or rows < 1:
        return {}
    inputs = _unpack(signature.inputs, raws, rows)
    columns = signature.columns(inputs) if inputs else []
    names = signature.feature_names()
    return {name: _plain(column[0]) for name, column in zip(names, columns, strict=False)}


def first_row_of_outputs(
    signature: Signature | None, raws: Sequence[bytes], rows: int
) -> dict[str, object]:
    """The first row of each output by name; empty if the bytes can't be read."""
    if signature is None or len(raws) != len(signature.outputs) or rows < 1:
        return {}
    outputs = _unpack(signature.outputs, raws, rows)
    return {
        tensor.name: _plain(output[0])
        for tensor, output in zip(signature.outputs, outputs, strict=False)
    }


def _unpack(specs: Sequence[TensorSpec], raws: Sequence[bytes], rows: int) -> list[Array]:
    try:
        return [tensors.unpack(tensor, raw, rows) for tensor, raw in zip(specs, raws, strict=True)]
    except (ValueError, msgspec.DecodeError):
        return []


def _plain(value: object) -> object:
    """Something that JSON can hold."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _signature(bundle: str) -> Signature | None:
    if not bundle:
        return None
    try:
        return spec.read_spec(Path(bundle)).signature
    except (BundleCorrupt, ValueError):
        return None
