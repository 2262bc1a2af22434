"""What was asked of a version lately: inputs from the prediction log, for whoever replays them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelfleet_worker.wire import profile, spec
from modelfleet_worker.wire.bundle import BundleCorrupt
from modelfleet_worker.wire.signature import Signature, TensorSpec
from modelfleet_worker.wire.tensors import unpack

if TYPE_CHECKING:
    import pyarrow as pa

_FILES = 2000
_COLUMNS = ["version_index", "time", "status", "shadow", "rows", "inputs", "outputs"]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Recorded:
    """Tensors by name, the newest rows first."""

    rows: int
    inputs: Arrays
    outputs: Arrays


@dataclass(frozen=True)
class Binned:
    """A feature in the bins of a reference, and how rows fill them."""

    name: str
    numeric: bool
    labels: Sequence[str]
    reference: NDArray[np.int64]
    recent: NDArray[np.int64]


def recorded(
    database: Path, index: int, signature: Signature, rows: int, since_us: int = 0
) -> Recorded:
    """Up to `rows` rows that were answered well. database: of the evidence."""
    inputs: list[list[NDArray[Any]]] = []
    outputs: list[list[NDArray[Any]]] = []
    found = 0
    for table in _tables(database, index, since_us):
        for count, given, told in _records(table):
            if found >= rows:
                break
            if len(given) != len(signature.inputs) or len(told) != len(signature.outputs):
                continue  # large tensors are not kept
            try:
                taken = _unpacked(signature.inputs, given, count)
                said = _unpacked(signature.outputs, told, count)
            except (ValueError, msgspec.DecodeError):
                continue  # of another form of the version
            if not _fits(signature.inputs, taken, inputs) or not _fits(
                signature.outputs, said, outputs
            ):
                continue
            inputs.append(taken)
            outputs.append(said)
            found += count
        if found >= rows:
            break
    found = min(found, rows)
    return Recorded(
        found,
        _joined(signature.inputs, inputs, found),
        _joined(signature.outputs, outputs, found),
    )


def signature_of(bundle: Path) -> Signature:
    """Raises `BundleCorrupt`."""
    return spec.read_spec(bundle).signature


def columns_of(signature: Signature, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Features by name."""
    flat = signature.columns([inputs[one.name] for one in signature.inputs])
    return dict(zip(signature.feature_names(), flat, strict=False))


def binned(bundle: Path, columns: Arrays) -> list[Binned] | None:
    """Columns in the bins of a bundle's training reference; None if it has none."""
    try:
        reference = profile.load(bundle)
    except BundleCorrupt:
        return None
    if reference is None:
        return None
    return [
        Binned(
            one.name,
            isinstance(one, profile.NumericBins),
            _labels(one),
            np.asarray(one.counts, dtype=np.int64),
            one.count(columns[one.name]),
        )
        for one in reference.features
        if one.name in columns
    ]


def _labels(bins: profile.Bins) -> list[str]:
    if isinstance(bins, profile.NumericBins):
        edges = [f"{edge:.4g}" for edge in bins.edges]
        inner = [f"{a} to {b}" for a, b in pairwise(edges)]
        ends = [f"below {edges[0]}", *inner, f"from {edges[-1]}"] if edges else ["any"]
        return [*ends, "missing"]
    return [*(str(level) for level in bins.levels), "unseen", "missing"]


def _tables(database: Path, index: int, since_us: int) -> Iterator[pa.Table]:
    """Of the sealed files, newest first."""
    import pyarrow.parquet as pq

    for path in _files(database, since_us):
        try:
            table = pq.read_table(
                path,
                columns=_COLUMNS,
                filters=[("version_index", "=", index), ("status", "=", 200)],
                partitioning=None,
            )
        except FileNotFoundError:
            continue  # removed by retention meanwhile
        if table.num_rows:
            yield table.sort_by([("time", "descending")])


def _files(database: Path, since_us: int) -> list[Path]:
    if not database.exists():
        return []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as connection:
        try:
            rows = connection.execute(
                "SELECT path FROM file WHERE kind = 'predictions' AND last_ms >= ? "
                "ORDER BY last_ms DESC LIMIT ?",
                (since_us // 1000, _FILES),
            ).fetchall()
        except sqlite3.OperationalError:
            return []  # the collector did not begin yet
    return [database.parent / "evidence" / path for (path,) in rows]


def _records(table: pa.Table) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
    names = ("rows", "inputs", "outputs", "shadow")
    columns = (table.column(name).to_pylist() for name in names)
    for rows, inputs, outputs, shadow in zip(*columns, strict=True):
        if rows > 0 and not shadow:
            yield rows, inputs or [], outputs or []


def _unpacked(specs: Sequence[TensorSpec], raws: Sequence[bytes], rows: int) -> list[NDArray[Any]]:
    return [unpack(one, raw, rows) for one, raw in zip(specs, raws, strict=True)]


def _fits(
    specs: Sequence[TensorSpec],
    arrays: Sequence[NDArray[Any]],
    others: Sequence[Sequence[NDArray[Any]]],
) -> bool:
    """Are they in their own shapes (of several sizes that vary, records keep only the product), and
    can they be joined with the others?"""
    whole = all(array.ndim == len(one.shape) for one, array in zip(specs, arrays, strict=True))
    return whole and (
        not others
        or all(a.shape[1:] == b.shape[1:] for a, b in zip(arrays, others[0], strict=True))
    )


def _joined(
    specs: Sequence[TensorSpec], parts: Sequence[Sequence[NDArray[Any]]], rows: int
) -> dict[str, NDArray[Any]]:
    if not parts:
        return {}
    return {
        one.name: np.concatenate([part[place] for part in parts])[:rows]
        for place, one in enumerate(specs)
    }
