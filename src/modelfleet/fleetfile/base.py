"""What all sections of documents are made of."""

from __future__ import annotations

import math
import shlex
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _boolean(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false; write one of these two words")
    return value


def _number(value: object) -> object:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(f"{value!r} is no number")
    return value


def words(value: object) -> object:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


Bool = Annotated[bool, BeforeValidator(_boolean)]
Int = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number)]
Tier = Literal["low", "normal", "high", "critical"]
Name = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\s/:@]+( [^\s/:@]+)*$")]
Text = Annotated[str, Field(max_length=10_000)]
Sticky = Annotated[str, Field(pattern=r"^(header:[a-z0-9-]+|cookie:\S+|caller|none)$")]
"""`header:NAME`, `cookie:NAME`, `caller` or `none`"""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
