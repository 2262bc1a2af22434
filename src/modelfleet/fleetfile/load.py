"""From a folder of files to the objects of a fleet: found, read, merged, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from modelfleet.fleetfile import check
from modelfleet.fleetfile.documents import (
    API_VERSION,
    KINDS,
    FleetDocument,
    ModelDocument,
    PipelineDocument,
)
from modelfleet.fleetfile.merge import lay
from modelfleet.fleetfile.nodes import MAX_BYTES, Node, parse
from modelfleet.fleetfile.problems import Place, Problem, Refused, did_you_mean
from modelfleet.fleetfile.validate import validate

FLEET_FILE = "fleet.yaml"
MAX_FILES = 20_000
_SKIPPED = frozenset({"__pycache__", "node_modules", "venv"})


@dataclass(frozen=True)
class Object:
    """One document with all that is laid under and over it."""

    kind: str
    name: str
    document: ModelDocument | PipelineDocument
    node: Node
    folder: Path
    """of its file: local files that it names are below the fleet's folder, found from here"""

    @property
    def plain(self) -> dict[str, Any]:
        """What it says, in plain values; quantities as numbers."""
        return plain(self.document)


@dataclass(frozen=True)
class Loaded:
    fleet: str
    stage: str
    root: Path
    objects: tuple[Object, ...]
    files: int
    stages: tuple[str, ...] = ()
    whole: bool = True
    """all documents of the fleet, not only some"""


def plain(document: BaseModel) -> dict[str, Any]:
    return document.model_dump(
        mode="json", by_alias=True, exclude_unset=True, exclude_none=True, exclude={"stages"}
    )


def load(place: Path, stage: str = "") -> Loaded:
    """The fleet at `place`: its folder, its fleet.yaml, a folder below it, or one document.

    The fleet.yaml is the nearest one, here or above.
    Raises `Refused` with all problems of all files.
    """
    reader = _Reader(stage)
    found = reader.read(place)
    if reader.problems:
        raise Refused(reader.problems)
    return found


def _fleet_file(place: Path) -> Path:
    """The nearest one; where it would be if there is none."""
    here = place.resolve() if place.is_dir() else place.resolve().parent
    if place.name == FLEET_FILE and place.is_file():
        return place.absolute()
    for folder in (here, *here.parents):
        if (folder / FLEET_FILE).is_file():
            return folder / FLEET_FILE
        if (folder / ".git").exists():
            break
    return here / FLEET_FILE


@dataclass
class _Reader:
    stage: str
    problems: list[Problem] = field(default_factory=list)
    root: Path = Path()
    files: int = 0

    def read(self, place: Path) -> Loaded:
        if not place.exists():
            raise Refused([Problem(Place(str(place)), "", "there is no such file or folder")])
        fleet_file = _fleet_file(place)
        self.root = fleet_file.parent.resolve()
        fleet, fleet_node = self._fleet(fleet_file)
        include = fleet.include if fleet else FleetDocument.model_fields["include"].default
        whole = place.resolve() in (self.root, fleet_file.resolve())
        paths = [place]
        if whole or place.is_dir():
            below = self.root if whole else place.resolve()
            paths = [path for path in self._matching(include) if path.is_relative_to(below)]
        paths.sort()
        bodies = [one for path in paths for one in self._bodies(path)]
        if not bodies and not self.problems:
            where = Problem(Place(str(place)), "", f"there is no document ({', '.join(include)})")
            raise Refused([where])
        name = fleet.metadata.name if fleet else "default"
        stages = self._known_stages(fleet, bodies)
        if self.stage and self.stage not in stages:
            hint = (
                did_you_mean(self.stage, stages)
                or f"there are: {', '.join(sorted(stages)) or 'none'}"
            )
            self.problems.append(
                Problem(Place(str(fleet_file)), "stages", f"there is no stage {self.stage!r}", hint)
            )
        objects = [one for body in bodies if (one := self._object(body, fleet_node)) is not None]
        kept = [one for one in objects if not self._excluded(one.name, fleet)]
        self.problems += check.together(kept)
        return Loaded(
            name, self.stage, self.root, tuple(kept), self.files, tuple(sorted(stages)), whole
        )

    def _fleet(self, path: Path) -> tuple[FleetDocument | None, Node | None]:
        if path.name != FLEET_FILE or not path.exists():
            return None, None
        for node in self._nodes(path):
            made, problems = validate(FleetDocument, node)
            self.problems += problems
            self.problems += check.overlays(node)
            return made, node
        return None, None

    # Files -------------------------------------------------------------------------------------

    def _matching(self, globs: tuple[str, ...]) -> set[Path]:
        found: set[Path] = set()
        for path in self._walk():
            name = path.relative_to(self.root).as_posix()
            if path.name != FLEET_FILE and any(_pattern(one).fullmatch(name) for one in globs):
                found.add(path)
                if len(found) > MAX_FILES:
                    self._say(path, f"the fleet has more than {MAX_FILES} files")
                    break
        return found

    def _walk(self) -> Iterator[Path]:
        for here, folders, names in os.walk(self.root):
            folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith("."))
            for name in names:
                yield Path(here) / name

    def _say(self, path: Path, message: str) -> None:
        self.problems.append(Problem(Place(self._shown(path)), "", message))

    def _shown(self, path: Path) -> str:
        try:
            return str(path.relative_to(Path.cwd()))
        except ValueError:
            return str(path)

    def _nodes(self, path: Path) -> list[Node]:
        self.files += 1
        shown = self._shown(path)
        try:
            if not path.resolve().is_relative_to(self.root):
                self._say(path, "this is a link that leaves the folder of the fleet")
                return []
            if not path.is_file():
                self._say(path, "this is no file")
                return []
            if path.stat().st_size > MAX_BYTES:
                self._say(path, f"the file is larger than {MAX_BYTES // 1000} kB")
                return []
            return parse(path.read_text("utf-8"), shown)
        except UnicodeDecodeError as error:
            self._say(path, f"this is no UTF-8 text (byte {error.start})")
        except OSError as error:
            self._say(path, f"this can't be read: {error.strerror}")
        except Refused as refused:
            self.problems += refused.problems
        return []

    def _bodies(self, path: Path) -> list[tuple[str, Node, Path]]:
        """(kind, node, folder) of the documents of a file."""
        found = []
        for node in self._nodes(path):
            if not isinstance(node.value, dict):
                self.problems.append(Problem(node.place, "", "a document is a mapping"))
                continue
            kind, version = node.value.get("kind"), node.value.get("apiVersion")
            kinds = [one for one in KINDS if one != "Fleet"]
            if kind is None or kind.raw not in kinds:
                shown = kind.raw if kind is not None else ""
                said = f"{shown!r} is no kind of document here" if kind else "kind is missing"
                hint = did_you_mean(shown, [one.lower() for one in kinds]).title() or (
                    f"there are: {', '.join(kinds)}"
                )
                place = kind.place if kind is not None else node.place
                self.problems.append(Problem(place, "kind", said, hint))
                continue
            if version is not None and version.raw != API_VERSION:
                self.problems.append(
                    Problem(version.place, "apiVersion", f"this release reads {API_VERSION} only")
                )
                continue
            found.append((kind.raw, node, path.parent))
        return found

    # Merging -----------------------------------------------------------------------------------

    def _known_stages(
        self, fleet: FleetDocument | None, bodies: list[tuple[str, Node, Path]]
    ) -> set[str]:
        known = set(fleet.stages or ()) if fleet else set()
        for _, node, _ in bodies:
            own = node.at(("stages",))
            if own is not None and isinstance(own.value, dict):
                known |= set(own.value)
        return known

    def _excluded(self, name: str, fleet: FleetDocument | None) -> bool:
        stage = (fleet.stages or {}).get(self.stage) if fleet else None
        excluded = (stage.exclude or ()) if stage else ()
        return any(fnmatchcase(name, one) for one in excluded)

    def _object(self, body: tuple[str, Node, Path], fleet: Node | None) -> Object | None:
        kind, node, folder = body
        merged = self._merged(kind, node, fleet)
        document, problems = validate(KINDS[kind], merged)
        self.problems += problems
        if document is None:
            return None
        assert isinstance(document, (ModelDocument, PipelineDocument))
        made = Object(kind, document.metadata.name, document, merged, folder)
        self.problems += check.alone(made.document, merged)
        return made

    def _merged(self, kind: str, node: Node, fleet: Node | None) -> Node:
        """Defaults of the fleet, of the tier, of the stage; the document; its stage."""
        name = node.at(("metadata", "name"))
        shown = name.raw if name is not None else ""
        plural = "models" if kind == "Model" else "pipelines"
        overlays = [node.at(("stages", self.stage))] if self.stage else []
        below: list[Node | None] = []
        if fleet is not None:
            in_stage = ("stages", self.stage)
            if self.stage:
                overlays.insert(0, fleet.at((*in_stage, plural, shown)))
            if kind == "Model":
                plain_defaults = [fleet.at(("defaults",))]
                if self.stage:
                    plain_defaults.append(fleet.at((*in_stage, "defaults")))
                tier = self._tier([*plain_defaults, node, *overlays])
                below.append(fleet.at(("defaults",)))
                below.append(fleet.at(("tiers", tier)))
                if self.stage:
                    below.append(fleet.at((*in_stage, "defaults")))
                    below.append(fleet.at((*in_stage, "tiers", tier)))
        merged: Node | None = None
        for one in (*below, node, *overlays):
            merged = lay(merged, one)
        assert merged is not None
        assert isinstance(merged.value, dict)
        return Node(merged.value, node.place, keys=merged.keys)

    def _tier(self, layers: list[Node | None]) -> str:
        tier = "normal"
        for layer in layers:
            found = layer.at(("metadata", "tier")) if layer is not None else None
            if found is not None and found.raw:
                tier = found.raw
        return tier


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    """`**/` also stands for no folder; `*` does not cross folders."""
    text = re.escape(glob.removeprefix("./"))
    for written, meant in (
        (r"\*\*/", "(?:.*/)?"),
        (r"\*\*", ".*"),
        (r"\*", "[^/]*"),
        (r"\?", "[^/]"),
    ):
        text = text.replace(written, meant)
    return re.compile(text)
