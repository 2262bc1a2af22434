"""Making a snapshot of a home, whether it runs or not.

The database comes first, then the blobs that its rows name: what was registered in between is not
in the rows, and what is in the rows was stored before them. Meanwhile no blob can be deleted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from modelfleet import __version__
from modelfleet.backup.manifest import File, Manifest, Object
from modelfleet.backup.place import Place
from modelfleet.backup.rows import Dump, dump
from modelfleet.backup.sealing import CHUNK
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.database import Database, place_of
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.core.files import hold
from modelfleet.core.layout import Layout
from modelfleet.core.settings import Settings

_SCRATCH = ".backup-"
log = structlog.get_logger(__name__)
Report = Callable[[str, int, int], None]
"""What is being copied, bytes done, bytes in all."""


@dataclass(frozen=True)
class Created:
    """missing: blobs of versions that the home does not hold (any more), or whose content is not
    what its name says."""

    snapshot: str
    folder: Path
    rows: int
    blobs: int
    new_objects: int
    new_bytes: int
    all_bytes: int
    encrypted: bool
    keys: bool
    evidence: bool
    settings: bool
    missing: tuple[str, ...]


def create(
    settings: Settings,
    place: Place,
    *,
    keys: bool = False,
    evidence: bool = False,
    report: Report = lambda *_: None,
) -> Created:
    """A new snapshot in `place`.

    keys: with the signing key, the admin's key and the like, also into a place that is not
    encrypted; into an encrypted one they always come along. evidence: with counters, windows and
    predictions. Raises `NotFound` if the home was never started, `Unavailable` if there is no
    database or no space, `Conflict` while another backup is being made of it or in the place.
    """
    layout = settings.layout
    if not layout.signing_key.exists():
        raise NotFound(f"{layout.home} was never started.", hint="There is nothing to keep.")
    keys = keys or place.encrypted
    blobs = FolderBlobStore(layout.blobs)
    with (
        place.alone(),
        _alone(layout),
        blobs.kept(),
        tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=layout.home) as scratch,
    ):
        copied = _Copied(place, report)
        database = Database(place_of(settings))
        try:
            rows = Path(scratch) / "rows.jsonl.gz"
            dumped = dump(database, rows)
            store = database.engine.dialect.name
        finally:
            database.close()
        copied.total = rows.stat().st_size
        kept_rows = copied.file(rows)
        kept_blobs, missing = _blobs(blobs, dumped, copied)
        files = [*_settings(settings, secret=place.encrypted or keys)]
        with_settings = bool(files)
        files += _keys(settings) if keys else []
        kept = [_kept(layout.home, path, path, copied) for path in files]
        kept += _evidence(settings, Path(scratch), copied) if evidence else []
        manifest = Manifest(
            id=datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ"),
            release=__version__,
            store=store,
            schema=dumped.schema,
            rows=dumped.rows,
            counters=dumped.counters,
            audit=dumped.audit,
            database=kept_rows,
            blobs=tuple(kept_blobs),
            files=tuple(kept),
            keys=keys,
            evidence=evidence,
        )
        place.write(manifest)
    return Created(
        snapshot=manifest.id,
        folder=place.folder,
        rows=sum(dumped.rows.values()),
        blobs=len(kept_blobs),
        new_objects=copied.new,
        new_bytes=copied.new_bytes,
        all_bytes=sum(manifest.objects().values()),
        encrypted=place.encrypted,
        keys=keys,
        evidence=evidence,
        settings=with_settings,
        missing=tuple(missing),
    )


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """One backup of a home at a time: what an interrupted one left can be removed."""
    handle = hold(layout.run / "backup.lock")
    if handle is None:
        raise Conflict(f"Another backup of {layout.home} is running.")
    try:
        for left in layout.home.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left)
        yield
    finally:
        os.close(handle)


class _Copied:
    """Copies contents that the place lacks, and counts."""

    def __init__(self, place: Place, report: Report) -> None:
        self._place = place
        self._report = report
        self.done = self.total = 0
        self.new = self.new_bytes = 0

    def file(self, path: Path, sha256: str | None = None) -> Object:
        """sha256: if it is known. Raises `InvalidInput` if the content is another one."""
        size = path.stat().st_size
        if sha256 is None:
            with path.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if self._place.has(sha256, size):
            self._tell(path.name, size)
            return Object(sha256, size)
        made = self._place.put(self._chunks(path), sha256)
        self.new += 1
        self.new_bytes += made.size
        return made

    def _chunks(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
                self._tell(path.name, len(chunk))

    def _tell(self, name: str, size: int) -> None:
        self.done += size
        self._report(name, self.done, max(self.total, self.done))


def _blobs(blobs: FolderBlobStore, dumped: Dump, copied: _Copied) -> tuple[list[Object], list[str]]:
    named = sorted(one for one in dumped.digests | dumped.bundled if blobs.has(one))
    copied.total += sum(blobs.path(one).stat().st_size for one in named)
    kept, missing = [], sorted(dumped.bundled - set(named))
    for one in named:
        try:
            kept.append(copied.file(blobs.path(one), one))
        except InvalidInput as error:
            log.error("a blob is damaged", blob=one, error=error.message)
            missing.append(one)
    return kept, missing


def _settings(settings: Settings, secret: bool) -> Sequence[Path]:
    """Unless it holds the database's password, which only a secret backup may."""
    path = settings.layout.settings_file
    if not path.exists():
        return []
    held = tomllib.loads(path.read_text("utf-8")).get("database", {})
    password = held.get("password") or urlsplit(held.get("url", "")).password
    return [] if password and not secret else [path]


def _keys(settings: Settings) -> list[Path]:
    layout = settings.layout
    found = [layout.admin_key, *sorted(layout.keys.glob("*"))]
    return [path for path in found if path.is_file()]


def _evidence(settings: Settings, scratch: Path, copied: _Copied) -> list[File]:
    """A consistent copy of evidence.db, then the Parquet files that it may name."""
    layout = settings.layout
    if not layout.evidence_database.exists():
        return []
    copy = scratch / "evidence.db"
    with (
        closing(sqlite3.connect(f"{layout.evidence_database.as_uri()}?mode=ro", uri=True)) as ours,
        closing(sqlite3.connect(copy)) as other,
    ):
        ours.backup(other, pages=4096)
    found = [_kept(layout.home, layout.evidence_database, copy, copied)]
    for folder in (layout.predictions, layout.outcomes):
        for path in sorted(folder.rglob("*.parquet")):
            found.append(_kept(layout.home, path, path, copied))
    return found


def _kept(home: Path, path: Path, source: Path, copied: _Copied) -> File:
    mode = (path if path.exists() else source).stat().st_mode & 0o777
    return File(path.relative_to(home).as_posix(), mode, copied.file(source))
