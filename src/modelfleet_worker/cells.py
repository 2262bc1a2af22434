"""Values of scoring requests, JSON's and CSV's, to arrays of a signature's dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import msgspec
import numpy as np

from modelfleet_worker import csvtable
from modelfleet_worker.oip import BadRequest
from modelfleet_worker.wire.signature import Array, TensorSpec

_EXACT = 1 << 53
"""Whole numbers up to this one are exact as floats."""
_TYPES: dict[str, Any] = {"f": Optional[float], "i": int, "u": int, "b": bool, "O": Optional[str]}


def from_json(spec: TensorSpec, values: Any, depth: int) -> Array:
    """Strict: no text for a number, no fraction for an integer."""
    wanted: Any = _TYPES[spec.dtype.kind]
    for _ in range(depth):
        wanted = list[wanted]
    try:
        plain = _converted(values, wanted, spec.dtype.kind, depth)
        if spec.dtype.kind == "f":
            plain = np.array(plain, dtype=np.float64)  # None becomes NaN
        array: Array = np.array(plain, dtype=spec.dtype)
    except (msgspec.ValidationError, ValueError, OverflowError, TypeError) as error:
        raise BadRequest(f"input {spec.name!r}: {error}") from error
    inner = spec.shape[1:] if depth == len(spec.shape) else ()
    sizes = array.shape[1:]
    if array.ndim != depth or 0 in sizes or any(w not in (-1, f) for w, f in zip(inner, sizes)):
        raise BadRequest(
            f"input {spec.name!r} has the shape {list(array.shape)}, "
            f"the model takes {list(spec.shape)}"
        )
    return array


def _converted(values: Any, wanted: Any, kind: str, depth: int) -> Any:
    """The values as `wanted`, or by what only a frame of pandas says otherwise: NaN for a missing
    text, whole floats for integers (beside a missing value there are no others), 0 and 1 for
    booleans."""
    try:
        return msgspec.convert(values, wanted)
    except msgspec.ValidationError:
        if kind == "O" and isinstance(values, (list, tuple)) and depth == 1:
            return msgspec.convert([None if v != v else v for v in values], wanted)
        if kind not in "iub":
            raise
        floats: Any = float
        for _ in range(depth):
            floats = list[floats]
        try:
            found = np.array(msgspec.convert(values, floats))
        except (msgspec.ValidationError, ValueError):
            found = np.array(np.nan)
        least, most = (0, 1) if kind == "b" else (-_EXACT, _EXACT)
        if not ((found >= least) & (found <= most) & (found % 1 == 0)).all():
            raise
        return found.astype(np.bool_ if kind == "b" else np.int64).tolist()


def from_texts(spec: TensorSpec, words: Sequence[str], depth: int) -> Array:
    if depth != 1:
        raise BadRequest(f"input {spec.name!r} has {depth} dimensions: CSV can't hold it")
    try:
        values = csvtable.values(words, spec.dtype.kind)
    except (ValueError, KeyError) as error:
        raise BadRequest(f"column {spec.name!r}: {error}") from error
    return from_json(spec, values, 1)
