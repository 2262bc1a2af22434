"""From nodes to typed documents, or to problems with their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from modelfleet.fleetfile.nodes import Node
from modelfleet.fleetfile.problems import Path, Problem, did_you_mean, written

_T = TypeVar("_T", bound=BaseModel)
_EXPECTED = {
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
}


def validate(kind: type[_T], node: Node) -> tuple[_T | None, list[Problem]]:
    """The document, or everything that is wrong with it."""
    try:
        return kind.model_validate(node.plain), []
    except ValidationError as error:
        found = [_problem(kind, node, one) for one in error.errors(include_url=False)]
        return None, _without_echoes(found)
    except RecursionError:
        return None, [Problem(node.place, "", "this is nested too deep")]


def _problem(kind: type[BaseModel], node: Node, error: Any) -> Problem:
    path = _clean(error["loc"], node)
    here = node.at(path)
    given = here.raw if here is not None and here.raw else None
    place = node.place_of(path)
    code = error["type"]
    if code == "extra_forbidden":
        names = _names(kind, path[:-1])
        hint = did_you_mean(str(path[-1]), names) or f"there are: {', '.join(sorted(names))}"
        return Problem(place, written(path), f"there is no key {path[-1]!r} here", hint)
    if code == "missing":
        return Problem(place, written(path), f"{path[-1]} is missing")
    if here is not None and here.raw:
        place = here.place
    if code == "string_type" and given is not None and not isinstance(_value(here), str):
        return Problem(
            place,
            written(path),
            f"{given} is read as {_named(_value(here))}, and this takes text",
            f'put it in quotes: "{given}"',
        )
    if code in _EXPECTED:
        what = given if given else _named(_value(here))
        return Problem(place, written(path), f"expected {_EXPECTED[code]}, found {what}")
    if code == "literal_error":
        choices = _choices(error["ctx"]["expected"])
        hint = did_you_mean(str(given), choices)
        return Problem(place, written(path), f"{given!r} is none of {', '.join(choices)}", hint)
    message = str(error["msg"])
    for prefix in ("Value error, ", "Input should be ", "Assertion failed, "):
        if message.startswith(prefix):
            message = message.removeprefix(prefix)
            message = f"must be {message}" if prefix.startswith("Input") else message
    if code == "string_pattern_mismatch":
        message = f"{given!r} is not written like {error['ctx']['pattern']}"
    return Problem(place, written(path), message)


def _without_echoes(problems: list[Problem]) -> list[Problem]:
    """A key that is missing because it is misspelt is told once."""
    slips = set()
    for one in problems:
        if one.hint.startswith("did you mean "):
            above = one.path.rpartition(".")[0]
            meant = one.hint.removeprefix("did you mean ").removesuffix("?")
            slips.add(f"{above}.{meant}" if above else meant)
    return [one for one in problems if not (one.message.endswith("missing") and one.path in slips)]


def _clean(loc: Sequence[str | int], node: Node) -> Path:
    """Without what pydantic adds for its own use (names of validators and members of unions)."""
    path: list[str | int] = []
    for number, part in enumerate(loc):
        last = number == len(loc) - 1
        noise = isinstance(part, str) and ("[" in part or ("-" in part and "function" in part))
        if noise and node.at((*path, part)) is None and not last:
            continue
        path.append(part)
    return tuple(path)


def _value(node: Node | None) -> object:
    return node.value if node is not None else None


def _named(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else "text"


def _choices(expected: str) -> list[str]:
    return [one.strip().strip("'") for one in expected.replace(" or ", ", ").split(",")]


def _names(kind: type[BaseModel], path: Path) -> set[str]:
    """Keys that there are at `path` of a document of this kind."""
    here: set[type[BaseModel]] = {kind}
    for part in path:
        if isinstance(part, int):
            continue
        following: set[type[BaseModel]] = set()
        for model in here:
            for name, field in model.model_fields.items():
                if part in (name, field.alias):
                    following |= set(_models(field.annotation))
        here = following or here
    return {field.alias or name for one in here for name, field in one.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from _models(one)
