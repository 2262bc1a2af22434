"""Bundles: content-addressed trees of files. Their digest is the sha256 of the manifest.

The manifest is canonical JSON (sorted keys, no spaces, UTF-8) of the entries sorted by path. A
worker that holds the folder can verify it with nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import msgspec

from modelfleet.core.blobs import BlobStore
from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.core.ids import digest
from modelfleet.core.layout import Layout


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    sha256: str
    size: int
    mode: int = 0o644


def manifest(entries: Sequence[Entry]) -> bytes:
    """The canonical manifest. Refuses paths that leave the bundle or name a file twice."""
    for entry in entries:
        pure = PurePosixPath(entry.path)
        strange = not entry.path.isprintable() or len(entry.path) > 250
        leaves = pure.is_absolute() or ".." in pure.parts
        if strange or leaves or str(pure) != entry.path or not pure.parts:
            raise InvalidInput(f"A bundle can't hold the path {entry.path[:250]!r}.")
        if entry.mode not in (0o644, 0o755) or entry.size < 0:
            raise InvalidInput(f"The entry {entry.path!r} has a wrong mode or size.")
    if not entries:
        raise InvalidInput("A bundle holds at least one file.")
    if len({entry.path for entry in entries}) != len(entries):
        raise InvalidInput("A bundle names a file twice.")
    folders = {str(parent) for e in entries for parent in PurePosixPath(e.path).parents}
    if folders & {entry.path for entry in entries}:
        raise InvalidInput("A bundle names a file that is a folder as well.")
    rows = [msgspec.to_builtins(e) for e in sorted(entries, key=lambda e: e.path)]
    text = json.dumps({"entries": rows}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


class BundleStore:
    """Bundles over a blob store, and the folders that workers read."""

    def __init__(self, layout: Layout, blobs: BlobStore) -> None:
        self._layout = layout
        self._blobs = blobs

    def check(self, entries: Sequence[Entry]) -> str:
        """The digest of a bundle whose blobs are all here with the right sizes."""
        content = manifest(entries)
        for entry in entries:
            if not self._blobs.has(entry.sha256):
                raise NotFound(f"The content of {entry.path} was not uploaded.")
            if self._blobs.path(entry.sha256).stat().st_size != entry.size:
                raise InvalidInput(f"{entry.path} does not have {entry.size} bytes.")
        return digest(content)

    def read(self, entries: Sequence[Entry], path: str) -> bytes:
        """The content of one file."""
        for entry in entries:
            if entry.path == path:
                return self._blobs.path(entry.sha256).read_bytes()
        raise NotFound(f"The bundle has no file {path}.")

    def materialise(self, entries: Sequence[Entry]) -> Path:
        """A folder with `manifest.json` and `files/`; made once, whole or not at all.

        Files are copies: nobody who reads the folder can reach the blobs behind it.
        """
        content = manifest(entries)
        folder = self._layout.bundle(digest(content))
        if folder.exists():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
        try:
            for entry in entries:
                target = building / "files" / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._blobs.path(entry.sha256), target)
                target.chmod(entry.mode)
            (building / "manifest.json").write_bytes(content)
            building.chmod(0o755)
            try:
                os.rename(building, folder)
            except OSError:
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return folder

    def take(self, folder: Path) -> tuple[Entry, ...]:
        """Store a bundle folder that a converter wrote (`folder/files/...`)."""
        root = folder / "files"
        found = []
        for path in sorted(root.rglob("*")):
            if path.is_symlink():  # it could lead to what its maker may not read
                raise InvalidInput(f"A bundle can't hold the link {path.name}.")
            if path.is_file():
                sha256, size = self._blobs.put([path.read_bytes()])
                found.append(Entry(path.relative_to(root).as_posix(), sha256, size))
        return tuple(found)
