"""Blobs that nothing names any more: marked, and swept after a grace period.

A blob is live while a bundle of a version, a variant or a logged model, an artifact, the code
snapshot of a version, a data set, a requested gate, or a document of a fleet file names it.
What is found dead is noted with the time; only what was dead at every look for the whole grace
period goes. A blob that was uploaded for a registration that is still to come is younger than
that, so nobody loses what they are about to use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.registry.code import digests_of
from modelfleet.registry.tables import bundle, garbage, model_version, variant
from modelfleet.registry.tracking.tables import artifact, logged_model

GRACE_SECONDS = 7 * 24 * 3600.0
_CHUNK = 500


@dataclass(frozen=True)
class Collected:
    """bytes and counts of blobs, bundles and folders"""

    live: int
    live_bytes: int
    waiting: int
    """dead, but not for long enough"""
    waiting_bytes: int
    removed: int
    """or, in a dry run, what would be"""
    removed_bytes: int
    bundles: int
    """rows of bundles that were removed"""
    dry_run: bool


class GarbageService:
    def __init__(
        self,
        database: Database,
        blobs: FolderBlobStore,
        keepers: Sequence[Callable[[sa.Connection], set[str]]] = (),
    ) -> None:
        """keepers: what else names contents, each tells which."""
        self._database = database
        self._blobs = blobs
        self._keepers = keepers

    def collect(
        self,
        actor: Principal,
        *,
        dry_run: bool = False,
        grace_seconds: float = GRACE_SECONDS,
    ) -> Collected:
        resource = Resource("blobs", "*")
        authorize(actor, Action.MANAGE_ACCESS, resource)
        with self._database.begin() as connection:
            unused = self._unused_bundles(connection)
            live = self._live(connection, unused)
            found = dict(self._blobs.every())
            dead = {sha256: size for sha256, size in found.items() if sha256 not in live}
            ripe = self._ripe(connection, dead, grace_seconds, dry_run)
            bundles = 0
            if not dry_run:
                bundles = self._drop_bundles(connection, unused, set(ripe))
                with self._blobs.clearing() as remove:
                    for sha256 in ripe:
                        remove(sha256)
                self._forget(connection, list(ripe))
                self._blobs.sweep_uploads(grace_seconds)
                if ripe or bundles:
                    details = {"blobs": len(ripe), "bytes": sum(ripe.values()), "bundles": bundles}
                    audit.record(connection, actor, "collect-garbage", resource, details)
        return Collected(
            live=len(found) - len(dead),
            live_bytes=sum(found.values()) - sum(dead.values()),
            waiting=len(dead) - len(ripe),
            waiting_bytes=sum(dead.values()) - sum(ripe.values()),
            removed=len(ripe),
            removed_bytes=sum(ripe.values()),
            bundles=bundles,
            dry_run=dry_run,
        )

    def _unused_bundles(self, connection: sa.Connection) -> dict[str, list[str]]:
        """Bundles that no version, variant or logged model names, and their blobs."""
        named = sa.union(
            sa.select(model_version.c.bundle_digest).where(
                model_version.c.bundle_digest.is_not(None)
            ),
            sa.select(variant.c.bundle_digest),
            sa.select(logged_model.c.bundle_digest).where(
                logged_model.c.bundle_digest.is_not(None)
            ),
        )
        rows = connection.execute(sa.select(bundle).where(bundle.c.digest.not_in(named)))
        return {row.digest: [entry["sha256"] for entry in row.entries] for row in rows}

    def _live(self, connection: sa.Connection, unused: dict[str, list[str]]) -> set[str]:
        live: set[str] = set(connection.execute(sa.select(artifact.c.sha256)).scalars())
        for keeper in self._keepers:
            live |= keeper(connection)
        for code in connection.execute(
            sa.select(model_version.c.code).where(model_version.c.code.is_not(None))
        ).scalars():
            live.update(digests_of(code))
        for row in connection.execute(sa.select(bundle.c.digest, bundle.c.entries)):
            if row.digest not in unused:
                live.update(entry["sha256"] for entry in row.entries)
        return live

    def _ripe(
        self,
        connection: sa.Connection,
        dead: dict[str, int],
        grace_seconds: float,
        dry_run: bool,
    ) -> dict[str, int]:
        """Dead blobs whose grace period is over. Marks the new ones, unmarks the risen."""
        now = now_us()
        since = {row.sha256: row.since for row in connection.execute(sa.select(garbage))}
        limit = now - int(grace_seconds * 1e6)
        written = time.time() - grace_seconds
        ripe = {
            sha256: size
            for sha256, size in dead.items()
            if since.get(sha256, now) <= limit and self._blobs.written_at(sha256) <= written
        }
        if not dry_run:
            self._forget(connection, [one for one in since if one not in dead])
            fresh = [one for one in dead if one not in since]
            if fresh:
                rows = [{"sha256": one, "since": now} for one in fresh]
                connection.execute(sa.insert(garbage), rows)
        return ripe

    def _forget(self, connection: sa.Connection, digests: list[str]) -> None:
        for start in range(0, len(digests), _CHUNK):
            some = digests[start : start + _CHUNK]
            connection.execute(sa.delete(garbage).where(garbage.c.sha256.in_(some)))

    def _drop_bundles(
        self, connection: sa.Connection, unused: dict[str, list[str]], gone: set[str]
    ) -> int:
        """Rows of unused bundles that lose a blob."""
        dropped = [digest for digest, own in unused.items() if gone & set(own)]
        for start in range(0, len(dropped), _CHUNK):
            some = dropped[start : start + _CHUNK]
            connection.execute(sa.delete(bundle).where(bundle.c.digest.in_(some)))
        return len(dropped)
