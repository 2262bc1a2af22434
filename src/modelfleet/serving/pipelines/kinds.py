"""Datatype and shape of sources, and whether they fit where they go. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modelfleet.serving.pipelines.definition import Condition, Source, Transform
from modelfleet_worker.wire.signature import DTYPES, Array, TensorSpec


class Mismatch(Exception):
    """Something does not fit; the message says what."""


@dataclass(frozen=True)
class Kind:
    datatype: str
    shape: tuple[int, ...]
    """the first is the rows, -1; others may be -1: not known"""

    def __str__(self) -> str:
        return f"{self.datatype} {list(self.shape)}"


def of_source(source: Source, known: Mapping[str, Kind]) -> Kind:
    if isinstance(source, str):
        if source not in known:
            owner = source.partition(".")[0]
            there = [name for name in known if name.startswith(f"{owner}.")]
            raise Mismatch(
                f"there is no tensor {source!r}"
                + (f"; there is {', '.join(there)}" if there else "")
            )
        return known[source]
    parts = [of_source(part, known) for part in source.parts()]
    if source.concat is not None:
        return _concat(parts)
    if source.cast is not None:
        return _cast(parts[0], source)
    return _select(parts[0], source)


def _concat(parts: list[Kind]) -> Kind:
    columns = 0
    for part in parts:
        if len(part.shape) > 2:
            raise Mismatch(f"concat takes columns [-1] and matrices [-1, k], not {part}")
        if part.datatype != parts[0].datatype:
            raise Mismatch(
                f"concat needs one datatype, not {parts[0].datatype} and {part.datatype}: cast one"
            )
        width = 1 if len(part.shape) == 1 else part.shape[1]
        columns = -1 if -1 in (columns, width) else columns + width
    return Kind(parts[0].datatype, (-1, columns))


def _select(part: Kind, source: Transform) -> Kind:
    column = source.column
    assert column is not None
    if len(part.shape) != 2:
        raise Mismatch(f"select takes a matrix [-1, k], not {part}")
    if part.shape[1] != -1 and column >= part.shape[1]:
        raise Mismatch(f"there is no column {column} in {part}; the first is 0")
    return Kind(part.datatype, (-1,))


def _cast(part: Kind, source: Transform) -> Kind:
    to = source.to
    if to not in DTYPES:
        raise Mismatch(f"{to!r} is no datatype; known: {', '.join(DTYPES)}")
    if (to == "BYTES") != (part.datatype == "BYTES"):
        raise Mismatch(f"texts and numbers can't be cast into each other ({part} to {to})")
    return Kind(to, part.shape)


def fits(given: Kind, wanted: Kind) -> None:
    """Raises `Mismatch` unless a tensor of the one kind can go where the other is wanted."""
    if given.datatype != wanted.datatype:
        hint = "" if "BYTES" in (given.datatype, wanted.datatype) else ": use a cast"
        raise Mismatch(f"{wanted} is wanted, {given} is given{hint}")
    same = len(given.shape) == len(wanted.shape) and all(
        -1 in (a, b) or a == b for a, b in zip(given.shape[1:], wanted.shape[1:], strict=True)
    )
    if same:
        return
    hint = ""
    if len(given.shape) == 1 and len(wanted.shape) == 2:
        hint = ": use a concat"
    if len(given.shape) == 2 and len(wanted.shape) == 1:
        hint = ": use a select"
    raise Mismatch(f"{wanted} is wanted, {given} is given{hint}")


def comparable(kind: Kind, condition: Condition) -> None:
    if kind.shape not in ((-1,), (-1, 1)):
        raise Mismatch(f"a condition takes one value per row, not {kind}: name a column like [0]")
    literal = condition.literal
    numeric = DTYPES[kind.datatype].kind in "fiu"
    if kind.datatype == "BYTES" or kind.datatype == "BOOL":
        wanted: type = str if kind.datatype == "BYTES" else bool
        if not isinstance(literal, wanted) or condition.operator not in ("==", "!="):
            what = "text in double quotes" if wanted is str else "true or false"
            raise Mismatch(f"{kind.datatype} can be compared by == and != with {what} only")
    elif numeric and (isinstance(literal, bool) or not isinstance(literal, int | float)):
        raise Mismatch(f"{kind} can be compared with a number only")


def constant(value: object, spec: TensorSpec, rows: int) -> Array:
    """A tensor that holds the value in each of its rows. Raises `Mismatch`."""
    shape = [rows, *(1 if size == -1 else size for size in spec.shape[1:])]
    many = value if isinstance(value, list) else [value]
    for one in many:
        _fits_scalar(one, spec)
    if isinstance(value, list) and (len(shape) != 2 or spec.shape[1] not in (-1, len(value))):
        raise Mismatch(f"{len(value)} values don't fit {spec.datatype} {list(spec.shape)}")
    if isinstance(value, list):
        shape[1] = len(value)
    try:
        made: Array = np.empty(shape, dtype=spec.dtype)
        made[...] = np.array(many, dtype=spec.dtype)
    except (ValueError, OverflowError, TypeError) as error:
        raise Mismatch(f"{value!r} doesn't fit {spec.datatype}: {error}") from error
    return made


def _fits_scalar(value: object, spec: TensorSpec) -> None:
    kind = spec.dtype.kind
    good = (
        isinstance(value, str)
        if kind == "O"
        else isinstance(value, bool)
        if kind == "b"
        else isinstance(value, int | float) and not isinstance(value, bool)
    )
    if kind in "iu" and isinstance(value, float):
        good = False
    if not good:
        raise Mismatch(f"{value!r} is no value of {spec.datatype}")
