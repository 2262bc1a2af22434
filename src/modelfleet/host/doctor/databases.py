"""What is in the databases, and the files that its rows stand for."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.database import check, place_of
from modelfleet.core.errors import FleetError
from modelfleet.core.membership import member
from modelfleet.core.migrate import revision_of, revisions
from modelfleet.host.doctor.findings import (
    Examined,
    Finding,
    duration,
    fail,
    not_examined,
    ok,
    some,
    warn,
)
from modelfleet.serving.pools import read_pools
from modelfleet.telemetry.database import SCHEMA_VERSION
from modelfleet_worker.wire import bundle

_RESTORE = "Restore it from a backup; the file is kept as it is."
_SOON_SECONDS = 14 * 86400
_STUCK_SECONDS = 1800
_LIVE = "SELECT version_id FROM route WHERE weight > 0 OR shadow > 0"
_NONE = "there is no database yet"
_IMPORT = "import httptools, msgspec, numpy"


def integrity(examined: Examined) -> Iterator[Finding]:
    paths = [examined.layout.fleet_database, examined.layout.evidence_database]
    if examined.settings.database.url:
        yield _server(examined)
        paths = paths[1:]
    for path in paths:
        try:
            with examined.database(path) as connection:
                if connection is None:
                    yield not_examined(f"there is no {path.name} yet")
                    continue
                said = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
        except sqlite3.DatabaseError as error:
            yield fail(f"{path.name}: {error}", _RESTORE)
            continue
        if said == ["ok"]:
            yield ok(f"{path.name} is whole")
        else:
            yield fail(f"{path.name}: {'; '.join(said)}", _RESTORE)


def _server(examined: Examined) -> Finding:
    """Of the address, who it is only: neither password nor options."""
    try:
        place = place_of(examined.settings)
        check(examined.settings)
    except FleetError as error:
        return fail(error.message, error.hint)
    assert isinstance(place, sa.URL)
    where = place.host or place.query.get("host") or "this machine"
    return ok(f"PostgreSQL at {where} answers; the database is {place.database}")


def control_planes(examined: Examined) -> Iterator[Finding]:
    """With a server there may be several; `up` runs one of them."""
    if not examined.settings.database.url:
        yield ok("one, as SQLite has it")
        return
    with examined.fleet() as connection:
        assert connection is not None
        if not sa.inspect(connection).has_table(member.name):
            yield not_examined(_NONE)
            return
        query = sa.select(member.c.address).order_by(member.c.joined_at, member.c.id)
        found = [row.address for row in connection.execute(query)]
    if found:
        others = f"; {some(found[1:])} stand by" if found[1:] else ""
        yield ok(f"{found[0]} leads{others}")
    else:
        yield not_examined("no control plane runs")


def schema(examined: Examined) -> Iterator[Finding]:
    known = revisions()
    with examined.fleet() as connection:
        if connection is None:
            yield not_examined(_NONE)
        else:
            yield _revision(examined.fleet_name, revision_of(connection) or "", known)
    with examined.database(examined.layout.evidence_database) as evidence:
        if evidence is not None:
            (found,) = evidence.execute("PRAGMA user_version").fetchone()
            if found != SCHEMA_VERSION:
                said = f"evidence.db has schema {found}, this release reads {SCHEMA_VERSION}"
                yield fail(said, "Install the release that wrote it.")


def _revision(name: str, found: str, known: Sequence[str]) -> Finding:
    if found == known[-1]:
        return ok(f"{name} has schema {found}")
    if found in known or not found:
        said = f"{name} has schema {found or 'none'}, this release has {known[-1]}"
        return warn(said, "Start modelfleet: it upgrades the database.")
    said = f"{name} has schema {found}, which this release does not know"
    return fail(said, "Install the release that wrote it, or a newer one.")


def audit_chain(examined: Examined) -> Iterator[Finding]:
    with examined.fleet() as connection:
        if connection is None:
            yield not_examined(_NONE)
            return
        table = audit.audit_event
        count = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        rows = connection.execute(sa.select(table).order_by(table.c.sequence)).mappings()
        broken = audit.break_in(dict(row) for row in rows)
    if broken is None:
        yield ok(f"all {count} events fit their chain")
    else:
        remedy = "Somebody changed the record: compare with a backup. modelfleet audit verify"
        yield fail(f"event {broken} does not fit the chain", remedy)


def access_keys(examined: Examined) -> Iterator[Finding]:
    now = time.time()
    with examined.fleet() as connection:
        if connection is None:
            yield not_examined(_NONE)
            return
        rows = connection.execute(
            sa.text(
                "SELECT key.name, principal.name AS who, expires_at FROM key "
                "JOIN principal ON principal.id = principal_id "
                "WHERE revoked_at IS NULL AND expires_at < :soon ORDER BY expires_at"
            ),
            {"soon": int((now + _SOON_SECONDS) * 1e6)},
        ).all()
    past = [f"{row.who} ({row.name})" for row in rows if row.expires_at / 1e6 < now]
    soon = [f"{row.who} ({row.name})" for row in rows if row.expires_at / 1e6 >= now]
    remedy = "Issue new ones (modelfleet keys create), then revoke the old."
    if soon:
        yield warn(f"{len(soon)} keys expire within 14 days: {some(soon)}", remedy)
    if past:
        yield warn(f"{len(past)} keys have expired: {some(past)}", remedy)
    if not rows:
        yield ok("no key has expired or will within 14 days")


def jobs(examined: Examined) -> Iterator[Finding]:
    now = time.time()
    with examined.fleet() as connection:
        if connection is None:
            yield not_examined(_NONE)
            return
        rows = connection.execute(
            sa.text(
                "SELECT kind, key, status, attempts, created_at FROM job "
                "WHERE status IN ('queued', 'running') ORDER BY created_at"
            )
        ).all()
    stuck = [row for row in rows if now - row.created_at / 1e6 > _STUCK_SECONDS]
    for row in stuck[:5]:
        age = duration(now - row.created_at / 1e6)
        remedy = "See modelfleet logs control-plane; modelfleet restart --rolling queues it again."
        yield warn(f"{row.kind} {row.key} is {row.status} since {age}", remedy)
    if not stuck:
        yield ok(f"{len(rows)} jobs wait or run, none for long")


def blobs(examined: Examined) -> Iterator[Finding]:
    """Everything that live versions are made of; with `deep`, every byte of it."""
    layout = examined.layout
    with examined.fleet() as connection:
        if connection is None:
            yield not_examined(_NONE)
            return
        rows = connection.execute(
            sa.text(
                "SELECT digest, entries FROM bundle WHERE digest IN ("
                f"SELECT bundle_digest FROM model_version WHERE id IN ({_LIVE}) "
                f"UNION SELECT bundle_digest FROM variant WHERE version_id IN ({_LIVE}))"
            )
        ).all()
    troubles, files = [], 0
    store = FolderBlobStore(layout.blobs) if layout.blobs.is_dir() else None
    for row in rows:
        for entry in json.loads(row.entries):
            files += 1
            wrong = _wrong(store, entry, examined.deep)
            if wrong:
                troubles.append(f"{entry['path']} of bundle {row.digest[:12]} {wrong}")
        folder = layout.bundle(row.digest)
        if examined.deep and folder.exists():
            try:
                bundle.verify(folder, row.digest)
            except bundle.BundleCorrupt as error:
                troubles.append(f"{folder}: {error}")
    if troubles:
        remedy = "Restore blobs/ from a backup, or register the version again; remove bad folders."
        yield fail(f"{len(troubles)} files are bad: {some(troubles, 3)}", remedy)
    else:
        how = "every byte is right" if examined.deep else "sizes are right (--deep reads them)"
        yield ok(f"{files} files of {len(rows)} live bundles are there, {how}")


def _wrong(store: FolderBlobStore | None, entry: dict[str, object], deep: bool) -> str:
    sha256 = str(entry["sha256"])
    try:
        if store is None:
            return "is missing"
        path = store.path(sha256)
    except FleetError:
        return "is missing"
    if path.stat().st_size != entry["size"]:
        return f"has {path.stat().st_size} bytes instead of {entry['size']}"
    if deep:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            return "has other content than its digest says"
    return ""


def environments(examined: Examined) -> Iterator[Finding]:
    """Do the interpreters of all pools exist? With `deep`: do they import what a worker needs?"""
    if not examined.layout.desired.is_dir():
        yield not_examined("no pool was ever placed")
        return
    pools = read_pools(examined.layout)
    pythons = {spec.python: name for name, spec in pools.items()}
    troubles = [
        f"pool {pool}: {wrong}"
        for python, pool in pythons.items()
        if (wrong := _broken(Path(python), examined.deep))
    ]
    if troubles:
        remedy = "Remove that environment's folder and register the version again to rebuild it."
        yield fail(some(troubles, 3), remedy)
    else:
        yield ok(f"the interpreters of {len(pools)} pools are there")


def _broken(python: Path, deep: bool) -> str:
    if not python.exists():
        return f"{python} is missing"
    if not os.access(python, os.X_OK):
        return f"{python} can't be run"
    if deep:
        try:
            done = subprocess.run([python, "-c", _IMPORT], capture_output=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{python}: {error}"
        if done.returncode:
            return f"{python}: {done.stderr.decode(errors='replace').strip().splitlines()[-1]}"
    return ""
