"""From a snapshot to a home. It is built beside its place, and appears there when it is whole."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from modelfleet.backup.create import Report
from modelfleet.backup.manifest import Manifest, Object
from modelfleet.backup.place import Place
from modelfleet.backup.rows import Dump, load
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, FleetError, InvalidInput
from modelfleet.core.files import write_atomically
from modelfleet.core.layout import Layout
from modelfleet.core.postgres import url_of
from modelfleet.core.settings import DatabaseSettings, Settings


@dataclass(frozen=True)
class Verified:
    snapshot: str
    objects: int
    bytes: int
    rows: int
    bad: tuple[str, ...]
    """contents that are missing or damaged, and why"""

    @property
    def ok(self) -> bool:
        return not self.bad


@dataclass(frozen=True)
class Restored:
    snapshot: str
    home: Path
    store: str
    rows: int
    blobs: int
    keys: bool
    """False: the home makes new keys; those that were issued do not count any more"""
    evidence: bool


def verify(place: Place, snapshot: str | None = None, report: Report = lambda *_: None) -> Verified:
    """Read every byte of a snapshot. Raises `NotFound`, and `InvalidInput` if it can't be read."""
    manifest = place.manifest(snapshot)
    objects = manifest.objects()
    done, total, bad = 0, sum(objects.values()), []
    for sha256, size in sorted(objects.items()):
        try:
            for chunk in place.read(Object(sha256, size)):
                done += len(chunk)
                report(sha256[:12], done, total)
        except InvalidInput as error:
            bad.append(error.message)
    rows = sum(manifest.rows.values())
    return Verified(manifest.id, len(objects), total, rows, tuple(bad))


def restore(
    place: Place,
    home: Path,
    *,
    snapshot: str | None = None,
    database_url: str = "",
    password: str = "",
    report: Report = lambda *_: None,
) -> Restored:
    """Build the home from the newest snapshot, or from another one; every digest is checked.

    home: must not exist, or be empty. database_url: of an empty PostgreSQL database; without one
    it is SQLite, wherever the backup came from. password: of that database, if it is not in the
    address; it is not written down. Raises `Conflict` if either is not empty, and
    `InvalidInput` if the backup is damaged: then there is no home.
    """
    manifest = place.manifest(snapshot)
    home = home.absolute()
    _refuse_used(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        building.chmod(0o755)  # workers may be another user
        _fill(place, manifest, Layout(building), report)
        _write_settings(Layout(building), database_url)
        target: Path | sa.URL = Layout(building).fleet_database
        if database_url:
            wanted = Settings(home=building, database=DatabaseSettings(database_url, password))
            target = url_of(wanted)
        _load(place, manifest, target)
        _refuse_used(home)
        os.replace(building, home)  # over an empty folder, too
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Restored(
        snapshot=manifest.id,
        home=home,
        store="postgresql" if database_url else "sqlite",
        rows=sum(manifest.rows.values()),
        blobs=len(manifest.blobs),
        keys=manifest.keys,
        evidence=manifest.evidence,
    )


def _refuse_used(home: Path) -> None:
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise Conflict(f"{home} is not empty.", hint="Restore into a folder that is not there yet.")


def _fill(place: Place, manifest: Manifest, layout: Layout, report: Report) -> None:
    done, total = 0, sum(manifest.objects().values())

    def read(wanted: Object) -> Iterator[bytes]:
        nonlocal done
        for chunk in place.read(wanted):
            yield chunk
            done += len(chunk)
            report(wanted.sha256[:12], done, total)

    blobs = FolderBlobStore(layout.blobs)
    for one in manifest.blobs:
        blobs.put(read(one), one.sha256)
    for file in manifest.files:
        path = layout.home / file.path
        if not path.resolve().is_relative_to(layout.home.resolve()):
            raise InvalidInput(f"The backup names a file outside of the home: {file.path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent == layout.keys:
            layout.keys.chmod(0o700)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as stream:
            for chunk in read(file.content):
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        path.chmod(file.mode & 0o777)


def _load(place: Place, manifest: Manifest, target: Path | sa.URL) -> None:
    dumped = Dump(manifest.schema, manifest.rows, manifest.counters, manifest.audit)
    database = Database(target)
    try:
        chunks = place.read(manifest.database)
        with gzip.open(io.BufferedReader(_Stream(chunks)), "rt", encoding="utf-8") as lines:
            load(database, lines, dumped)
        for _ in chunks:  # to the end, where it is proven
            raise InvalidInput("The backup's rows go on behind their end.")
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"The rows of the backup are damaged: {error}") from error
    finally:
        database.close()


class _Stream(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _write_settings(layout: Layout, database_url: str) -> None:
    """Those of the backup, but of the database that is now the home's."""
    path = layout.settings_file
    before = path.read_text("utf-8") if path.exists() else ""
    text = _without_database(before) if before else ""
    if database_url:
        quoted = database_url.replace("\\", "\\\\").replace('"', '\\"')
        text = f'{text.rstrip()}\n\n[database]\nurl = "{quoted}"\n'.lstrip()
    if text != before:
        write_atomically(path, text.encode(), 0o600)


def _without_database(text: str) -> str:
    """The same settings with what is said about the database as a comment."""
    lines, inside, top = [], False, True
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("["):
            inside, top = bare.split("]")[0].strip("[ ").split(".")[0] == "database", False
        about = inside or (top and bare.split("=")[0].split(".")[0].strip() == "database")
        lines.append(f"# {line}" if about and bare and not bare.startswith("#") else line)
    made = "\n".join(lines) + "\n"
    wanted = {k: v for k, v in tomllib.loads(text).items() if k != "database"}
    try:
        same = tomllib.loads(made) == wanted
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise FleetError("settings.toml of the backup can't be taken over without its database.")
    return made
