"""Quantities as people write them: `15m`, `5%`, `0.5pp`, `1.2x`, `400Mi`.

Each type keeps a plain number: seconds, a fraction, a ratio, bytes. Numbers without a unit are
taken as that number already.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

_NUMBER = r"(\d+(?:\.\d+)?)"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BYTES |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def seconds(value: object) -> object:
    """`1h30m`, `200ms`, `7d` or a number of seconds."""
    if not isinstance(value, str):
        return _plain(value, "a duration", "15m, 200ms or 7d")
    parts = re.findall(_NUMBER + "(ms|[smhdw])", value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError(f"{value!r} is no duration: write 15m, 200ms, 1h30m or 7d")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def fraction(value: object) -> object:
    """`5%`, `0.5pp` (percentage points) or a number from 0 to 1."""
    if not isinstance(value, str):
        return _plain(value, "a share", "5% or 0.05")
    found = re.fullmatch(_NUMBER + r" ?(%|pp)", value)
    if found is None:
        raise ValueError(f"{value!r} is no share: write 5% or 0.05")
    return float(found[1]) / 100


def ratio(value: object) -> object:
    """`1.2x` or a number."""
    if not isinstance(value, str):
        return _plain(value, "a ratio", "1.2x")
    found = re.fullmatch(_NUMBER + " ?x", value)
    if found is None:
        raise ValueError(f"{value!r} is no ratio: write 1.2x")
    return float(found[1])


def size(value: object) -> object:
    """`400Mi`, `2G` or a number of bytes."""
    if not isinstance(value, str):
        return _plain(value, "a size", "400Mi or 2G")
    found = re.fullmatch(_NUMBER + " ?([kMGT]i?|Ki)?B?", value)
    if found is None:
        raise ValueError(f"{value!r} is no size: write 400Mi or 2G")
    return int(float(found[1]) * _BYTES[found[2] or ""])


def _plain(value: object, what: str, example: str) -> object:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(f"{value!r} is no {what.partition(' ')[2]}: write {example}")
    return value


def _written(pattern: str, example: str) -> WithJsonSchema:
    either = [{"type": "number", "minimum": 0}, {"type": "string", "pattern": pattern}]
    return WithJsonSchema({"anyOf": either, "examples": [example]})


_N = r"\d+(\.\d+)?"
Duration = Annotated[
    float,
    BeforeValidator(seconds),
    Field(ge=0),
    _written(f"^({_N}(ms|[smhdw]))+$", "15m"),
]
"""seconds"""
Fraction = Annotated[
    float, BeforeValidator(fraction), Field(ge=0, le=1), _written(f"^{_N} ?(%|pp)$", "5%")
]
Ratio = Annotated[float, BeforeValidator(ratio), Field(gt=0), _written(f"^{_N} ?x$", "1.2x")]
Size = Annotated[
    int, BeforeValidator(size), Field(ge=0), _written(f"^{_N} ?([kMGT]i?|Ki)?B?$", "400Mi")
]
"""bytes"""
