"""Bundles: a folder of files named by the sha256 of its manifest.

On disk: `<digest>/manifest.json` and `<digest>/files/<path>`. The manifest is canonical JSON
(sorted keys, no blanks, UTF-8), its entries sorted by path, so that the same files give the same
digest on every machine. A file's mode is 0o755 if its owner may run it, else 0o644.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

MANIFEST = "manifest.json"
FILES = "files"
_CHUNK = 1 << 20


class BundleCorrupt(Exception):
    """The files of a bundle are not those that its digest promises."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: POSIX permission bits, path below `files/`, sha256 (hex), size in bytes."""

    mode: int
    path: str
    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All files of a bundle, sorted by path."""

    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)


def file_digest(path: Path) -> str:
    """sha256 of a file, lower-case hex."""
    state = hashlib.sha256()
    with open(path, "rb") as stream:
        while True:
            chunk = stream.read(_CHUNK)
            if not chunk:
                return state.hexdigest()
            state.update(chunk)


def canonical(manifest: Manifest) -> bytes:
    """The bytes whose sha256 names the bundle."""
    plain = {"entries": [msgspec.structs.asdict(entry) for entry in manifest.entries]}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def digest(manifest: Manifest) -> str:
    """The name of the bundle: sha256 of the canonical manifest, lower-case hex."""
    return hashlib.sha256(canonical(manifest)).hexdigest()


def manifest_of(files: Path) -> Manifest:
    """Manifest of a folder of plain files. Links and special files are refused (ValueError)."""
    entries = [_entry(files, path) for path in _walk(files)]
    return Manifest(entries=tuple(sorted(entries, key=lambda entry: entry.path)))


def write_manifest(folder: Path) -> str:
    """Describe `folder/files` in `folder/manifest.json`; return the bundle digest."""
    manifest = manifest_of(folder / FILES)
    (folder / MANIFEST).write_bytes(canonical(manifest))
    return digest(manifest)


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest; BundleCorrupt if it is none or names a path outside of the bundle."""
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (ValueError, RecursionError) as error:  # of msgspec, or of text that is no UTF-8
        raise BundleCorrupt(f"{MANIFEST}: {error}") from error
    for entry in manifest.entries:
        if not _is_inside(entry.path):
            raise BundleCorrupt(f"{MANIFEST}: the path {entry.path!r} leaves the bundle")
    return manifest


def verify(folder: Path, expected: str) -> Manifest:
    """Check every byte of a bundle against its digest; BundleCorrupt names the first bad file."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleCorrupt(f"{MANIFEST}: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BundleCorrupt(f"{MANIFEST}: its sha256 is {found}, not the bundle's {expected}")
    manifest = parse_manifest(content)
    for entry in manifest.entries:
        _verify_file(folder / FILES / entry.path, entry)
    return manifest


def _verify_file(path: Path, entry: Entry) -> None:
    try:
        size = path.stat().st_size
        found = file_digest(path) if size == entry.size else ""
    except OSError as error:
        raise BundleCorrupt(f"{entry.path}: {error.strerror}") from error
    if size != entry.size:
        raise BundleCorrupt(f"{entry.path}: {size} bytes instead of {entry.size}")
    if found != entry.sha256:
        raise BundleCorrupt(f"{entry.path}: its sha256 is {found}, not {entry.sha256}")


def _walk(files: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(files):
        for name in folders + names:
            path = Path(folder) / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ValueError(f"{path.relative_to(files)} is neither a plain file nor a folder")
            if path.is_file():
                yield path


def _entry(files: Path, path: Path) -> Entry:
    status = path.stat()
    return Entry(
        mode=0o755 if status.st_mode & 0o100 else 0o644,
        path=path.relative_to(files).as_posix(),
        sha256=file_digest(path),
        size=status.st_size,
    )


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in path
