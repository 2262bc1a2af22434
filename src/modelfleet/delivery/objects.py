"""Objects of fleet files as they were last applied: the table, and SQL on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Json, metadata

fleet_object = sa.Table(
    "fleet_object",
    metadata,
    sa.Column("kind", sa.String(20), primary_key=True),
    sa.Column("name", sa.String(250), primary_key=True),
    sa.Column("fleet", sa.String(64), nullable=False, index=True),
    sa.Column("stage", sa.String(60), nullable=False),
    sa.Column("owner_team", sa.String(120), nullable=False),
    sa.Column("document", Json, nullable=False),
    sa.Column("resolved", Json, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("commit", sa.String(80), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("plan", sa.String(64), nullable=False),
    sa.Column("applied_at", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True)
class FleetObject:
    """A document as it was last applied."""

    kind: str
    name: str
    fleet: str
    stage: str
    owner_team: str
    document: Mapping[str, Any]
    resolved: Mapping[str, Any]
    """what its source meant then: `version` and `digest` of the bundle"""
    generation: int
    """counts what was applied under this name; never goes back while the object is there"""
    commit: str
    """of the files: sha of git, with `-dirty` if there were changes; empty if there was no git"""
    actor: str
    plan: str
    """the plan that was carried out"""
    applied_at: str

    @property
    def told(self) -> str:
        """Who applied it, for people."""
        commit = f", commit {self.commit[:12]}" if self.commit else ""
        return f"{self.actor} applied generation {self.generation} at {self.applied_at}{commit}"


Key = tuple[str, str]
"""kind and name"""


def find(
    connection: sa.Connection, keys: Iterable[Key] | None = None, fleet: str | None = None
) -> dict[Key, FleetObject]:
    """Those of these keys, or all of a fleet, or all."""
    query = sa.select(fleet_object).order_by(fleet_object.c.kind, fleet_object.c.name)
    wanted = None if keys is None else set(keys)
    if wanted is not None and len(wanted) == 1:
        [(kind, name)] = wanted
        query = query.where(fleet_object.c.kind == kind, fleet_object.c.name == name)
    elif wanted is None and fleet is not None:
        query = query.where(fleet_object.c.fleet == fleet)
    return {
        (r.kind, r.name): FleetObject(
            kind=r.kind,
            name=r.name,
            fleet=r.fleet,
            stage=r.stage,
            owner_team=r.owner_team,
            document=r.document,
            resolved=r.resolved,
            generation=r.generation,
            commit=r.commit,
            actor=r.actor,
            plan=r.plan,
            applied_at=iso(r.applied_at),
        )
        for r in connection.execute(query)
        if wanted is None or (r.kind, r.name) in wanted
    }


def put(connection: sa.Connection, before: FleetObject | None, values: Mapping[str, Any]) -> int:
    """Note what was applied; the new generation."""
    generation = before.generation + 1 if before else 1
    row = {**values, "generation": generation, "applied_at": now_us()}
    if before is None:
        connection.execute(sa.insert(fleet_object).values(row))
    else:
        same = sa.and_(fleet_object.c.kind == before.kind, fleet_object.c.name == before.name)
        connection.execute(sa.update(fleet_object).where(same).values(row))
    return generation


def remove(connection: sa.Connection, one: FleetObject) -> None:
    same = sa.and_(fleet_object.c.kind == one.kind, fleet_object.c.name == one.name)
    connection.execute(sa.delete(fleet_object).where(same))


def blobs_of(connection: sa.Connection) -> set[str]:
    """Contents that applied documents name: they are no garbage."""
    return {
        str(file["digest"])
        for document in connection.execute(sa.select(fleet_object.c.document)).scalars()
        for file in document.get("files", {}).values()
    }
