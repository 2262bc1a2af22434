"""Where predictions are written: a part for each chunk, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelfleet.batch import delta
from modelfleet.batch.records import Piece
from modelfleet.batch.types import Format
from modelfleet.core.errors import InvalidInput, Unavailable
from modelfleet_worker.wire.ids import format_id
from modelfleet_worker.wire.signature import Array, Signature

if TYPE_CHECKING:
    import pyarrow as pa

ID, VERSION, ROW = "prediction_id", "model_version", "row"
_FLAT = 64
"""outputs with up to so many values per row get a column for each"""


class Sink:
    """Writes the parts of one run."""

    def __init__(self, folder: Path, kind: Format, run: str) -> None:
        self._folder = folder
        self._kind = kind
        self._run = run
        if kind == "delta":
            delta.check()

    def write(self, chunk: int, rows: pa.Table) -> None:
        """Add the rows of a chunk; doing it again changes nothing."""
        if rows.num_rows == 0:
            return
        if self._kind == "delta":
            delta.append(self._folder, self._run, chunk, rows)
        else:
            _write(self._folder / f"part-{chunk:06}.{self._kind}", rows, self._kind)

    def reject(self, chunk: int, rows: pa.Table) -> None:
        """Add the rows that could not be predicted, and why."""
        kind: Format = "csv" if self._kind == "csv" else "parquet"
        _write(self._folder / "_rejected" / f"part-{chunk:06}.{kind}", rows, kind)


def _write(path: Path, rows: pa.Table, kind: Format) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    temporary = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(exist_ok=True)
        with open(temporary, "wb") as stream:
            if kind == "csv":
                pyarrow.csv.write_csv(_plain(rows), stream)
            else:
                pyarrow.parquet.write_table(rows, stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise Unavailable(f"{path} can't be written: {error.strerror or error}.") from error


def _plain(rows: pa.Table) -> pa.Table:
    """Lists as JSON: CSV has no word for them."""
    import msgspec
    import pyarrow as pa

    for k, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type):
            texts = [msgspec.json.encode(v).decode() for v in rows.column(k).to_pylist()]
            rows = rows.set_column(k, field.name, pa.array(texts, pa.string()))
    return rows


def output_names(signature: Signature) -> list[str]:
    """Columns of the outputs: `name`, or `name_0`, `name_1`, ... where a row has several values."""
    found: list[str] = []
    for spec in signature.outputs:
        flat = len(spec.shape) > 1 and 0 < spec.columns <= _FLAT
        found += [f"{spec.name}_{k}" for k in range(spec.columns)] if flat else [spec.name]
    return found


def kept_names(signature: Signature, kept: Sequence[str]) -> list[str]:
    """Names of kept columns in the output: `input_NAME` where an output has the name."""
    taken = {*output_names(signature), ID, VERSION}
    found = [f"input_{name}" if name in taken else name for name in kept]
    if len(set(found)) < len(found) or taken & set(found):
        raise InvalidInput("Kept columns and outputs have the same names; keep others (--key).")
    return found


def output_table(
    kept: pa.Table, signature: Signature, outputs: Sequence[Array], parts: Sequence[Piece], v: str
) -> pa.Table:
    """Kept columns, outputs, prediction ids and the version `v`, of the rows that were answered."""
    import pyarrow as pa

    arrays: dict[str, Any] = {name: kept.column(name) for name in kept.column_names}
    for spec, output in zip(signature.outputs, outputs, strict=True):
        if len(spec.shape) > 1 and 0 < spec.columns <= _FLAT:
            flat = output.reshape(len(output), -1)
            for k in range(spec.columns):
                arrays[f"{spec.name}_{k}"] = _array(flat[:, k])
        else:
            arrays[spec.name] = _array(output)
    ids = [
        f"{format_id(piece.prediction_id)}#{k}"
        for piece in parts
        for k in range(piece.stop - piece.start)
    ]
    arrays[ID] = pa.array(ids, pa.string())
    arrays[VERSION] = pa.array([v] * len(ids), pa.string())
    return pa.table(arrays)


def _array(values: Array) -> pa.Array:
    import pyarrow as pa

    if values.ndim > 1:
        return pa.array(values.tolist())
    if values.dtype.kind == "O":
        return pa.array([_text(value) for value in values.tolist()], pa.string())
    return pa.array(np.ascontiguousarray(values))


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
