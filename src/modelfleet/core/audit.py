"""The record of every change, written in the transaction of the change.

Events form a hash chain: `hash = sha256(previous hash | canonical event)`. An edited, removed or
inserted event breaks every hash after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from modelfleet.core.authorization import Principal, Resource
from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database, Json, metadata
from modelfleet.core.ids import digest

audit_event = sa.Table(
    "audit_event",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("principal_id", sa.String(64), nullable=False),
    sa.Column("principal", sa.String(200), nullable=False),
    sa.Column("action", sa.String(80), nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("resource", sa.String(300), nullable=False),
    sa.Column("team", sa.String(120), nullable=False),
    sa.Column("details", Json, nullable=False),
    sa.Column("correlation_id", sa.String(80), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Index("ix_audit_event_kind_resource", "kind", "resource"),
)


@dataclass(frozen=True)
class AuditEvent:
    sequence: int
    at: str
    principal_id: str
    principal: str
    action: str
    kind: str
    resource: str
    team: str
    details: Mapping[str, object]
    correlation_id: str
    hash: str


def record(
    connection: sa.Connection,
    principal: Principal,
    action: str,
    resource: Resource,
    details: Mapping[str, object] | None = None,
) -> None:
    """Write one event. `action` names the verb (`register-version`), not only the permission."""
    table = audit_event
    last = connection.execute(
        sa.select(table.c.sequence, table.c.hash).order_by(table.c.sequence.desc()).limit(1)
    ).first()
    row = {
        "sequence": (last.sequence if last else 0) + 1,
        "at": now_us(),
        "principal_id": principal.id,
        "principal": principal.name,
        "action": action,
        "kind": resource.kind,
        "resource": resource.name,
        "team": resource.team,
        "details": dict(details or {}),
        "correlation_id": principal.correlation_id,
    }
    row["hash"] = chain(last.hash if last else "", row)
    connection.execute(sa.insert(table).values(**row))


def chain(previous: str, row: Mapping[str, object]) -> str:
    canonical = {key: value for key, value in row.items() if key != "hash"}
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest(f"{previous}|{text}".encode())


def events(
    database: Database,
    *,
    resource: Resource | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[AuditEvent]:
    """Newest first. `before` is the sequence to go on from."""
    query = sa.select(audit_event).order_by(audit_event.c.sequence.desc()).limit(limit)
    if resource is not None:
        query = query.where(
            audit_event.c.kind == resource.kind, audit_event.c.resource == resource.name
        )
    if before is not None:
        query = query.where(audit_event.c.sequence < before)
    with database.read() as connection:
        rows = connection.execute(query).mappings().all()
    return [AuditEvent(**{**row, "at": iso(row["at"])}) for row in rows]


def first_broken(database: Database) -> int | None:
    """The sequence of the first event that doesn't fit its chain; None if all do."""
    with database.read() as connection:
        rows = connection.execute(sa.select(audit_event).order_by(audit_event.c.sequence))
        return break_in(dict(row) for row in rows.mappings())


def break_in(rows: Iterable[Mapping[str, object]]) -> int | None:
    """The same of events in their order, wherever they were read."""
    return break_in_with_last(rows)[0]


def break_in_with_last(rows: Iterable[Mapping[str, object]]) -> tuple[int | None, str]:
    """And the hash of the last event that fits; "" if there is none."""
    previous, expected = "", 1
    for row in rows:
        if row["sequence"] != expected or row["hash"] != chain(previous, row):
            return expected, previous
        previous, expected = str(row["hash"]), expected + 1
    return None, previous
