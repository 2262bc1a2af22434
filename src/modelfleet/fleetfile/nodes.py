"""YAML, read with the place of every value; nothing but plain values comes out.

Read from the parser's events, so that depth, size and aliases are under our own limits. Scalars
mean what YAML 1.2 says: only `true` and `false` are booleans, `no` and `on` are words, and there
are no numbers to the base of sixty. What a scalar looked like is kept, for messages: `1.10` is the
number 1.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from modelfleet.fleetfile.problems import Path, Place, Problem, Refused, written

MAX_BYTES = 1_000_000
"""of a file"""
MAX_DEPTH = 40
MAX_VALUES = 100_000
"""of a file, with each alias written out"""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, object] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_PLAIN_TAGS = {"str": "str", "int": "int", "float": "float", "bool": "bool", "null": "null"}

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Node:
    """value: a mapping of names to nodes, a list of nodes, or a scalar."""

    value: dict[str, Node] | list[Node] | Scalar
    place: Place
    raw: str = ""
    """a scalar as it is written"""
    keys: dict[str, Place] | None = None
    """where the names of a mapping stand"""

    @property
    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {name: one.plain for name, one in self.value.items()}
        if isinstance(self.value, list):
            return [one.plain for one in self.value]
        return self.value

    def at(self, path: Path) -> Node | None:
        """What is there; None if nothing is."""
        here: Node | None = self
        for part in path:
            value = here.value if here is not None else None
            if isinstance(value, dict):
                here = value.get(str(part))
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                here = value[part]
            else:
                return None
        return here

    def place_of(self, path: Path) -> Place:
        """Of the value's name, or of what is nearest above it."""
        here, best = self, self.place
        for part in path:
            value = here.value
            if isinstance(value, dict) and str(part) in value:
                best = (here.keys or {}).get(str(part), value[str(part)].place)
                here = value[str(part)]
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                here = value[part]
                best = here.place
            else:
                return best
        return best


def parse(text: str, file: str) -> list[Node]:
    """The documents of a file. Raises `Refused`."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise _refused(Place(file), f"the file is larger than {MAX_BYTES // 1000} kB")
    reader = _Reader(file)
    try:
        for event in yaml.parse(text, _LOADER):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        raise _refused(
            _place(file, error.problem_mark or error.context_mark), _told(error)
        ) from error
    except yaml.YAMLError as error:
        raise _refused(Place(file), f"this is not YAML: {error}") from error
    if reader.problems:
        raise Refused(reader.problems)
    return [one for one in reader.documents if one.value is not None]


def _told(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.problem, error.context) if part]
    hint = ""
    if "tab" in (error.problem or "") or "\\t" in (error.problem or ""):
        hint = "; indent with spaces, not tabs"
    return f"this is not YAML: {', '.join(parts)}{hint}"


def _place(file: str, mark: Any) -> Place:
    return Place(file, mark.line + 1, mark.column + 1) if mark is not None else Place(file)


def _refused(place: Place, message: str) -> Refused:
    return Refused([Problem(place, "", message)])


@dataclass
class _Open:
    """A collection whose end has not come."""

    node: Node
    anchor: str | None
    key: Node | None = None
    merges: list[Node] | None = None


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.documents: list[Node] = []
        self.problems: list[Problem] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._count = 0

    def take(self, event: Any) -> None:
        place = _place(self.file, event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self._anchors.clear()
            self._sizes.clear()
        elif isinstance(event, yaml.ScalarEvent):
            self._put(self._scalar(event, place), event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor, place)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if len(self._stack) >= MAX_DEPTH:
                raise _refused(place, f"this is nested more than {MAX_DEPTH} deep")
            if event.tag and not event.implicit:
                self._say(place, f"tags such as {event.tag} have no meaning here")
            mapping = isinstance(event, yaml.MappingStartEvent)
            node = Node({}, place, keys={}) if mapping else Node([], place)
            self._stack.append(_Open(node, event.anchor))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            ended = self._stack.pop()
            self._merge(ended)
            self._put(ended.node, ended.anchor)

    def _say(self, place: Place, message: str, hint: str = "") -> None:
        path = tuple(one.key.raw for one in self._stack if one.key is not None)
        self.problems.append(Problem(place, written(path), message, hint))

    def _scalar(self, event: Any, place: Place) -> Node:
        raw = event.value
        tag = (event.tag or "").rpartition(":")[2]
        if event.tag and event.tag not in ("!",) and tag not in _PLAIN_TAGS:
            self._say(place, f"tags such as {event.tag} have no meaning here")
        plain = event.implicit[0] and not event.style
        value = resolve(raw) if plain or tag in ("int", "float", "bool", "null") else raw
        if isinstance(value, float) and not math.isfinite(value):
            self._say(place, f"{raw} is no number that can be used")
        return Node(value, place, raw)

    def _alias(self, name: str, place: Place) -> None:
        found = self._anchors.get(name)
        if found is None:
            inside = any(one.anchor == name for one in self._stack)
            why = "it would hold itself" if inside else f"there is no anchor &{name} before it"
            raise _refused(place, f"*{name} can't be used: {why}")
        values, depth = self._size(found)
        if len(self._stack) + depth > MAX_DEPTH:
            raise _refused(place, f"this is nested more than {MAX_DEPTH} deep")
        self._grow(values, place)
        self._put(Node(found.value, place, found.raw, found.keys), None, counted=True)

    def _size(self, node: Node) -> tuple[int, int]:
        """Values in it, aliases written out, and how deep they are nested."""
        if not isinstance(node.value, (dict, list)):
            return 1, 0
        key = id(node.value)
        if key not in self._sizes:
            below = node.value.values() if isinstance(node.value, dict) else node.value
            sizes = [self._size(one) for one in below]
            deepest = max((depth for _, depth in sizes), default=0)
            self._sizes[key] = 1 + sum(values for values, _ in sizes), 1 + deepest
        return self._sizes[key]

    def _grow(self, by: int, place: Place) -> None:
        self._count += by
        if self._count > MAX_VALUES:
            raise _refused(
                place, f"the file holds more than {MAX_VALUES} values, aliases written out"
            )

    def _put(self, node: Node, anchor: str | None, *, counted: bool = False) -> None:
        if not counted:
            self._grow(1, node.place)
        if anchor:
            self._anchors[anchor] = node
        if not self._stack:
            self.documents.append(node)
            return
        here = self._stack[-1]
        if isinstance(here.node.value, list):
            here.node.value.append(node)
        elif here.key is None:
            here.key = node
        else:
            self._pair(here, here.key, node)
            here.key = None

    def _pair(self, here: _Open, key: Node, node: Node) -> None:
        assert isinstance(here.node.value, dict)
        assert here.node.keys is not None
        if isinstance(key.value, (dict, list)):
            self.problems.append(Problem(key.place, "", "a name is a word, not a list or mapping"))
            return
        name = key.raw
        if name == "<<":
            here.merges = [*(here.merges or []), node]
            return
        if name in here.node.value:
            first = here.node.keys[name]
            self._say(key.place, f"{name} stands here twice", f"first in line {first.line}")
            return
        here.node.value[name] = node
        here.node.keys[name] = key.place

    def _merge(self, ended: _Open) -> None:
        """`<<: *anchor`: what the mapping doesn't say itself, earlier ones first."""
        for merged in ended.merges or ():
            sources = merged.value if isinstance(merged.value, list) else [merged]
            for source in sources:
                if not isinstance(source.value, dict):
                    self._say(source.place, "<< takes a mapping, or a list of mappings")
                    continue
                assert isinstance(ended.node.value, dict)
                assert ended.node.keys is not None
                for name, node in source.value.items():
                    if name not in ended.node.value:
                        ended.node.value[name] = node
                        ended.node.keys[name] = (source.keys or {}).get(name, node.place)


def resolve(raw: str) -> Scalar:
    """What an unquoted scalar means."""
    if raw in _WORDS:
        found = _WORDS[raw]
        return found if isinstance(found, bool) else None
    if len(raw) <= 40:
        if _INTEGER.fullmatch(raw):
            return int(raw, 0)
        if _FLOAT.fullmatch(raw):
            return float(raw)
    return raw


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    yield path, node
    if isinstance(node.value, dict):
        for name, one in node.value.items():
            yield from walk(one, (*path, name))
    elif isinstance(node.value, list):
        for number, one in enumerate(node.value):
            yield from walk(one, (*path, number))
