"""Models in files and folders, whatever tool left them there; a map may say more about each."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from modelfleet.client.errors import ClientError
from modelfleet.client.saving import read_rows
from modelfleet.importing.names import model_name, semver
from modelfleet.importing.openers import Opener, walk
from modelfleet.importing.packed import ALL
from modelfleet.importing.types import Attention, Found, Item, Refused

KINDS = tuple(opener.kind for opener in ALL)


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the map: what is known of one path. Paths are relative to the map's folder."""

    path: str
    name: str | None = None
    team: str | None = None
    version: str | None = None
    kind: str | None = None
    python: str | None = None
    requirements: list[str] | None = None
    example: str | None = None
    source: str | None = None
    class_name: str | None = None
    description: str = ""
    tags: dict[str, str] = {}


def read_map(path: Path) -> dict[Path, Told]:
    """`models.yaml` (a list, or `models:` with one) or a CSV with these columns. Raises
    `ClientError`."""
    try:
        if path.suffix.lower() == ".csv":
            with path.open(newline="", encoding="utf-8") as stream:
                lines: Any = [_from_csv(row) for row in csv.DictReader(stream)]
        else:
            lines = yaml.safe_load(path.read_text("utf-8"))
            lines = lines.get("models") if isinstance(lines, dict) else lines
        told = msgspec.convert(lines, list[Told], strict=False)
    except (OSError, ValueError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ClientError(f"{path.name}: {error}") from error
    return {(path.parent / one.path).resolve(): one for one in told}


def _from_csv(row: Mapping[str, str | None]) -> dict[str, object]:
    found: dict[str, object] = {key: value for key, value in row.items() if key and value}
    if isinstance(needed := found.get("requirements"), str):
        found["requirements"] = [one.strip() for one in needed.split(";") if one.strip()]
    return found


class Files:
    """paths: files and folders. kinds: only these openers; all if empty. told: by resolved path."""

    name = "files"
    fetches = False

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        kinds: Sequence[str] = (),
        told: Mapping[Path, Told] | None = None,
        base: Path | None = None,
    ) -> None:
        self._paths = paths
        self._openers = [one for one in ALL if not kinds or one.kind in kinds]
        self._told = dict(told or {})
        self._base = (base or Path.cwd()).resolve()
        self._found: dict[str, tuple[Path, Opener | None]] = {}
        self._facts: dict[str, dict[str, object]] = {}

    def items(self) -> Iterator[Item]:
        missing = [path for path in self._told if not path.exists()]
        if missing:
            raise ClientError(f"The map names {missing[0]}, which is not there.")
        for path in self._paths:
            if not path.exists():
                raise ClientError(f"There is no {path}.")
            any_found = False
            for place, opener in walk(path, self._openers):
                any_found = True
                yield self._item(place, opener)
            if not any_found:
                yield self._item(path, None)

    def _item(self, path: Path, opener: Opener | None) -> Item:
        told = self._told.get(path.resolve())
        name, number = opener.names(path) if opener is not None else (path.stem, None)
        if told is not None:
            name, number = told.name or name, told.version or number
        key = f"files:{_relative(path.resolve(), self._base)}"
        self._found[key] = (path, opener)
        model = model_name(name)
        if told is not None:
            self._facts[model] = {
                "team": told.team,
                "description": told.description,
                "tags": told.tags,
            }
        return Item(key, model, semver(number) if number else None, title=str(path))

    def model_facts(self, model: str) -> Mapping[str, object]:
        return self._facts.get(model, {})

    def take(self, item: Item, work: Path) -> Found:
        path, opener = self._found[item.key]
        if opener is None:
            kinds = ", ".join(one.kind for one in self._openers)
            raise Refused(f"{path.name} is none of what is looked for here ({kinds}).")
        found = opener.take(path, work)
        told = self._told.get(path.resolve())
        if told is not None:
            self._apply(found, told)
        return found

    def _apply(self, found: Found, told: Told) -> None:
        found.kind = told.kind or found.kind
        found.python = told.python or found.python
        found.requirements = told.requirements or found.requirements
        found.class_name = told.class_name or found.class_name
        if told.source:
            found.code = self._beside(told.source)
        if told.example:
            found.example = read_rows(self._beside(told.example))
            found.example_from, found.made_up = told.example, False

    def _beside(self, name: str) -> Path:
        for folder in dict.fromkeys(path.parent for path in self._roots()):
            if (folder / name).exists():
                return folder / name
        if (self._base / name).exists():
            return self._base / name
        raise Attention(f"The map names {name}, which is not there.")

    def _roots(self) -> Iterator[Path]:
        for path, told in self._told.items():
            depth = len(Path(told.path).parts)
            yield Path(*path.parts[: len(path.parts) - depth], "x")


def _relative(path: Path, base: Path) -> str:
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
