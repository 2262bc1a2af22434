"""`python -m modelfleet_worker.score VERSION MEMORY_MB`: a model's answers to tables of rows.

VERSION is a `VersionSpec` in JSON. Runs as `golden` does. On stdin comes one line of JSON, an
`Asked`, and after it the columns as .npz; on stdout goes one line, a `Scored`, and after it the
outputs as .npz. Several groups of rows are answered one after the other by one loaded model; a
group that the model refuses has an error instead of outputs.
"""

from __future__ import annotations

import io
import os
import sys
import time
import warnings
from typing import Optional

import msgspec
import numpy as np

from modelfleet_worker import log
from modelfleet_worker.batch import end_with, limit_memory, own_stdout
from modelfleet_worker.loading import Loaded, load
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.signature import Array, TensorSpec

CHUNK = 2048
"""rows of one call"""


class Column(msgspec.Struct, frozen=True):
    """name: of a feature or of a whole input tensor. Its values are the array `key`, and where they
    are missing the array `missing` (of booleans) says so."""

    name: str
    key: str
    missing: Optional[str] = None


class Group(msgspec.Struct, frozen=True):
    columns: tuple[Column, ...]
    rows: int


class Asked(msgspec.Struct, frozen=True):
    groups: tuple[Group, ...] = ()


class Answered(msgspec.Struct, frozen=True):
    """outputs: name of each output and the key of its array."""

    outputs: dict[str, str] = {}
    seconds: float = 0.0
    error: str = ""


class Scored(msgspec.Struct, frozen=True):
    groups: tuple[Answered, ...] = ()
    load_s: float = 0.0
    error: str = ""
    """of loading; then there are no groups"""


def score(loaded: Loaded, asked: Asked, arrays: dict[str, Array]) -> tuple[Scored, bytes]:
    """What the model says of each group."""
    made: dict[str, Array] = {}
    told = []
    for number, group in enumerate(asked.groups):
        begun = time.perf_counter()
        try:
            outputs = _group(loaded, group, arrays)
        except BaseException as error:  # noqa: BLE001  # whatever a model raises
            told.append(Answered(seconds=time.perf_counter() - begun, error=log.describe(error)))
            continue
        keys = {name: f"{number}.{place}" for place, name in enumerate(outputs)}
        made.update({keys[name]: _plain(array) for name, array in outputs.items()})
        told.append(Answered(keys, time.perf_counter() - begun))
    stream = io.BytesIO()
    np.savez(stream, **made)  # type: ignore[arg-type]  # numpy's stubs take its options for arrays
    return Scored(tuple(told), loaded.load_s), stream.getvalue()


def _group(loaded: Loaded, group: Group, arrays: dict[str, Array]) -> dict[str, Array]:
    signature = loaded.spec.signature
    columns = {one.name: _column(one, arrays) for one in group.columns}
    inputs = {spec.name: tensor(spec, columns, group.rows) for spec in signature.inputs}
    if loaded.spec.refuse_missing:
        _refuse_gaps(inputs)
    batchable = all(spec.shape[0] == -1 for spec in (*signature.inputs, *signature.outputs))
    size = CHUNK if batchable else 1
    parts: list[list[Array]] = []
    for start in range(0, group.rows, size):
        # Models may write into their inputs: each call gets copies.
        some = {name: np.array(array[start : start + size]) for name, array in inputs.items()}
        rows = min(size, group.rows - start)
        parts.append(
            [np.asarray(x) for x in loaded.conformer.apply(loaded.runtime.predict(some), rows)]
        )
    return {
        spec.name: np.concatenate([part[place] for part in parts])
        for place, spec in enumerate(signature.outputs)
        if parts
    }


def _column(one: Column, arrays: dict[str, Array]) -> Array:
    values = arrays[one.key]
    if one.missing is None:
        return values
    gaps = arrays[one.missing]
    if values.dtype.kind in "fiub":
        values = values.astype(np.float64)
        values[gaps] = np.nan
        return values
    values = values.astype(object)
    values[gaps] = None
    return values


def tensor(spec: TensorSpec, columns: dict[str, Array], rows: int) -> Array:
    """The input tensor of these columns. ValueError if they don't hold it."""
    if spec.name in columns and (spec.features is None or columns[spec.name].ndim > 1):
        whole = _typed(spec, spec.name, columns[spec.name])
        if whole.ndim == len(spec.shape):  # several of its sizes may vary
            return whole
        return whole.reshape(rows, *spec.shape[1:])
    if spec.features is not None:
        names = list(spec.features)
    elif spec.columns == 1:
        names = [spec.name]
    else:
        names = [f"{spec.name}_{k}" for k in range(max(spec.columns, 0))]
    missing = [name for name in names if name not in columns]
    if missing or not names:
        some = ", ".join(map(repr, missing[:6])) or repr(spec.name)
        raise ValueError("the data have no column " + some)
    found = [_typed(spec, name, columns[name]) for name in names]
    return (found[0] if len(found) == 1 else np.stack(found, axis=1)).reshape(rows, *spec.shape[1:])


def _typed(spec: TensorSpec, name: str, values: Array) -> Array:
    dtype = spec.dtype
    if dtype.kind == "O":
        return np.array(
            [one if one is None or isinstance(one, str) else str(one) for one in values.tolist()],
            dtype=object,
        ).reshape(values.shape)
    if values.dtype.kind in "OUS":
        try:
            numbers = [np.nan if one is None else float(one) for one in values.ravel().tolist()]
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}") from error
        values = np.array(numbers).reshape(values.shape)
    if dtype.kind == "f":
        return values.astype(dtype)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ValueError(f"column {name!r} has gaps, the model takes {spec.datatype}")
        if (values != np.floor(values)).any():
            raise ValueError(f"column {name!r} has fractions, the model takes {spec.datatype}")
    if dtype.kind in "iu" and values.size:
        info = np.iinfo(dtype)
        if int(values.min()) < info.min or int(values.max()) > info.max:
            raise ValueError(f"column {name!r} does not fit {spec.datatype}")
    return values.astype(dtype)


def _refuse_gaps(inputs: dict[str, Array]) -> None:
    for name, array in inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name!r} has missing values, which the model refuses")
        if array.dtype.kind == "O" and any(one is None for one in array.ravel().tolist()):
            raise ValueError(f"{name!r} has missing values, which the model refuses")


def _plain(array: Array) -> Array:
    return array.astype(str) if array.dtype.kind == "O" else array


def main() -> None:
    end_with(os.getppid())
    told = own_stdout()
    warnings.simplefilter("ignore")
    version = msgspec.json.decode(sys.argv[1], type=VersionSpec)
    limit_memory(int(sys.argv[2]))
    asked = msgspec.json.decode(sys.stdin.buffer.readline(), type=Asked)
    arrays = b""
    try:
        with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as file:
            given = {name: file[name] for name in file.files}
        found, arrays = score(load(version), asked, given)
    except BaseException as error:  # noqa: BLE001  # whatever a model raises
        found = Scored(error=log.describe(error))
    told.write(msgspec.json.encode(found) + b"\n" + arrays)
    told.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
