"""Documents as people write them: quantities with their units, YAML with comments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from modelfleet.fleetfile import units
from modelfleet.fleetfile.nodes import resolve

_SECONDS = (("w", 604800.0), ("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 0.001))
_BYTES = (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))


def duration(seconds: float) -> object:
    """`15m`; the number itself where no whole unit fits."""
    if seconds == 0:
        return "0s"
    for unit, factor in _SECONDS:
        count = seconds / factor
        if abs(count - round(count)) < 1e-9 and count >= 1:
            return f"{round(count)}{unit}"
    return seconds


def share(fraction: float) -> object:
    """`5%`."""
    return f"{round(fraction * 100, 10):g}%"


def size(count: int) -> object:
    """`400Mi`."""
    for unit, factor in _BYTES:
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return count


def ratio(value: float) -> object:
    return f"{value:g}x"


_WRITERS: dict[Any, Callable[[Any], object]] = {
    units.seconds: duration,
    units.fraction: share,
    units.size: size,
    units.ratio: ratio,
}
"""by what reads them"""


def pretty(kind: type[BaseModel], plain: Any) -> Any:
    """The same document with quantities as people write them."""
    if not isinstance(plain, Mapping):
        return plain
    fields = _fields(kind)
    return {
        key: _written(fields[key], value) if key in fields else value
        for key, value in plain.items()
    }


@cache
def _fields(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def _written(field: FieldInfo, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for reader in _readers([field.annotation, *field.metadata]):
            shown = _WRITERS[reader](value)
            return shown if reader(shown) == value else value
        return value
    models = [one for one in _parts(field.annotation) if _is_model(one)]
    if not models:
        return value
    if isinstance(value, list):
        return [pretty(models[0], one) for one in value]
    if isinstance(value, Mapping) and _of_names(field.annotation):
        return {name: pretty(models[0], one) for name, one in value.items()}
    return pretty(models[0], value)


def _is_model(one: Any) -> bool:
    return isinstance(one, type) and issubclass(one, BaseModel)


def _of_names(annotation: Any) -> bool:
    """A mapping of free names, not a section."""
    return any(
        getattr(one, "__origin__", None) is dict for one in (annotation, *get_args(annotation))
    )


def _parts(annotation: Any) -> list[Any]:
    found = [annotation]
    for one in get_args(annotation):
        found += _parts(one)
    return found


def _readers(parts: Sequence[Any]) -> list[Any]:
    found = [getattr(one, "func", None) for part in parts for one in _parts(part)]
    return [one for one in found if one in _WRITERS]


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """No aliases. What YAML 1.1 would not read as text is quoted by SafeDumper itself, what our
    own reader would not, here."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)

    def text(self, value: str) -> Any:
        quoted = not isinstance(resolve(value), str)
        return self.represent_scalar("tag:yaml.org,2002:str", value, "'" if quoted else None)


_Dumper.add_representer(str, _Dumper.text)


def dump(document: Mapping[str, Any], comments: Sequence[str] = ()) -> str:
    """YAML, keys in their order, comments on top."""
    head = "".join(f"# {line}\n" for line in comments)
    body: str = yaml.dump(
        dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return head + body
