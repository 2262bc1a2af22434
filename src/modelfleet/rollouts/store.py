"""Tables and SQL of rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Json, metadata
from modelfleet.registry.tables import model, model_version
from modelfleet.rollouts.judge import JudgeState, Verdict
from modelfleet.rollouts.plan import Spec
from modelfleet.rollouts.step import ENDED, Desired, State
from modelfleet.serving.endpoints import endpoint

rollout = sa.Table(
    "rollout",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("endpoint_id", sa.String(32), nullable=False),
    sa.Column("endpoint", sa.String(200), nullable=False),
    sa.Column("owner_team", sa.String(120), nullable=False),
    sa.Column("from_version_id", sa.String(32)),
    sa.Column("to_version_id", sa.String(32), nullable=False),
    sa.Column("spec", Json, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("desired", sa.String(20), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("route_revision", sa.Integer, nullable=False),
    sa.Column("step_at", sa.BigInteger, nullable=False),
    sa.Column("applied_at", sa.BigInteger),
    sa.Column("judge", Json, nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Index("ix_rollout_endpoint", "endpoint_id", "started_at"),
    sa.Index("ix_rollout_state", "state"),
)

# Append-only: what the judge knew at each tick.
evidence = sa.Table(
    "rollout_evidence",
    metadata,
    sa.Column("rollout_id", sa.ForeignKey("rollout.id"), primary_key=True),
    sa.Column("tick", sa.BigInteger, primary_key=True),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("verdict", Json, nullable=False),
)

# Append-only: every change of state.
move = sa.Table(
    "rollout_move",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rollout_id", sa.ForeignKey("rollout.id"), nullable=False, index=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
)


@dataclass(frozen=True)
class Row:
    """A rollout as the reconciler needs it."""

    id: str
    endpoint_id: str
    endpoint: str
    owner_team: str
    from_version_id: str | None
    to_version_id: str
    spec: Spec
    state: State
    desired: Desired
    step: int
    route_revision: int
    step_at: int
    applied_at: int | None
    judge: JudgeState
    sentence: str = ""


@dataclass(frozen=True)
class Rollout:
    """A rollout as people see it."""

    id: str
    endpoint: str
    model: str
    owner_team: str
    from_version: str | None
    to_version: str
    strategy: str
    state: str
    desired: str
    step: int
    sentence: str
    spec: Spec
    actor: str
    started_at: str
    ended_at: str | None


@dataclass(frozen=True)
class Move:
    at: str
    state: str
    step: int
    sentence: str
    actor: str


@dataclass(frozen=True)
class Evidence:
    tick: int
    step: int
    at: str
    verdict: Verdict


def active(connection: sa.Connection) -> list[Row]:
    """All rollouts that have not ended, oldest first."""
    ended = [state.value for state in ENDED]
    rows = connection.execute(
        sa.select(rollout).where(rollout.c.state.not_in(ended)).order_by(rollout.c.started_at)
    )
    return [_row(r) for r in rows]


def find_row(connection: sa.Connection, rollout_id: str) -> Row | None:
    found = connection.execute(sa.select(rollout).where(rollout.c.id == rollout_id)).first()
    return _row(found) if found else None


def _row(r: sa.Row[tuple[object, ...]]) -> Row:
    return Row(
        id=r.id,
        endpoint_id=r.endpoint_id,
        endpoint=r.endpoint,
        owner_team=r.owner_team,
        from_version_id=r.from_version_id,
        to_version_id=r.to_version_id,
        spec=msgspec.convert(r.spec, Spec),
        state=State(r.state),
        desired=Desired(r.desired),
        step=r.step,
        route_revision=r.route_revision,
        step_at=r.step_at,
        applied_at=r.applied_at,
        judge=msgspec.convert(r.judge, JudgeState),
        sentence=r.sentence,
    )


def shown(
    connection: sa.Connection, condition: sa.ColumnElement[bool], limit: int = 1
) -> list[Rollout]:
    """Newest first."""
    to_version = model_version.alias("to_version")
    from_version = model_version.alias("from_version")
    query = (
        sa.select(
            rollout,
            to_version.c.semver.label("to_semver"),
            from_version.c.semver.label("from_semver"),
            model.c.name.label("model"),
        )
        .join(to_version, to_version.c.id == rollout.c.to_version_id, isouter=True)
        .join(from_version, from_version.c.id == rollout.c.from_version_id, isouter=True)
        .join(endpoint, endpoint.c.id == rollout.c.endpoint_id, isouter=True)
        .join(model, model.c.id == endpoint.c.model_id, isouter=True)
        .where(condition)
        .order_by(rollout.c.started_at.desc(), rollout.c.id.desc())
        .limit(limit)
    )
    found = []
    for r in connection.execute(query):
        spec = msgspec.convert(r.spec, Spec)
        found.append(
            Rollout(
                id=r.id,
                endpoint=r.endpoint,
                model=r.model or "",
                owner_team=r.owner_team,
                from_version=r.from_semver,
                to_version=r.to_semver or "",
                strategy=spec.strategy.value,
                state=r.state,
                desired=r.desired,
                step=r.step,
                sentence=r.sentence,
                spec=spec,
                actor=r.actor,
                started_at=iso(r.started_at),
                ended_at=iso(r.ended_at) if r.ended_at else None,
            )
        )
    return found


def moves(connection: sa.Connection, rollout_id: str) -> list[Move]:
    query = sa.select(move).where(move.c.rollout_id == rollout_id).order_by(move.c.id)
    return [
        Move(iso(r.at), r.state, r.step, r.sentence, r.actor) for r in connection.execute(query)
    ]


def add_move(
    connection: sa.Connection, rollout_id: str, state: State, step: int, sentence: str, actor: str
) -> None:
    connection.execute(
        sa.insert(move).values(
            rollout_id=rollout_id,
            at=now_us(),
            state=state.value,
            step=step,
            sentence=sentence,
            actor=actor,
        )
    )


def evidence_of(connection: sa.Connection, rollout_id: str, limit: int) -> Sequence[Evidence]:
    """The newest `limit` ticks, oldest first."""
    query = (
        sa.select(evidence)
        .where(evidence.c.rollout_id == rollout_id)
        .order_by(evidence.c.tick.desc())
        .limit(limit)
    )
    rows = connection.execute(query).all()
    return [
        Evidence(r.tick, r.step, iso(r.at), msgspec.convert(r.verdict, Verdict))
        for r in reversed(rows)
    ]


def add_evidence(
    connection: sa.Connection, rollout_id: str, tick: int, step: int, verdict: Verdict
) -> None:
    connection.execute(
        sa.insert(evidence).values(
            rollout_id=rollout_id,
            tick=tick,
            step=step,
            at=now_us(),
            verdict=msgspec.to_builtins(verdict),
        )
    )


def update(connection: sa.Connection, rollout_id: str, **values: object) -> None:
    connection.execute(sa.update(rollout).where(rollout.c.id == rollout_id).values(**values))
