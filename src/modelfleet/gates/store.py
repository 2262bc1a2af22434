"""Gate runs: one row for each check of a version on given inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database, Json, metadata


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
)


@dataclass(frozen=True)
class GateRun:
    gate: str
    verdict: Verdict
    sentence: str
    evidence: Mapping[str, object]
    at: str = ""


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
        return [
            GateRun(r.gate, Verdict(r.verdict), r.sentence, r.evidence, iso(r.at))
            for r in connection.execute(query)
        ]
