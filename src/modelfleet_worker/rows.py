"""Does a model answer row by row? Found out by asking it.

Requests of many callers share a run of the model only if each row is answered for itself: one that
ranks the rows of its batch, or reads them as steps in time, would give callers each other's
answers. Such models are asked call by call (`options.batch` is `whole`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

import numpy as np

from modelfleet_worker.runtimes.base import WHOLE as WHOLE
from modelfleet_worker.wire.signature import Array, Signature, TensorSpec, infer

Tensors = Mapping[str, Array]
Predict = Callable[[dict[str, Array]], Tensors]
_TOLERANCE = 0.05
"""of the largest value; quantized models differ by as much from batch to batch"""
_FLIPS = 0.1
"""share of labels that may differ: some flip where two are nearly equal"""


def aligned(inputs: Tensors, outputs: Tensors) -> bool:
    """Do all of them have as many rows?"""
    sizes = {array.shape[:1] for array in (*inputs.values(), *map(np.asarray, outputs.values()))}
    return len(sizes) == 1 and sizes != {()}


def independent(predict: Predict, inputs: Tensors, outputs: Tensors) -> bool:
    """Are rows answered the same alone, among others, and in another order? outputs: what it said
    of all. A model that can't be asked so, or that says something else each time, counts as one
    that is."""
    rows = len(next(iter(inputs.values())))
    half = np.arange(rows)[::-1][: math.ceil(rows / 2)]
    tried = [half, half[:1], half[-1:]] if rows > 1 else [np.zeros(2, dtype=int)]
    if all(_agrees(predict, inputs, outputs, chosen) for chosen in tried):
        return True
    return not _agrees(predict, inputs, outputs, np.arange(rows))


def _agrees(predict: Predict, inputs: Tensors, outputs: Tensors, chosen: Array) -> bool:
    """Does it say of these rows what it said of all? Yes, too, if it can't be asked."""
    some = _asked(predict, {name: array[chosen] for name, array in inputs.items()})
    return some is None or all(
        _same(np.asarray(array)[chosen], some.get(name)) for name, array in outputs.items()
    )


def _asked(predict: Predict, inputs: dict[str, Array]) -> Optional[Tensors]:
    try:
        return predict(inputs)
    except Exception:  # noqa: BLE001  # models raise anything; this was no example of theirs
        return None


def _same(wanted: Array, other: Any) -> bool:
    found = np.asarray(other)
    if found.size != wanted.size:
        return False
    found = found.reshape(wanted.shape)  # some drop the dimension of a single row
    if wanted.dtype.kind != "f":
        pairs = zip(wanted.ravel().tolist(), found.ravel().tolist())
        return sum(str(a) != str(b) for a, b in pairs) <= _FLIPS * wanted.size
    finite = np.isfinite(wanted)
    if (finite != np.isfinite(found)).any():
        return False
    scale = float(np.abs(wanted[finite]).max(initial=0.0))
    return bool((np.abs(wanted[finite] - found[finite]) <= _TOLERANCE * scale).all())


def whole(inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The same tensors of a model that turned out to take no rows."""
    return tuple(
        TensorSpec(spec.name, spec.datatype, (-1, *spec.shape), optional=spec.optional)
        for spec in inputs
    )


def one_call(inputs: Tensors) -> dict[str, Array]:
    """All these tensors as one row."""
    return {name: array.reshape(1, *array.shape) for name, array in inputs.items()}


def of_calls(inputs: Tensors, outputs: Tensors) -> Signature:
    """That of one call: the first dimension of the model's own tensors varies."""
    found = infer(inputs, outputs)
    return Signature(*(tuple(map(_loose, side)) for side in (found.inputs, found.outputs)))


def _loose(spec: TensorSpec) -> TensorSpec:
    if len(spec.shape) < 2:
        return spec
    return TensorSpec(spec.name, spec.datatype, (-1, -1, *spec.shape[2:]))


def variable(
    predict: Predict, inputs: Tensors, found: Signature, known: Mapping[str, tuple[int, ...]]
) -> Signature:
    """With -1 for the sizes of outputs that may follow those sizes of inputs that vary: as the
    model says itself (known), or as its answers to larger and smaller inputs tell. If it can't be
    asked with such, all may."""
    varying = [
        (spec.name, axis)
        for spec in found.inputs
        for axis, size in enumerate(spec.shape)
        if axis and size == -1
    ]
    if not varying:
        return found
    changed = [_changed(inputs, varying, change) for change in (_doubled, _halved)]
    answers = [one for one in (_asked(predict, given) for given in changed) if one is not None]
    outputs = []
    for spec in found.outputs:
        told = [np.asarray(one[spec.name]).shape for one in answers if spec.name in one]
        if spec.name in known:
            told.append(known[spec.name])
        fits = [shape for shape in told if len(shape) == len(spec.shape)]
        inner = [
            size if fits and all(shape[k] == size for shape in fits) else -1
            for k, size in enumerate(spec.shape)
        ]
        outputs.append(TensorSpec(spec.name, spec.datatype, (-1, *inner[1:])))
    return Signature(found.inputs, tuple(outputs))


def _changed(
    inputs: Tensors, axes: Sequence[tuple[str, int]], change: Callable[[Array, int], Array]
) -> dict[str, Array]:
    found = dict(inputs)
    for name, axis in axes:
        found[name] = change(found[name], axis)
    return found


def _doubled(array: Array, axis: int) -> Array:
    return np.concatenate([array, array], axis=axis)


def _halved(array: Array, axis: int) -> Array:
    return np.take(array, range(max(array.shape[axis] // 2, 1)), axis=axis)
