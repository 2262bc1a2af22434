"""What a person writes to define a pipeline: YAML or JSON, typed, unknown fields refused.

A source is the value of a tensor: `input.NAME`, `STEP.OUTPUT`, or a transform of other sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import msgspec

from modelfleet.core.errors import InvalidInput

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
PipelineName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,118}[A-Za-z0-9])?$")
]
Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=3_600_000)]
Scalar = bool | int | float | str
Constant = Scalar | list[Scalar]
"""one value for each element, or one for each column"""
INPUT = "input"
_COLUMN = re.compile(r"(.+)\[(\d{1,6})\]")
_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*")


class Transform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of: `concat` (columns side by side), `select` with `column`, `cast` with `to`."""

    concat: tuple[Source, ...] | None = None
    select: Source | None = None
    column: Annotated[int, msgspec.Meta(ge=0)] | None = None
    cast: Source | None = None
    to: str | None = None

    def __post_init__(self) -> None:
        given = [n for n in ("concat", "select", "cast") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("a transform is one of concat, select and cast")
        if (self.select is None) != (self.column is None):
            raise ValueError("select and column belong together")
        if (self.cast is None) != (self.to is None):
            raise ValueError("cast and to belong together")
        if self.concat is not None and not self.concat:
            raise ValueError("concat needs at least one source")

    def parts(self) -> tuple[Source, ...]:
        if self.concat is not None:
            return self.concat
        one = self.select if self.select is not None else self.cast
        assert one is not None
        return (one,)


Source = str | Transform


class From(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value comes from another tensor."""

    source: Source = msgspec.field(name="from")


class Fallback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a step answers when its model does not. Tried in this order, as far as given."""

    previous: bool = False
    """the version that the model's endpoint served before the present one"""
    cached_ms: Milliseconds | None = None
    """the last answer to the same inputs, if it is not older than this"""
    constant: dict[str, Constant] = {}
    """by output"""

    def __post_init__(self) -> None:
        if not (self.previous or self.cached_ms or self.constant):
            raise ValueError("a fallback names at least one of previous, cached_ms and constant")


class BreakerRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a step's circuit opens: `share` of the last `window` calls failed, of at least
    `minimum`. After `open_ms` one call probes whether the model is back."""

    window: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    minimum: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    open_ms: Milliseconds = 5000

    def __post_init__(self) -> None:
        if self.minimum > self.window:
            raise ValueError("a breaker's minimum can't exceed its window")


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor of the pipeline's request; its first dimension is the rows (-1)."""

    name: Name
    datatype: str
    shape: tuple[int, ...]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One call of a model."""

    name: Name
    model: str
    """the endpoint that is called"""
    inputs: dict[str, Source]
    version: str | None = None
    """a version to pin; without one, the endpoint's routes decide"""
    when: str | None = None
    """A comparison, `TENSOR OPERATOR LITERAL`, decided row by row. Rows for which it is false
    don't reach the model; they take the values of `otherwise`."""
    otherwise: dict[str, Constant | From] = {}
    timeout_ms: Milliseconds | None = None
    fallback: Fallback | None = None
    optional: bool = False
    """if it fails, the outputs that need it are left out instead of failing the request"""
    breaker: BreakerRule = BreakerRule()


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A whole pipeline."""

    name: PipelineName
    team: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    inputs: Annotated[tuple[Input, ...], msgspec.Meta(min_length=1)]
    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=100)]
    outputs: Annotated[dict[Name, Source], msgspec.Meta(min_length=1)]
    timeout_ms: Milliseconds = 30_000
    description: str = ""


class Condition(msgspec.Struct, frozen=True):
    source: Source
    operator: str
    literal: bool | float | str


def read(document: object) -> Definition:
    """A definition from plain values (what JSON or YAML hold). Raises `InvalidInput`."""
    try:
        return msgspec.convert(document, Definition)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"The pipeline's definition: {_named(document, str(error))}",
            hint="docs/pipelines.md explains every field.",
        ) from error


def _named(document: object, text: str) -> str:
    """The message with the step's name beside its place."""
    place = re.search(r"\$\.steps\[(\d+)\]", text)
    if place is None or not isinstance(document, dict):
        return text
    try:
        return f"step {document['steps'][int(place[1])]['name']}: {text}"
    except (LookupError, TypeError):
        return text


def parse_condition(text: str) -> Condition:
    """`risk.score > 0.7` or, for a column of a matrix, `risk.probability[1] > 0.7`; literals are
    those of JSON. ValueError if it is anything else."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no comparison like 'risk.score > 0.7'")
    try:
        literal = msgspec.json.decode(found[3], type=bool | float | str)
    except msgspec.DecodeError:
        raise ValueError(
            f"{found[3]!r} is no number, true, false or text in double quotes"
        ) from None
    column = _COLUMN.fullmatch(found[1])
    source: Source = found[1]
    if column is not None:
        source = Transform(select=column[1], column=int(column[2]))
    return Condition(source, found[2], literal)


def references(source: Source) -> Iterator[str]:
    """The tensors that a source is made of."""
    if isinstance(source, str):
        yield source
    else:
        for part in source.parts():
            yield from references(part)


def split(reference: str) -> tuple[str, str]:
    """`(step or "input", tensor)`. A tensor's name may hold dots."""
    owner, _, tensor = reference.partition(".")
    if not owner or not tensor:
        raise ValueError(f"{reference!r} is neither 'input.NAME' nor 'STEP.OUTPUT'")
    return owner, tensor
