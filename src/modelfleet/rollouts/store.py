"""SQL of rollouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.registry.tables import model, model_version
from modelfleet.rollouts.contest import Reward
from modelfleet.rollouts.judge import JudgeState, Verdict
from modelfleet.rollouts.limits import LimitState
from modelfleet.rollouts.plan import Spec
from modelfleet.rollouts.step import Desired, State
from modelfleet.rollouts.tables import evidence, move, rollout
from modelfleet.serving.endpoints import endpoint

_CHUNK = 200
"""rows asked for in one query"""


@dataclass(frozen=True)
class Arm:
    """A new version in a rollout: one, or several in an A/B/n test."""

    version_id: str
    share: int = 0
    """basis points that it gets now (A/B/n); elsewhere the step says it"""
    out: str = ""
    """why it was taken out"""


@dataclass(frozen=True)
class Notes:
    """What a rollout has to remember besides the judge's state."""

    asked: int = -1
    """the step at which a person was asked what to do without a proof"""
    resumed: int = -1
    """the step whose pause somebody ended"""
    alerted: bool = False
    request: Mapping[str, str] = field(default_factory=dict)
    """by, reason: of whoever promotes by hand"""
    override: Mapping[str, str] = field(default_factory=dict)
    """by, reason: of whoever lets it advance in freeze windows"""
    evidence: str = ""
    """digest of the gates' evidence"""
    limits: Mapping[str, LimitState] = field(default_factory=dict)
    """absolute limits, by side: stable and canary"""
    rewards: tuple[Reward, ...] = ()
    """of a bandit, by arm, the stable version first"""
    shared_at: int = 0
    """when a bandit last moved the weights, microseconds"""
    shares: int = 0
    """how often it did"""
    seen: int = 0
    """ticks that were counted with the present weights"""


@dataclass(frozen=True)
class Row:
    """A rollout as the reconciler needs it."""

    id: str
    endpoint_id: str
    endpoint: str
    owner_team: str
    from_version_id: str | None
    to_version_id: str
    """of an A/B/n test the first arm, and then the winner"""
    spec: Spec
    state: State
    desired: Desired
    step: int
    route_revision: int
    step_at: int
    applied_at: int | None
    judges: tuple[JudgeState, ...]
    """one for each arm"""
    sentence: str = ""
    arms: tuple[Arm, ...] = ()
    notes: Notes = field(default_factory=Notes)
    revision: int = 0
    """counts what was written; whoever decides on an older one writes nothing"""
    actor: str = ""
    attempt: int = 1
    group_id: str = ""
    after: tuple[str, ...] = ()
    """rollouts of the group that this one's model uses"""
    waits: str = ""
    started_at: int = 0

    @property
    def judge(self) -> JudgeState:
        return self.judges[0]

    @property
    def version_ids(self) -> tuple[str, ...]:
        """All versions that it may route, the stable one first."""
        known = (self.from_version_id, self.to_version_id, *(arm.version_id for arm in self.arms))
        return tuple(dict.fromkeys(one for one in known if one))


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
    attempt: int = 1
    retry_of: str = ""
    group: str = ""
    arms: tuple[ShownArm, ...] = ()
    """of an A/B/n test"""
    waits: str = ""
    """what the next move waits for"""
    override: Mapping[str, str] = field(default_factory=dict)
    """by, reason: who lets it advance in freeze windows"""


@dataclass(frozen=True)
class ShownArm:
    version: str
    share: int
    """basis points"""
    out: str = ""


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
    arm: int = 0


@dataclass(frozen=True)
class NewEvidence:
    tick: int
    arm: int
    step: int
    verdict: Verdict


_LIVE = rollout.c.ended_at.is_(None)


def active(connection: sa.Connection) -> list[Row]:
    """All rollouts that have not ended, oldest first."""
    rows = connection.execute(
        sa.select(rollout).where(_LIVE).order_by(rollout.c.started_at, rollout.c.id)
    )
    return [_row(r) for r in rows]


_REVISIONS = (
    sa.select(rollout.c.id, rollout.c.revision)
    .where(_LIVE)
    .order_by(rollout.c.started_at, rollout.c.id)
)


def refreshed(connection: sa.Connection, known: Mapping[str, Row]) -> dict[str, Row]:
    """The same by id; those of `known` that nobody wrote meanwhile are not read again."""
    revisions = {r.id: r.revision for r in connection.execute(_REVISIONS)}
    stale = [i for i, n in revisions.items() if i not in known or known[i].revision != n]
    found: dict[str, Row] = {}
    for start in range(0, len(stale), _CHUNK):
        query = sa.select(rollout).where(rollout.c.id.in_(stale[start : start + _CHUNK]))
        found |= {r.id: _row(r) for r in connection.execute(query)}
    return {i: found.get(i) or known[i] for i in revisions if i in found or i in known}


def active_of(connection: sa.Connection, endpoint_id: str) -> Row | None:
    query = sa.select(rollout).where(_LIVE, rollout.c.endpoint_id == endpoint_id)
    found = connection.execute(query).first()
    return _row(found) if found else None


def group_of(connection: sa.Connection, group_id: str) -> list[Row]:
    """All rollouts of a group, also those that ended, in the order of dependency."""
    query = sa.select(rollout).where(rollout.c.group_id == group_id)
    rows = connection.execute(query.order_by(rollout.c.started_at, rollout.c.id))
    return [_row(r) for r in rows]


def find_row(connection: sa.Connection, rollout_id: str) -> Row | None:
    found = connection.execute(sa.select(rollout).where(rollout.c.id == rollout_id)).first()
    return _row(found) if found else None


def _row(r: sa.Row[tuple[object, ...]]) -> Row:
    judges = r.judge if isinstance(r.judge, list) else [r.judge]  # before arms: only one
    arms = r.arms or [{"version_id": r.to_version_id}]
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
        judges=tuple(msgspec.convert(one, JudgeState) for one in judges),
        sentence=r.sentence,
        arms=msgspec.convert(arms, tuple[Arm, ...]),
        notes=msgspec.convert(r.notes, Notes),
        revision=r.revision,
        actor=r.actor,
        attempt=r.attempt,
        group_id=r.group_id,
        after=tuple(r.after),
        waits=r.waits,
        started_at=r.started_at,
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
    rows = connection.execute(query).all()
    names = _semvers(connection, {arm["version_id"] for r in rows for arm in r.arms})
    found = []
    for r in rows:
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
                attempt=r.attempt,
                retry_of=r.retry_of,
                group=r.group_id,
                arms=_shown_arms(r.arms, names) if spec.arms else (),
                waits="" if r.ended_at else r.waits,
                override=(r.notes or {}).get("override", {}),
            )
        )
    return found


def _semvers(connection: sa.Connection, ids: Iterable[str]) -> dict[str, str]:
    query = sa.select(model_version.c.id, model_version.c.semver)
    rows = connection.execute(query.where(model_version.c.id.in_(sorted(ids))))
    return {r.id: r.semver for r in rows}


def _shown_arms(arms: object, names: Mapping[str, str]) -> tuple[ShownArm, ...]:
    return tuple(
        ShownArm(names.get(one.version_id, ""), one.share, one.out)
        for one in msgspec.convert(arms, tuple[Arm, ...])
    )


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
    """The newest `limit` ticks (of each arm), oldest first."""
    newest = (
        sa.select(evidence.c.tick)
        .where(evidence.c.rollout_id == rollout_id)
        .distinct()
        .order_by(evidence.c.tick.desc())
        .limit(limit)
    )
    ticks = [r.tick for r in connection.execute(newest)]
    if not ticks:
        return []
    query = (
        sa.select(evidence)
        .where(evidence.c.rollout_id == rollout_id, evidence.c.tick >= ticks[-1])
        .order_by(evidence.c.tick, evidence.c.arm)
    )
    return [
        Evidence(r.tick, r.step, iso(r.at), msgspec.convert(r.verdict, Verdict), r.arm)
        for r in connection.execute(query)
    ]


def add_evidence(connection: sa.Connection, found: Sequence[tuple[str, NewEvidence]]) -> None:
    """Of rollouts by id."""
    now = now_us()
    if found:
        connection.execute(
            sa.insert(evidence),
            [
                {
                    "rollout_id": rollout_id,
                    "tick": one.tick,
                    "arm": one.arm,
                    "step": one.step,
                    "at": now,
                    "verdict": msgspec.to_builtins(one.verdict),
                }
                for rollout_id, one in found
            ],
        )


class Stale(Exception):
    """Somebody else wrote to the rollout since it was read; the next look sees what."""


@dataclass(frozen=True)
class Noted:
    """What is written of a rollout that does not move."""

    row: Row
    judges: tuple[JudgeState, ...]
    notes: Notes
    applied_at: int | None
    waits: str
    evidence: Sequence[NewEvidence]


_NOTE = (
    sa.update(rollout)
    .where(rollout.c.id == sa.bindparam("known"), rollout.c.revision == sa.bindparam("read"))
    .values(
        judge=sa.bindparam("judge"),
        notes=sa.bindparam("notes"),
        applied_at=sa.bindparam("applied_at"),
        waits=sa.bindparam("waits"),
        revision=sa.bindparam("next"),
    )
)


def note_all(connection: sa.Connection, found: Sequence[Noted]) -> None:
    """All of it at once. Raises `Stale` if anybody wrote to one of them meanwhile."""
    if not found:
        return
    changed = connection.execute(
        _NOTE,
        [
            {
                "known": one.row.id,
                "read": one.row.revision,
                "next": one.row.revision + 1,
                "judge": plain(one.judges),
                "notes": plain(one.notes),
                "applied_at": one.applied_at,
                "waits": one.waits,
            }
            for one in found
        ],
    )
    if changed.rowcount != len(found):
        raise Stale
    add_evidence(connection, [(one.row.id, new) for one in found for new in one.evidence])


def plain(value: object) -> object:
    """What goes into a column of JSON."""
    return msgspec.to_builtins(value)


def update(connection: sa.Connection, row: Row, **values: object) -> bool:
    """Write to a rollout; False, and nothing, if somebody wrote to it since `row` was read."""
    changed = connection.execute(
        sa.update(rollout)
        .where(rollout.c.id == row.id, rollout.c.revision == row.revision)
        .values(revision=row.revision + 1, **values)
    )
    return changed.rowcount == 1
