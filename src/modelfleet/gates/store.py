"""Gate runs: one row for each check of a version on given inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database, Json, metadata
from modelfleet.fleetfile.gate_lists import digests_of


class Verdict(StrEnum):
    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


gate_run = sa.Table(
    "gate_run",
    metadata,
    sa.Column("version_id", sa.String(32), primary_key=True),
    sa.Column("gate", sa.String(60), primary_key=True),
    sa.Column("input_digest", sa.String(64), primary_key=True),
    sa.Column("verdict", sa.String(20), nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("evidence", Json, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(60), nullable=False, server_default=""),
    sa.Column("seconds", sa.Float, nullable=False, server_default="0"),
    sa.Column("champion", sa.String(400), nullable=False, server_default=""),
    sa.Column("spec", Json),
)

gate_request = sa.Table(
    "gate_request",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("version_id", sa.String(32), nullable=False),
    sa.Column("champion_id", sa.String(32)),
    sa.Column("gates", Json, nullable=False),
    sa.Column("requested_by_id", sa.String(64), nullable=False),
    sa.Column("requested_by", sa.String(200), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_gate_request_version_id", "version_id"),
)


@dataclass(frozen=True)
class GateRun:
    gate: str
    verdict: Verdict
    sentence: str
    evidence: Mapping[str, object]
    at: str = ""
    kind: str = ""
    """of the gate, if it is one that was asked for; empty: of the preparation"""
    seconds: float = 0.0
    champion: str = ""
    """whom it was compared with"""
    input_digest: str = ""
    """of all that the verdict depends on"""
    spec: Mapping[str, object] | None = None
    """what the gate was told"""


def save(database: Database, version_id: str, input_digest: str, runs: Sequence[GateRun]) -> None:
    """Keep the runs; those of the same gate on the same inputs are replaced."""
    with database.begin() as connection:
        save_in(connection, version_id, input_digest, runs)


def save_in(
    connection: sa.Connection, version_id: str, input_digest: str, runs: Sequence[GateRun]
) -> None:
    """The same in the caller's transaction."""
    for run in runs:
        connection.execute(
            sa.delete(gate_run).where(
                gate_run.c.version_id == version_id,
                gate_run.c.gate == run.gate,
                gate_run.c.input_digest == input_digest,
            )
        )
        connection.execute(
            sa.insert(gate_run).values(
                version_id=version_id,
                gate=run.gate,
                input_digest=input_digest,
                verdict=run.verdict.value,
                sentence=run.sentence,
                evidence=dict(run.evidence),
                at=now_us(),
                kind=run.kind,
                seconds=run.seconds,
                champion=run.champion,
                spec=None if run.spec is None else dict(run.spec),
            )
        )


def list_runs(database: Database, version_id: str) -> list[GateRun]:
    """In the order in which they ran."""
    query = (
        sa.select(gate_run)
        .where(gate_run.c.version_id == version_id)
        .order_by(gate_run.c.at, gate_run.c.gate)
    )
    with database.read() as connection:
        return [_run(row) for row in connection.execute(query)]


def newest(database: Database, version_ids: Sequence[str]) -> dict[str, list[GateRun]]:
    """The last run of each gate by version, in the order in which they ran, without evidence."""
    columns = [one for one in gate_run.c if one.name not in ("evidence", "spec")]
    query = (
        sa.select(*columns)
        .where(gate_run.c.version_id.in_(version_ids))
        .order_by(gate_run.c.at, gate_run.c.gate)
    )
    found: dict[str, dict[str, GateRun]] = {one: {} for one in version_ids}
    with database.read() as connection:
        for r in connection.execute(query):
            mine = found[r.version_id]
            mine.pop(r.gate, None)
            mine[r.gate] = GateRun(
                r.gate,
                Verdict(r.verdict),
                r.sentence,
                {},
                iso(r.at),
                r.kind,
                r.seconds,
                r.champion,
                r.input_digest,
            )
    return {version: list(runs.values()) for version, runs in found.items()}


def find(
    connection: sa.Connection, version_id: str, gate: str, input_digest: str
) -> GateRun | None:
    row = connection.execute(
        sa.select(gate_run).where(
            gate_run.c.version_id == version_id,
            gate_run.c.gate == gate,
            gate_run.c.input_digest == input_digest,
        )
    ).first()
    return None if row is None else _run(row)


def _run(row: sa.Row[tuple[Any, ...]]) -> GateRun:
    return GateRun(
        row.gate,
        Verdict(row.verdict),
        row.sentence,
        row.evidence,
        iso(row.at),
        row.kind,
        row.seconds,
        row.champion,
        row.input_digest,
        row.spec,
    )


class Wanted(msgspec.Struct, frozen=True):
    """A gate of a request. reused: the verdict was there when it was asked for."""

    gate: str
    kind: str
    entry: dict[str, object]
    input_digest: str
    reused: bool = False
    blocking: bool = True

    @property
    def told(self) -> dict[str, object]:
        """What the entry says of its kind."""
        return msgspec.convert(self.entry[self.kind], dict[str, object])


@dataclass(frozen=True)
class Request:
    id: str
    version_id: str
    champion_id: str | None
    gates: tuple[Wanted, ...]
    requested_by_id: str
    requested_by: str
    created_at: str


def add_request(connection: sa.Connection, made: Request) -> None:
    connection.execute(
        sa.insert(gate_request).values(
            id=made.id,
            version_id=made.version_id,
            champion_id=made.champion_id,
            gates=msgspec.to_builtins(made.gates),
            requested_by_id=made.requested_by_id,
            requested_by=made.requested_by,
            created_at=now_us(),
        )
    )


def find_request(connection: sa.Connection, request: str) -> Request | None:
    row = connection.execute(sa.select(gate_request).where(gate_request.c.id == request)).first()
    return None if row is None else _request(row)


def requests_of(connection: sa.Connection, version_id: str, limit: int = 50) -> list[Request]:
    """Newest first."""
    query = (
        sa.select(gate_request)
        .where(gate_request.c.version_id == version_id)
        .order_by(gate_request.c.created_at.desc(), gate_request.c.id.desc())
        .limit(limit)
    )
    return [_request(row) for row in connection.execute(query)]


def uploads_of(connection: sa.Connection) -> set[str]:
    """Contents that requested gates name: programs and data."""
    found: set[str] = set()
    for gates in connection.execute(sa.select(gate_request.c.gates)).scalars():
        for wanted in msgspec.convert(gates, tuple[Wanted, ...]):
            found |= digests_of(wanted.entry)
    return found


def _request(row: sa.Row[tuple[Any, ...]]) -> Request:
    return Request(
        row.id,
        row.version_id,
        row.champion_id,
        msgspec.convert(row.gates, tuple[Wanted, ...]),
        row.requested_by_id,
        row.requested_by,
        iso(row.created_at),
    )
