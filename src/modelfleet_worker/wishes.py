"""What a request may leave out or set for itself, whatever protocol it comes by: optional inputs,
and parameters of the model. And how a request is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import msgspec
import numpy as np

from modelfleet_worker.runtimes.base import Parameter
from modelfleet_worker.wire.signature import Array, TensorSpec


class BadRequest(Exception):
    """The body can't be read as a request to this model; the message is for the client."""

    status = 400


class UnsupportedMedia(BadRequest):
    """It is in a form that nobody here reads."""

    status = 415


def filled(
    specs: Sequence[TensorSpec], found: Sequence[Optional[Array]], what: str
) -> tuple[list[Array], frozenset[str]]:
    """With missing values where an optional input was left out, and the names of those. BadRequest
    if another one was, or all. what: how the message calls an input."""
    missing = [s.name for s, array in zip(specs, found) if array is None and not s.optional]
    rows = next((len(array) for array in found if array is not None), None)
    if missing or rows is None:
        names = missing or [spec.name for spec in specs]
        raise BadRequest(f"missing {what} {', '.join(repr(name) for name in names[:20])}")
    absent = frozenset(s.name for s, array in zip(specs, found) if array is None)
    return [
        _gap(spec, rows) if array is None else array for spec, array in zip(specs, found)
    ], absent


def _gap(spec: TensorSpec, rows: int) -> Array:
    shape = (rows, *(max(size, 0) for size in spec.shape[1:]))
    nothing: Any = None if spec.dtype.kind == "O" else np.nan if spec.dtype.kind == "f" else 0
    return np.full(shape, nothing, dtype=spec.dtype)


def read_parameters(known: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values for parameters of the model, all of which it knows, in their types."""
    found = {}
    for name, value in given.items():
        parameter = known[name]
        if parameter.kind is not None:
            wanted: Any = parameter.kind
            if parameter.several:
                wanted = list[wanted]
            try:
                value = msgspec.convert(value, wanted)
            except msgspec.ValidationError as error:
                raise BadRequest(f"the parameter {name!r}: {error}") from error
        found[name] = value
    return found
