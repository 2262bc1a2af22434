"""Unpacking what somebody sent: tar (plain, gzip, bzip2, xz) and zip.

An archive is refused whole: for entries that would land outside, links, devices, names that differ
only for some file systems, or more content than allowed. It is unpacked beside the target and takes
its name at the end, so a refusal leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

from modelfleet.core.errors import InvalidInput

_CHUNK = 1 << 20
_HEADER_BYTES = 1 << 20
_RATIO_FROM = 64 << 20
_PACKED = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".zip", ".7z", ".rar")


class ArchiveRefused(InvalidInput):
    """This archive can't be unpacked safely."""

    slug = "archive-refused"


@dataclass(frozen=True)
class Limits:
    """files: entries. total_bytes: of all contents. ratio: contents to archive, once they exceed
    64 MiB. depth: folders in a path. nested: archives inside are accepted (and left packed)."""

    files: int = 20_000
    total_bytes: int = 64 << 30
    ratio: int = 200
    depth: int = 24
    nested: bool = False


def extract(archive: Path, into: Path, limits: Limits | None = None) -> None:
    """Unpack into the new folder `into`. Raises `ArchiveRefused`; then there is no `into`."""
    if into.exists():
        raise ArchiveRefused(f"{into.name} exists already.")
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}."))
    try:
        with archive.open("rb") as stream:
            _Unpacking(archive, partial, limits or Limits()).run(stream)
        partial.chmod(0o755)
        partial.rename(into)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_links(folder: Path) -> None:
    """Of a folder that somebody passed: links that lead out of it, and what is no file."""
    top = folder.resolve()
    for here, folders, names in os.walk(folder):
        for name in folders + names:
            path = Path(here) / name
            if path.is_symlink() and not path.resolve().is_relative_to(top):
                raise ArchiveRefused(f"{path.relative_to(folder)} is a link that leads out.")
            if not (path.is_dir() or path.is_file()):
                raise ArchiveRefused(f"{path.relative_to(folder)} is neither file nor folder.")


class _Careful(tarfile.TarInfo):
    """Extended headers are read into memory: only small ones."""

    def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        self._check()
        return super()._proc_pax(archive)  # type: ignore[misc, no-any-return]

    def _proc_gnulong(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        self._check()
        return super()._proc_gnulong(archive)  # type: ignore[misc, no-any-return]

    def _check(self) -> None:
        if self.size > _HEADER_BYTES:
            raise ArchiveRefused(f"A header of the archive has {self.size} bytes.")


class _Unpacking:
    def __init__(self, archive: Path, target: Path, limits: Limits) -> None:
        self._archive = archive
        self._target = target
        self._limits = limits
        self._packed = max(archive.stat().st_size, 1)
        self._files = 0
        self._bytes = 0
        self._seen: dict[str, bool] = {}

    def run(self, stream: IO[bytes]) -> None:
        name = self._archive.name
        try:
            if zipfile.is_zipfile(stream):
                self._zip(stream)
                return
            stream.seek(0)
            self._tar(stream)
        except ArchiveRefused:
            raise
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            EOFError,
            zlib.error,
            RuntimeError,
            NotImplementedError,
            ValueError,
            UnicodeError,
            OSError,
        ) as error:
            if isinstance(error, OSError) and error.errno in (28, 122):  # disk full, quota
                raise
            raise ArchiveRefused(f"{name} is no archive that can be read: {error}") from error

    def _tar(self, stream: IO[bytes]) -> None:
        with tarfile.open(fileobj=stream, mode="r:*", tarinfo=_Careful) as archive:
            for member in archive:
                if member.isdir():
                    self._folder(member.name)
                    continue
                if member.issym() or member.islnk():
                    raise ArchiveRefused(f"{_shown(member.name)} is a link to {member.linkname!r}.")
                if not member.isreg() or member.issparse():
                    raise ArchiveRefused(f"{_shown(member.name)} is no plain file.")
                path = self._file(member.name, member.size)
                content = archive.extractfile(member)
                if content is None:
                    raise ArchiveRefused(f"{_shown(member.name)} has no content.")
                self._copy(content, path, member.size)

    def _zip(self, stream: IO[bytes]) -> None:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            self._check_layout(members)
            for member in members:
                mode = member.external_attr >> 16
                if stat.S_ISLNK(mode):
                    raise ArchiveRefused(f"{_shown(member.filename)} is a link.")
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise ArchiveRefused(f"{_shown(member.filename)} is no plain file.")
                if member.flag_bits & 1:
                    raise ArchiveRefused(f"{_shown(member.filename)} is encrypted.")
                if "\0" in member.orig_filename:
                    raise ArchiveRefused(f"{_shown(member.orig_filename)} is no file name.")
                if member.is_dir():
                    self._folder(member.filename)
                    continue
                path = self._file(member.filename, member.file_size)
                with archive.open(member) as content:
                    self._copy(content, path, member.file_size)

    def _check_layout(self, members: list[zipfile.ZipInfo]) -> None:
        """Nothing before the first entry, and no entry inside of another."""
        places = sorted((one.header_offset, one.compress_size) for one in members)
        if not places or places[0][0] != 0:
            raise ArchiveRefused("The archive is empty, or begins somewhere else.")
        for (place, size), (following, _) in pairwise(places):
            if place + size > following:
                raise ArchiveRefused("Entries of the archive overlap.")

    def _folder(self, name: str) -> None:
        path = self._place(name, folder=True)
        path.mkdir(parents=True, exist_ok=True)

    def _file(self, name: str, size: int) -> Path:
        """Where it goes; refused if there is too much of anything."""
        if name.lower().endswith(_PACKED) and not self._limits.nested:
            raise ArchiveRefused(f"{_shown(name)} is an archive inside of the archive.")
        path = self._place(name, folder=False)
        self._count(size)
        self._bytes -= size  # what is really read is counted again
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _count(self, size: int) -> None:
        self._bytes += size
        limits = self._limits
        if size < 0 or self._bytes > limits.total_bytes:
            raise ArchiveRefused(f"It holds more than {limits.total_bytes} bytes.")
        if self._bytes > _RATIO_FROM and self._bytes > limits.ratio * self._packed:
            raise ArchiveRefused(f"It unpacks to more than {limits.ratio} times its size.")

    def _place(self, name: str, *, folder: bool) -> Path:
        self._files += 1
        if self._files > self._limits.files:
            raise ArchiveRefused(f"It holds more than {self._limits.files} entries.")
        parts = _parts(name)
        if len(parts) > self._limits.depth:
            raise ArchiveRefused(f"{_shown(name)} lies deeper than {self._limits.depth} folders.")
        for key, is_folder in _keys(parts, folder):
            known = self._seen.get(key)
            if known is not None and not (known and is_folder):
                raise ArchiveRefused(f"{_shown(name)} is there twice.")
            self._seen[key] = is_folder
        return self._target.joinpath(*parts)

    def _copy(self, content: IO[bytes], path: Path, size: int) -> None:
        read = 0
        with path.open("xb") as file:
            while chunk := content.read(_CHUNK):
                read += len(chunk)
                self._count(len(chunk))
                file.write(chunk)
        if read != size:
            raise ArchiveRefused(f"{_shown(path.name)} has {read} bytes instead of {size}.")


def _parts(name: str) -> list[str]:
    """The parts of a path that stays inside."""
    if not name or name.startswith("/") or "\\" in name or (len(name) > 1 and name[1] == ":"):
        raise ArchiveRefused(f"{_shown(name)} is no relative path.")
    if len(name) > 1024 or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise ArchiveRefused(f"{_shown(name)} is no file name.")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ArchiveRefused(f"{_shown(name)} leads out of the archive.")
    if any(len(part.encode()) > 255 for part in parts):
        raise ArchiveRefused(f"{_shown(name)} is no file name.")
    return parts


def _keys(parts: list[str], folder: bool) -> Iterator[tuple[str, bool]]:
    """Of the path and the folders above it, as the most forgiving file system would name them."""
    for count in range(1, len(parts) + 1):
        text = unicodedata.normalize("NFKC", "/".join(parts[:count])).casefold()
        yield text, folder or count < len(parts)


def _shown(name: str) -> str:
    return ascii(name[:120])
