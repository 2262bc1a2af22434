"""Values of sources and conditions for one request: numpy in, numpy out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modelfleet.serving.pipelines.definition import Condition, Source
from modelfleet_worker.wire.signature import DTYPES, Array, TensorSpec

Tensors = Mapping[str, Array]
"""by reference: `input.x`, `risk.score`"""

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


class MissingTensor(Exception):
    """An optional step left this tensor out."""


class Unusable(Exception):
    """A tensor turned out to be of another form than its signature leaves room for."""


def evaluate(source: Source, tensors: Tensors) -> Array:
    """Raises `MissingTensor` and `Unusable`."""
    if isinstance(source, str):
        try:
            return tensors[source]
        except KeyError:
            raise MissingTensor(source) from None
    parts = [evaluate(part, tensors) for part in source.parts()]
    if source.concat is not None:
        columns = [p.reshape(len(p), 1) if p.ndim == 1 else p for p in parts]
        return np.concatenate(columns, axis=1)
    if source.cast is not None:
        return _cast(parts[0], DTYPES[source.to or ""])
    column = source.column or 0
    if column >= parts[0].shape[1]:
        raise Unusable(f"there is no column {column} in {list(parts[0].shape)}")
    return parts[0][:, column]


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    """As numpy casts; what an integer type can't hold (NaN, too large) is refused."""
    if dtype.kind in "iu" and array.dtype.kind in "fiu" and array.size:
        info = np.iinfo(dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Unusable(f"NaN or infinity can't be cast to {dtype}")
        low, high = array.min(), array.max()
        if int(low) < info.min or int(high) > info.max:
            raise Unusable(f"{low} to {high} doesn't fit {dtype}")
    return array.astype(dtype)


def rows_where(condition: Condition, tensors: Tensors) -> Array:
    """A mask [rows]. NaN makes every comparison but != false."""
    left = evaluate(condition.source, tensors).reshape(-1)
    found = _COMPARE[condition.operator](left, condition.literal)
    return np.asarray(found, dtype=np.bool_)


def scatter(mask: Array, chosen: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    """Rows of `chosen` where the mask is true, of `others` elsewhere.

    `chosen` has as many rows as the mask has true ones, `others` as many as the mask.
    """
    made: list[Array] = []
    for inner, outer in zip(chosen, others, strict=True):
        if inner.shape[1:] != outer.shape[1:]:
            raise Unusable(
                f"rows of the model have the shape {list(inner.shape[1:])}, the others "
                f"{list(outer.shape[1:])}"
            )
        whole = np.array(outer, dtype=inner.dtype)
        whole[mask] = inner
        made.append(whole)
    return made


def like(spec: TensorSpec, array: Array, rows: int) -> None:
    """Raises `Unusable` if a model's answer is not what its signature says."""
    shape = array.shape
    fits = len(shape) == len(spec.shape) and shape[:1] == (rows,)
    for size, wanted in zip(shape[1:], spec.shape[1:], strict=False):
        fits = fits and wanted in (-1, size)
    if not fits:
        raise Unusable(
            f"the output {spec.name!r} has the shape {list(shape)}, not {[rows, *spec.shape[1:]]}"
        )
