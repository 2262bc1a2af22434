"""From the columns of a table to the tensors of a model, as strictly as a worker takes requests.

A row that can't be used is told with its number and the reason; a table that can't be used at all
is refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelfleet.batch.sources import ODD
from modelfleet.core.errors import InvalidInput
from modelfleet_worker.wire.signature import Array, Signature, TensorSpec
from modelfleet_worker.wire.spec import BundleSpec

if TYPE_CHECKING:
    import pyarrow as pa

Bad = dict[int, str]
"""reasons by place in the chunk"""


@dataclass(frozen=True)
class Mapped:
    """`good`: places of the rows that can be used; tensors hold these rows alone."""

    tensors: list[Array]
    good: NDArray[np.intp]
    bad: Bad


class ColumnMap:
    """Which column feeds which feature. `used`: columns in the order of the features."""

    def __init__(
        self, spec: BundleSpec, names: Sequence[str], chosen: Sequence[str], is_text: bool
    ) -> None:
        """names: columns of the table; chosen: see `Wish.columns`; is_text: numbers come as
        text. Raises `InvalidInput`."""
        self._read = parsed if is_text else values
        self._signature = spec.signature
        self._refuse_missing = spec.refuse_missing
        self._places = _places(spec.signature, names)
        features = [name for _, part in self._places for name in part]
        named = _named(features, chosen)
        self.used = [named.get(feature, feature) for feature in features]
        missing = [column for column in dict.fromkeys(self.used) if column not in names]
        if missing:
            some = ", ".join(map(repr, missing[:8])) + (" ..." if len(missing) > 8 else "")
            raise InvalidInput(
                f"The input has no column {some}.",
                hint="It has: " + ", ".join(names[:30]) + ". Map others with"
                " --columns feature=column,...",
            )

    def apply(self, table: pa.Table) -> Mapped:
        """The tensors of a chunk. Raises `InvalidInput` if a column has a kind that no row can
        come from."""
        bad: Bad = {}
        if ODD in table.column_names:
            for place, fields in enumerate(table.column(ODD).to_pylist()):
                if fields is not None:
                    bad[place] = f"it has {fields} fields, not as many as the head line"
        used = iter(self.used)
        tensors = []
        for spec, features in self._places:
            columns = [next(used) for _ in features]
            if len(columns) == 1 and spec.columns != 1:
                tensors.append(_wide(spec, columns[0], table.column(columns[0]), bad))
                continue
            arrays = [self._column(spec, name, table, bad) for name in columns]
            array = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)
            tensors.append(array.reshape(len(table), *spec.shape[1:]))
        keep = np.ones(len(table), dtype=bool)
        keep[list(bad)] = False
        good = np.flatnonzero(keep)
        if bad:
            tensors = [np.ascontiguousarray(tensor[good]) for tensor in tensors]
        return Mapped(tensors, good, bad)

    def _column(self, spec: TensorSpec, name: str, table: pa.Table, bad: Bad) -> Array:
        found = self._read(spec, name, table.column(name), bad)
        if self._refuse_missing:
            for place in np.flatnonzero(_gaps(found)).tolist():
                bad.setdefault(place, f"column {name!r} holds null, NaN or infinity")
        return found


def _gaps(found: Array) -> NDArray[np.bool_]:
    if found.dtype.kind == "f":
        return ~np.isfinite(found)
    if found.dtype.kind == "O":
        return np.array([value is None for value in found.tolist()], dtype=bool)
    return np.zeros(len(found), dtype=bool)


def _places(signature: Signature, names: Sequence[str]) -> list[tuple[TensorSpec, tuple[str, ...]]]:
    """The features of each input tensor; one name for a tensor that is one column of lists."""
    found: list[tuple[TensorSpec, tuple[str, ...]]] = []
    for spec in signature.inputs:
        if spec.features is not None:
            found.append((spec, spec.features))
        elif spec.columns == 1 or spec.columns < 0 or spec.name in names:
            found.append((spec, (spec.name,)))
        else:
            found.append((spec, tuple(f"{spec.name}_{k}" for k in range(spec.columns))))
    return found


def _named(features: Sequence[str], chosen: Sequence[str]) -> Mapping[str, str]:
    """Columns by feature, as the caller says."""
    pairs = [one.split("=", 1) for one in chosen]
    if all(len(pair) == 2 for pair in pairs):
        named = {one[0]: one[1] for one in pairs}
        unknown = [feature for feature in named if feature not in features]
        if unknown:
            raise InvalidInput(
                f"The model has no input {unknown[0]!r}.",
                hint=f"It takes: {', '.join(features[:30])}.",
            )
        return named
    if any(len(pair) == 2 for pair in pairs):
        raise InvalidInput("--columns holds either feature=column pairs or columns alone.")
    if len(chosen) != len(features):
        raise InvalidInput(
            f"--columns names {len(chosen)} columns, the model takes {len(features)}.",
            hint=f"In this order: {', '.join(features[:30])}.",
        )
    return dict(zip(features, chosen, strict=True))


def values(spec: TensorSpec, name: str, column: pa.ChunkedArray, bad: Bad) -> Array:
    """One value per row of a typed column, in the tensor's datatype."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if spec.datatype == "BYTES":
        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
        if not pa.types.is_null(kind) and not any(test(kind) for test in texts):
            raise _no_kind(spec, name, kind)
        return np.array(column.to_pylist() or [], dtype=object)
    if spec.datatype == "BOOL":
        fits = pa.types.is_boolean(kind)
    else:
        numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
        fits = any(test(kind) for test in numbers)
    if not fits and not pa.types.is_null(kind):
        raise _no_kind(spec, name, kind)
    if spec.dtype.kind == "f":
        return _floats(column).astype(spec.dtype)
    gaps = _missing(spec, name, column, bad)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return _fitted(spec, name, np.asarray(_filled(column)), gaps, bad)
    floats = _floats(column)
    return _fitted(spec, name, np.nan_to_num(floats), gaps, bad, floats)


def parsed(spec: TensorSpec, name: str, column: pa.ChunkedArray, bad: Bad) -> Array:
    """The same of a column of text."""
    import pyarrow as pa

    if spec.datatype == "BYTES":
        return np.array(column.to_pylist(), dtype=object)
    kind, convert = _TEXT[spec.dtype.kind]
    try:
        return values(spec, name, column.cast(getattr(pa, kind)()), bad)
    except pa.ArrowInvalid:  # find out which rows it is
        found: list[object] = []
        for place, text in enumerate(column.to_pylist()):
            try:
                found.append(None if text is None else convert(text))
            except ValueError:
                bad.setdefault(place, f"column {name!r}: {text[:40]!r} is not {spec.datatype}")
                found.append(convert("0"))
    return values(spec, name, pa.chunked_array([pa.array(found, getattr(pa, kind)())]), bad)


def _whole_number(text: str) -> int:
    found = int(text)
    if not -(1 << 63) <= found < 1 << 63:
        raise ValueError(text)
    return found


def _truth(text: str) -> bool:
    found = {"true": True, "false": False, "1": True, "0": False}.get(text.strip().lower())
    if found is None:
        raise ValueError(text)
    return found


_TEXT: dict[str, tuple[str, Callable[[str], object]]] = {
    "f": ("float64", float),
    "i": ("int64", _whole_number),
    "u": ("int64", _whole_number),
    "b": ("bool_", _truth),
}


def _floats(column: pa.ChunkedArray) -> Array:
    import pyarrow as pa

    found: Array = np.asarray(column.cast(pa.float64(), safe=False).to_numpy())
    return found


def _filled(column: pa.ChunkedArray) -> Array:
    import pyarrow as pa

    zero = False if pa.types.is_boolean(column.type) else 0
    found: Array = column.fill_null(zero).to_numpy()
    return found


def _missing(spec: TensorSpec, name: str, column: pa.ChunkedArray, bad: Bad) -> NDArray[np.bool_]:
    """Where a column that has no word for it holds null."""
    gaps: NDArray[np.bool_] = column.is_null().to_numpy()
    for place in np.flatnonzero(gaps).tolist():
        bad.setdefault(place, f"column {name!r} is null, the model takes {spec.datatype}")
    return gaps


def _fitted(
    spec: TensorSpec,
    name: str,
    found: Array,
    gaps: NDArray[np.bool_],
    bad: Bad,
    floats: Array | None = None,
) -> Array:
    """Numbers in the tensor's range, whole where it wants whole ones."""
    with np.errstate(invalid="ignore"):
        cast = found.astype(spec.dtype)
        wrong = (cast.astype(found.dtype) != found) & ~gaps
    if spec.dtype.kind in "iu" and found.dtype.kind in "iu":
        limits = np.iinfo(spec.dtype)
        wrong |= (found < limits.min) | (found > limits.max)
    shown = found if floats is None else floats
    if floats is not None:
        wrong |= ~np.isfinite(floats) & ~gaps
    for place in np.flatnonzero(wrong).tolist():
        bad.setdefault(place, f"column {name!r}: {shown[place]} is not {spec.datatype}")
    return cast


def _wide(spec: TensorSpec, name: str, column: pa.ChunkedArray, bad: Bad) -> Array:
    """Several values per row from one column of lists."""
    shape = spec.shape[1:]
    found: list[Array | None] = []
    for place, one in enumerate(column.to_pylist()):
        try:
            array = np.array(one, dtype=spec.dtype)
            if array.ndim != len(shape):
                array = array.reshape([size if size >= 0 else -1 for size in shape])
            fits = all(want in (-1, size) for want, size in zip(shape, array.shape, strict=True))
            found.append(array if fits else None)
        except (TypeError, ValueError):
            found.append(None)
        if found[-1] is None:
            bad.setdefault(place, f"column {name!r} does not hold {list(shape)} {spec.datatype}")
    kept = [array for array in found if array is not None]
    sizes = {array.shape for array in kept}
    if len(sizes) > 1:
        raise InvalidInput(
            f"Column {name!r} holds lists of different lengths.",
            hint="Rows of one chunk must be equally long; pad them.",
        )
    blank = np.zeros(next(iter(sizes), tuple(max(size, 0) for size in shape)), spec.dtype)
    return np.stack([blank if array is None else array for array in found])


def _no_kind(spec: TensorSpec, name: str, kind: Any) -> InvalidInput:
    return InvalidInput(f"Column {name!r} is of type {kind}, the model takes {spec.datatype}.")
