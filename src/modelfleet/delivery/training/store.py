"""Training runs and the positions of their triggers: tables, and SQL on them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Json, metadata
from modelfleet.core.ids import new_id
from modelfleet.delivery.training.plan import ENDED, WORKING, Cause, Plan, State
from modelfleet.registry.tables import model, model_version, namespace, version_tag

TAG = "modelfleet.training"
"""on the version that a run made: the run's id"""

training = sa.Table(
    "training",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("model", sa.String(250), nullable=False),
    sa.Column("owner_team", sa.String(120), nullable=False),
    sa.Column("cause", Json, nullable=False),
    sa.Column("plan", Json, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("version", sa.String(120)),
    sa.Column("rollout_id", sa.String(32)),
    sa.Column("actor_id", sa.String(64), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("owner", sa.String(80), nullable=False),
    sa.Column("starts", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Index("ix_training_model", "model", "created_at"),
    sa.Index("ix_training_state", "state"),
)

# One row: how far the audit log and the alerts were looked through for causes.
trigger_position = sa.Table(
    "training_position",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("alerts_until", sa.BigInteger, nullable=False),
)

training_schedule = sa.Table(
    "training_schedule",
    metadata,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("expression", sa.String(200), nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
)

# Causes that came too soon: the first of each model, until a run of it begins.
training_cause = sa.Table(
    "training_cause",
    metadata,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("cause", Json, nullable=False),
)


@dataclass(frozen=True)
class Training:
    """One run, for people. Times are ISO 8601."""

    id: str
    model: str
    owner_team: str
    cause: Cause
    plan: Plan
    state: State
    sentence: str
    version: str | None
    """semantic version of what it made"""
    rollout_id: str | None
    actor: str
    starts: int
    created_at: str
    ended_at: str | None

    @property
    def is_over(self) -> bool:
        return self.state in ENDED


def add(
    connection: sa.Connection, plan: Plan, cause: Cause, actor_id: str, actor: str
) -> str | None:
    """Queue a run; None if the model has one on its way already."""
    if active(connection, [plan.model]):
        return None
    made = new_id()
    drop_causes(connection, [plan.model])
    connection.execute(
        sa.insert(training).values(
            id=made,
            model=plan.model,
            owner_team=plan.owner_team,
            cause=msgspec.to_builtins(cause),
            plan=msgspec.to_builtins(plan),
            state=State.QUEUED.value,
            sentence="Waits for its turn.",
            actor_id=actor_id,
            actor=actor,
            owner="",
            starts=0,
            created_at=now_us(),
        )
    )
    return made


def active(connection: sa.Connection, models: Iterable[str] | None = None) -> list[Training]:
    """Runs that are not over, oldest first."""
    condition: sa.ColumnElement[bool] = training.c.state.not_in([state.value for state in ENDED])
    if models is not None:
        condition = sa.and_(condition, training.c.model.in_(list(models)))
    return find(connection, condition, newest_first=False)


def find(
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    limit: int = 1000,
    *,
    newest_first: bool = True,
) -> list[Training]:
    order = (training.c.created_at, training.c.id)
    query = sa.select(training).where(condition).limit(limit)
    query = query.order_by(*(one.desc() for one in order) if newest_first else order)
    return [
        Training(
            id=r.id,
            model=r.model,
            owner_team=r.owner_team,
            cause=msgspec.convert(r.cause, Cause),
            plan=msgspec.convert(r.plan, Plan),
            state=State(r.state),
            sentence=r.sentence,
            version=r.version,
            rollout_id=r.rollout_id,
            actor=r.actor,
            starts=r.starts,
            created_at=iso(r.created_at),
            ended_at=iso(r.ended_at) if r.ended_at else None,
        )
        for r in connection.execute(query)
    ]


def last_begun(connection: sa.Connection, models: Iterable[str]) -> dict[str, int]:
    """When the newest run of each model was queued, in microseconds."""
    query = (
        sa.select(training.c.model, sa.func.max(training.c.created_at))
        .where(training.c.model.in_(list(models)))
        .group_by(training.c.model)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def keep_cause(connection: sa.Connection, model_name: str, cause: Cause) -> None:
    """For later; an earlier one stays."""
    if model_name not in kept_causes(connection):
        values = {"model": model_name, "cause": msgspec.to_builtins(cause)}
        connection.execute(sa.insert(training_cause).values(values))


def kept_causes(connection: sa.Connection) -> dict[str, Cause]:
    """By model."""
    rows = connection.execute(sa.select(training_cause))
    return {row.model: msgspec.convert(row.cause, Cause) for row in rows}


def drop_causes(connection: sa.Connection, models: Iterable[str]) -> None:
    connection.execute(sa.delete(training_cause).where(training_cause.c.model.in_(list(models))))


def take(connection: sa.Connection, run: str, owner: str, *, again: bool) -> bool:
    """Make a run ours. again: it was somebody's who is gone, or ours before we died."""
    values: dict[str, object] = {"owner": owner}
    if again:
        values["starts"] = training.c.starts + 1
    working = [state.value for state in WORKING]
    found = connection.execute(
        sa.update(training)
        .where(training.c.id == run, training.c.state.in_(working))
        .values(**values)
    )
    return found.rowcount == 1


def move(
    connection: sa.Connection,
    run: str,
    owner: str | None,
    state: State,
    *,
    sentence: str,
    among: Collection[State] = frozenset(State) - ENDED,
    version: str | None = None,
    rollout_id: str | None = None,
) -> bool:
    """Change a run that is in a state `among` these (any but an end); False if it is not, or is
    not `owner`'s any more."""
    states = [one.value for one in among]
    condition = sa.and_(training.c.id == run, training.c.state.in_(states))
    if owner is not None:
        condition = sa.and_(condition, training.c.owner == owner)
    values: dict[str, object] = {"state": state.value, "sentence": sentence}
    given = {"version": version, "rollout_id": rollout_id}
    values |= {key: value for key, value in given.items() if value is not None}
    if state in ENDED:
        values["ended_at"] = now_us()
    found = connection.execute(sa.update(training).where(condition).values(values))
    return found.rowcount == 1


def files_of(connection: sa.Connection) -> set[str]:
    """Contents that runs on their way need: they are no garbage, whatever documents say by now."""
    return {sha256 for run in active(connection) for sha256 in run.plan.files.values()}


def made_by(connection: sa.Connection, run: str) -> tuple[str, str] | None:
    """Id and semantic version of what a run registered of its model, if it got so far."""
    query = (
        sa.select(model_version.c.id, model_version.c.semver)
        .join(version_tag, version_tag.c.version_id == model_version.c.id)
        .join(model, model.c.id == model_version.c.model_id)
        .join(namespace, namespace.c.id == model.c.namespace_id)
        .join(training, training.c.id == run)
        .where(version_tag.c.key == TAG, version_tag.c.value == run)
        .where(model.c.name == training.c.model, namespace.c.name == "default")
        .order_by(model_version.c.sequence)
    )
    found = connection.execute(query).first()
    return (found.id, found.semver) if found else None
