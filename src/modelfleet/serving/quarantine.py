"""Versions that brought their workers down too often: they are not run until somebody says so.

`QuarantineService.look` counts crashes and decides; `release` lets a version run again; `current`
tells the reconciler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
import structlog

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Action, Principal, Resource, authorize
from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database, metadata
from modelfleet.core.errors import NotFound
from modelfleet.registry import RegistryService

log = structlog.get_logger(__name__)
WINDOW_US = 3600 * 1_000_000
"""Crashes of the last hour count."""

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("version_index", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("since", sa.BigInteger, nullable=False),
    sa.Column("released_at", sa.BigInteger),
)


@dataclass(frozen=True)
class Quarantined:
    model: str
    version: str
    reason: str
    since: str


class QuarantineService:
    """`crashes`: of each version (by index), the times in Unix us since then at which it brought a
    worker down. `allowed`: so many are forgiven; a version is quarantined when it has reached it,
    0 for never."""

    def __init__(
        self,
        database: Database,
        registry: RegistryService,
        crashes: Callable[[int], Mapping[int, list[int]]],
        allowed: int,
    ) -> None:
        self._database = database
        self._registry = registry
        self._crashes = crashes
        self._allowed = allowed

    def current(self) -> Mapping[int, str]:
        """Reasons by version index."""
        query = sa.select(quarantine).where(quarantine.c.released_at.is_(None))
        with self._database.read() as connection:
            return {row.version_index: row.reason for row in connection.execute(query)}

    def look(self) -> None:
        """Quarantine whoever crashed too often since the last release."""
        if not self._allowed:
            return
        found = self._crashes(now_us() - WINDOW_US)
        often = {index: times for index, times in found.items() if len(times) >= self._allowed}
        if not often:
            return
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(quarantine).where(quarantine.c.version_index.in_(sorted(often)))
            )
            known = {row.version_index: row.released_at for row in rows}
        for index, times in often.items():
            released = known.get(index, 0)
            if released is not None and sum(t > released for t in times) >= self._allowed:
                self._impose(index, sum(t > released for t in times))

    def _impose(self, index: int, crashes: int) -> None:
        version = self._registry.versions_by_index([index]).get(index)
        if version is None:
            return
        reason = f"it brought its worker down {crashes} times within an hour"
        with self._database.begin() as connection:
            connection.execute(sa.delete(quarantine).where(quarantine.c.version_index == index))
            connection.execute(
                sa.insert(quarantine).values(version_index=index, reason=reason, since=now_us())
            )
            resource = Resource("version", version.name, version.owner_team)
            audit.record(connection, SYSTEM, "quarantine-version", resource, {"reason": reason})
        log.error("version quarantined", version=version.name, reason=reason)

    def list(self, actor: Principal) -> list[Quarantined]:
        query = sa.select(quarantine).where(quarantine.c.released_at.is_(None))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        versions = self._registry.versions_by_index([row.version_index for row in rows])
        return [
            Quarantined(version.model, version.version, row.reason, iso(row.since))
            for row in rows
            if (version := versions.get(row.version_index)) is not None
            and actor.may(Action.READ, version.owner_team)
        ]

    def release(self, actor: Principal, model: str, version: str) -> None:
        """Let it run again; its earlier crashes no longer count. Raises `NotFound`."""
        found = self._registry.get_version(actor, model, version)
        resource = Resource("version", found.name, found.owner_team)
        authorize(actor, Action.ROLLOUT, resource)
        with self._database.begin() as connection:
            done = connection.execute(
                sa.update(quarantine)
                .where(quarantine.c.version_index == found.index)
                .where(quarantine.c.released_at.is_(None))
                .values(released_at=now_us())
            )
            if not done.rowcount:
                raise NotFound(f"{found.name} is not in quarantine.")
            audit.record(connection, actor, "release-version", resource, {})
