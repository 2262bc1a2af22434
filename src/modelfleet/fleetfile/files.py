"""Local files that a document names: found, hashed, noted in the document as it is applied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelfleet.fleetfile.documents import ModelDocument
from modelfleet.fleetfile.gates import Run
from modelfleet.fleetfile.load import Loaded, Object
from modelfleet.fleetfile.problems import Path as Where
from modelfleet.fleetfile.problems import Problem, Refused, written
from modelfleet.fleetfile.sections import FileDigest

MAX_FILES = 10_000
"""below one folder that a document names"""
_TABLES = (".csv", ".parquet", ".json", ".jsonl", ".npy", ".npz")
_SKIPPED = frozenset({"__pycache__", ".git", ".venv", "venv", "node_modules"})


@dataclass(frozen=True)
class Local:
    """A file of a fleet: what `apply` uploads."""

    path: Path
    digest: str
    size: int


def settle(loaded: Loaded) -> tuple[Loaded, dict[str, Local]]:
    """The fleet with the digests of local files in its documents, and these files by digest.

    Raises `Refused` for files that are not there or lie outside of the fleet's folder.
    """
    uploads: dict[str, Local] = {}
    problems: list[Problem] = []
    objects = [_settled(one, loaded.root, uploads, problems) for one in loaded.objects]
    if problems:
        raise Refused(problems)
    return replace(loaded, objects=tuple(objects)), uploads


def _settled(one: Object, root: Path, uploads: dict[str, Local], problems: list[Problem]) -> Object:
    document = one.document
    if not isinstance(document, ModelDocument):
        return one
    changes: dict[str, object] = {}
    found: dict[str, FileDigest] = {}
    for where, name in _named(document):
        for shown, local in _below(one, root, where, name, problems):
            found[shown] = FileDigest(digest=local.digest, size=local.size)
            uploads[local.digest] = local
    if found:
        changes["files"] = dict(sorted(found.items()))
    source = document.source
    if source is not None and source.path is not None:
        digest = hashlib.sha256(repr((source.kind, source.requirements, source.python)).encode())
        named = (
            ("path", source.path),
            ("example", source.example),
            ("reference", source.reference),
        )
        for key, told in named:
            if told is not None:
                for shown, local in _below(one, root, ("source", key), told, problems):
                    digest.update(f"{key} {shown} {local.digest}\n".encode())
        changes["source"] = source.model_copy(update={"digest": digest.hexdigest()})
    if not changes:
        return one
    return replace(one, document=document.model_copy(update=changes))


def _named(document: ModelDocument) -> Iterator[tuple[Where, str]]:
    """Paths of files that go along with the document, and where they stand in it."""
    for number, entry in enumerate(document.gates or ()):
        [kind] = entry.model_fields_set
        told = getattr(entry, kind)
        if isinstance(told, Run):
            yield ("gates", number, kind, "uses"), told.uses
        dataset = getattr(told, "dataset", None)
        if isinstance(dataset, str) and is_local(dataset):
            yield ("gates", number, kind, "dataset"), dataset
    train = document.train
    for number, name in enumerate((train.code or ()) if train else ()):
        yield ("train", "code", number), name
    for key, name in ((train.inputs or {}) if train else {}).items():
        if is_local(name):
            yield ("train", "inputs", key), name


def is_local(dataset: str) -> bool:
    """A table beside the document, not `NAME@VERSION` of the registry."""
    return dataset.startswith(("./", "../")) or dataset.lower().endswith(_TABLES)


def _below(
    one: Object, root: Path, where: Where, name: str, problems: list[Problem]
) -> Iterator[tuple[str, Local]]:
    """The file, or the files of the folder, with their paths as the document has them."""
    path = one.folder / name
    try:
        files = list(_files(path, root))
    except _Unusable as error:
        place = one.node.place_of(where)
        problems.append(Problem(place, written(where), f"{name}: {error}"))
        return
    for file in files:
        digest, size = _digest(file)
        shown = name if file == path else f"{name.rstrip('/')}/{file.relative_to(path).as_posix()}"
        yield shown, Local(file, digest, size)


class _Unusable(Exception):
    """Why a path can't be used."""


def _files(path: Path, root: Path) -> Sequence[Path]:
    if not path.exists():
        raise _Unusable("there is no such file or folder")
    if not path.resolve().is_relative_to(root):
        raise _Unusable("this lies outside of the folder of the fleet")
    if path.is_file():
        return [path]
    found = []
    for here, folders, names in os.walk(path):
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith("."))
        for name in sorted(names):
            file = Path(here) / name
            if not file.resolve().is_relative_to(root):
                raise _Unusable(f"{file.relative_to(path)} leads out of the folder of the fleet")
            if file.is_file() and file.suffix != ".pyc":
                found.append(file)
            if len(found) > MAX_FILES:
                raise _Unusable(f"more than {MAX_FILES} files")
    return found


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size
