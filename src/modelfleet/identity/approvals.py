"""Approvals: a second person's yes, bound to digests of what they saw.

A request names a subject (`rollout/<id>/step/2`), the digests of everything that is approved, a
role and a quorum. Each principal with the role answers once; never who asked, nor whom the request
excludes (the author of the version). The first no ends it; enough yeses end it; after its time it
has expired. If a digest changes, what was approved no longer stands. Verbs: `ask`, `standing`,
`withdraw` in the caller's transaction; `answer`, `get`, `list` for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Action, Principal, Resource, Role, authorize
from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database, Json, metadata
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, NotFound, WrongState
from modelfleet.core.ids import digest, new_id

State = Literal["waiting", "approved", "rejected", "expired"]
_SECOND = 1_000_000
WEEK_SECONDS = 7 * 86_400.0
MAX_REASON = 2000

approval = sa.Table(
    "approval",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("subject", sa.String(300), nullable=False),
    sa.Column("digests", Json, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("role", sa.String(40), nullable=False),
    sa.Column("quorum", sa.Integer, nullable=False),
    sa.Column("team", sa.String(120), nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("not_by", Json, nullable=False),
    sa.Column("requested_by", sa.String(200), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Index("ix_approval_subject", "subject"),
    sa.Index("ix_approval_state", "state"),
)

approval_answer = sa.Table(
    "approval_answer",
    metadata,
    sa.Column("approval_id", sa.ForeignKey("approval.id"), primary_key=True),
    sa.Column("principal_id", sa.String(64), primary_key=True),
    sa.Column("principal", sa.String(200), nullable=False),
    sa.Column("decision", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Answer:
    principal: str
    decision: str
    """approved or rejected"""
    reason: str
    at: str


@dataclass(frozen=True)
class Approval:
    id: str
    subject: str
    digests: Mapping[str, str]
    """what is approved, by name; any other value voids it"""
    role: str
    quorum: int
    team: str
    sentence: str
    """what one says yes to"""
    requested_by: str
    state: str
    """waiting, approved, rejected, expired, void (what was to be approved changed) or withdrawn"""
    created_at: str
    expires_at: str
    not_by: tuple[str, ...] = ()
    """principals (names or ids) who may not approve"""
    answers: tuple[Answer, ...] = ()


class Approvals:
    def __init__(self, database: Database) -> None:
        self._database = database

    # In the transaction of whoever needs a yes --------------------------------------------------

    def ask(
        self,
        connection: sa.Connection,
        actor: Principal,
        subject: str,
        digests: Mapping[str, str],
        *,
        role: str,
        quorum: int = 1,
        team: str = "*",
        sentence: str = "",
        not_by: Sequence[str] = (),
        expires_seconds: float = WEEK_SECONDS,
    ) -> str:
        """Ask for approval of a subject; its id. What was asked already is not asked again.

        A request of the same subject with other digests, role or quorum is void from now on.
        """
        check_role(role, quorum)
        wanted, now = digest_of(digests), now_us()
        standing = sa.and_(
            approval.c.subject == subject, approval.c.state.in_(("waiting", "approved"))
        )
        for row in connection.execute(sa.select(approval).where(standing)).all():
            over = row.state == "waiting" and row.expires_at <= now
            if (row.digest, row.role, row.quorum) == (wanted, role, quorum) and not over:
                return str(row.id)
            self._set(connection, row.id, "expired" if over else "void")
        made = new_id()
        excluded = sorted({one for one in (*not_by, actor.id, actor.name) if one})
        if actor.id == SYSTEM.id:
            excluded = sorted({one for one in not_by if one})
        connection.execute(
            sa.insert(approval).values(
                id=made,
                subject=subject,
                digests=dict(digests),
                digest=wanted,
                role=role,
                quorum=quorum,
                team=team,
                sentence=sentence,
                not_by=excluded,
                requested_by=actor.name,
                state="waiting",
                created_at=now,
                expires_at=now + int(expires_seconds * _SECOND),
            )
        )
        details = {"approval": made, "role": role, "quorum": quorum, "digests": dict(digests)}
        audit.record(connection, actor, "ask-approval", _resource(subject, team), details)
        return made

    def standing(
        self,
        connection: sa.Connection,
        subject: str,
        digests: Mapping[str, str],
        role: str,
        quorum: int,
        not_by: Sequence[str],
    ) -> tuple[State, str]:
        """How the approval of a subject stands, for exactly these digests; and a sentence."""
        row = connection.execute(
            sa.select(approval)
            .where(
                approval.c.subject == subject,
                approval.c.digest == digest_of(digests),
                approval.c.role == role,
                approval.c.state != "withdrawn",
            )
            .order_by(approval.c.created_at.desc(), approval.c.id.desc())
            .limit(1)
        ).first()
        if row is None:
            return "waiting", f"Nobody has been asked yet for the approval of {quorum} {role}."
        answers = _answers(connection, [row.id]).get(row.id, ())
        no = next((one for one in answers if one.decision == "rejected"), None)
        if no is not None:
            said = f": {no.reason}" if no.reason else "."
            return "rejected", f"{no.principal} rejected it{said}"
        excluded = set(not_by)
        yes = [one for one in answers if one.principal not in excluded]
        if len(yes) >= quorum:
            return "approved", f"Approved by {', '.join(one.principal for one in yes)}."
        if row.state in ("expired", "void") or row.expires_at <= now_us():
            return "expired", f"Not enough approved it until {iso(row.expires_at)}."
        return "waiting", f"Waits for the approval of {quorum - len(yes)} more {role}."

    def withdraw(self, connection: sa.Connection, subject_prefix: str) -> None:
        """Nobody needs to answer any more what was asked about these subjects."""
        text = sa.func.substr(approval.c.subject, 1, len(subject_prefix)) == subject_prefix
        connection.execute(
            sa.update(approval).where(text, approval.c.state == "waiting").values(state="withdrawn")
        )

    # For people ---------------------------------------------------------------------------------

    def answer(
        self, actor: Principal, approval_id: str, *, approve: bool, reason: str = ""
    ) -> Approval:
        """Say yes or no, once. Raises `WrongState` with what was decided if it is decided."""
        decision = "approved" if approve else "rejected"
        if len(reason) > MAX_REASON:
            raise InvalidInput(f"A reason has at most {MAX_REASON} characters.")
        with self._database.begin() as connection:
            found = self._find(connection, approval_id)
            resource = _resource(found.subject, found.team)
            authorize(actor, Action.READ, resource)
            self._refuse(actor, found)
            connection.execute(
                sa.insert(approval_answer).values(
                    approval_id=found.id,
                    principal_id=actor.id,
                    principal=actor.name,
                    decision=decision,
                    reason=reason.strip(),
                    at=now_us(),
                )
            )
            yes = 1 + sum(one.decision == "approved" for one in found.answers)
            if not approve:
                self._set(connection, found.id, "rejected")
            elif yes >= found.quorum:
                self._set(connection, found.id, "approved")
            details = {"approval": found.id, "decision": decision, "reason": reason.strip()}
            details["digests"] = dict(found.digests)  # type: ignore[assignment]
            audit.record(connection, actor, "answer-approval", resource, details)
            return self._find(connection, approval_id)

    def _refuse(self, actor: Principal, found: Approval) -> None:
        if any(one.principal == actor.name for one in found.answers):
            raise Conflict(f"{actor.name} has answered this already; each counts once.")
        if found.state != "waiting":
            who = ", ".join(f"{one.principal} {one.decision}" for one in found.answers)
            raise WrongState(f"This approval is {found.state} already{who and f' ({who})'}.")
        if actor.name in found.not_by or actor.id in found.not_by:
            raise NotAllowed("Nobody approves what they asked for or made themselves.")
        if not has_role(actor, found.role, found.team):
            raise NotAllowed(
                f"{actor.name} is not asked: this needs the role {found.role} for {found.team}."
            )

    def get(self, actor: Principal, approval_id: str) -> Approval:
        with self._database.read() as connection:
            found = self._find(connection, approval_id)
        authorize(actor, Action.READ, _resource(found.subject, found.team))
        return found

    def list(
        self,
        actor: Principal,
        *,
        state: str = "",
        subject: str = "",
        mine: bool = False,
        limit: int = 200,
    ) -> Sequence[Approval]:
        """Newest first. subject: how it begins; mine: only what `actor` may answer now."""
        condition: sa.ColumnElement[bool] = sa.true()
        teams = actor.teams(Action.READ)
        if teams is not None:
            condition = approval.c.team.in_(sorted(teams))
        if subject:
            start = sa.func.substr(approval.c.subject, 1, len(subject)) == subject
            condition = sa.and_(condition, start)
        if state or mine:
            kept = "waiting" if mine or state == "expired" else state
            condition = sa.and_(condition, approval.c.state == kept)
        with self._database.read() as connection:
            found = self._read(connection, condition, limit)
        if state or mine:
            found = [one for one in found if one.state == (state or "waiting")]
        return [one for one in found if not mine or may_answer(actor, one)]

    # Finding ------------------------------------------------------------------------------------

    def _find(self, connection: sa.Connection, approval_id: str) -> Approval:
        found = self._read(connection, approval.c.id == approval_id, 1)
        if not found:
            raise NotFound(
                f"There is no approval {approval_id[:40]}.", hint="See: modelfleet approvals list"
            )
        return found[0]

    def _read(
        self, connection: sa.Connection, condition: sa.ColumnElement[bool], limit: int
    ) -> Sequence[Approval]:
        rows = connection.execute(
            sa.select(approval)
            .where(condition)
            .order_by(approval.c.created_at.desc(), approval.c.id.desc())
            .limit(limit)
        ).all()
        answers = _answers(connection, [row.id for row in rows])
        now = now_us()
        return [_shown(row, answers.get(row.id, ()), now) for row in rows]

    def _set(self, connection: sa.Connection, approval_id: str, state: str) -> None:
        connection.execute(
            sa.update(approval).where(approval.c.id == approval_id).values(state=state)
        )


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest over named ones."""
    return digest(msgspec.json.encode(sorted(digests.items())))


def check_role(role: str, quorum: int) -> None:
    """Raises `InvalidInput` for a role that nobody can have, or a quorum below one."""
    if role not in tuple(Role):
        raise InvalidInput(f"{role[:40]!r} is no role.", hint=f"Roles: {', '.join(Role)}.")
    if not 1 <= quorum <= 100:
        raise InvalidInput("A quorum is 1 to 100 people.")


def has_role(actor: Principal, role: str, team: str) -> bool:
    """An admin has every role."""
    return any(
        one.role.value in (role, Role.ADMIN.value) and one.team in ("*", team)
        for one in actor.grants
    )


def may_answer(actor: Principal, one: Approval) -> bool:
    answered = any(given.principal == actor.name for given in one.answers)
    excluded = actor.name in one.not_by or actor.id in one.not_by
    return (
        one.state == "waiting"
        and not answered
        and not excluded
        and has_role(actor, one.role, one.team)
    )


def _resource(subject: str, team: str) -> Resource:
    return Resource("approval", subject, team)


def _answers(connection: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[Answer, ...]]:
    found: dict[str, tuple[Answer, ...]] = {}
    if not ids:
        return found
    rows = connection.execute(
        sa.select(approval_answer)
        .where(approval_answer.c.approval_id.in_(ids))
        .order_by(approval_answer.c.at)
    )
    for r in rows:
        one = Answer(r.principal, r.decision, r.reason, iso(r.at))
        found[r.approval_id] = (*found.get(r.approval_id, ()), one)
    return found


def _shown(row: sa.Row[*tuple[Any, ...]], answers: tuple[Answer, ...], now: int) -> Approval:
    expired = row.state == "waiting" and row.expires_at <= now
    return Approval(
        id=row.id,
        subject=row.subject,
        digests=row.digests,
        role=row.role,
        quorum=row.quorum,
        team=row.team,
        sentence=row.sentence,
        requested_by=row.requested_by,
        state="expired" if expired else row.state,
        created_at=iso(row.created_at),
        expires_at=iso(row.expires_at),
        not_by=tuple(row.not_by),
        answers=answers,
    )
