"""Verbs on reviews: somebody asks somebody else, or a role, to look at a version.

A review is open until it is approved, changes are requested, or it is withdrawn; then it stays as
it is, and a new one may be asked for. Nobody approves what they registered or asked a review of.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Role, authorize
from modelfleet.core.clock import iso, now_us
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, NotFound, WrongState
from modelfleet.core.ids import new_id
from modelfleet.registry import store
from modelfleet.registry.base import Verbs
from modelfleet.registry.collaboration.tables import version_review
from modelfleet.registry.collaboration.types import Review, plain
from modelfleet.registry.tables import model, model_version
from modelfleet.registry.types import Version

ANSWERS = ("approved", "changes-requested")


class ReviewVerbs(Verbs):
    def reviews(self, actor: Principal, name: str, reference: str) -> list[Review]:
        """Of a version, the oldest first."""
        with self._database.read() as connection:
            found = self._version(connection, name, reference)
            authorize(actor, Action.READ, self._resource(found.model, found.owner_team))
            return self._reviews(connection, version_review.c.version_id == found.id)

    def all_reviews(self, actor: Principal, state: str = "", *, mine: bool = False) -> list[Review]:
        """Of all models that `actor` may read; `mine`: only what they are asked to answer."""
        condition = store.readable_by(actor.teams(Action.READ))
        if state:
            condition = sa.and_(condition, version_review.c.state == state)
        with self._database.read() as connection:
            found = self._reviews_with_team(connection, condition)
        return [
            one
            for one, team in found
            if not mine or _is_reviewer(actor, one.reviewer, one.role, team)
        ]

    def request_review(
        self,
        actor: Principal,
        name: str,
        reference: str,
        *,
        reviewer: str = "",
        role: str = "",
        note: str = "",
    ) -> Review:
        """Ask one principal, or anybody of a role in the model's team."""
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            if bool(reviewer) == bool(role):
                raise InvalidInput("A review asks for a reviewer or for a role.")
            if role and role not in tuple(Role):
                raise InvalidInput(f"{role[:40]!r} is no role.", hint=f"Roles: {', '.join(Role)}.")
            if reviewer and reviewer in (actor.name, found.created_by):
                raise InvalidInput(f"{reviewer} can't review their own version or request.")
            said, made = plain(note, "A note", empty=True), new_id()
            same = sa.and_(
                version_review.c.version_id == found.id,
                version_review.c.state == "open",
                version_review.c.reviewer == reviewer,
                version_review.c.role == role,
            )
            if connection.execute(sa.select(version_review.c.id).where(same)).first() is not None:
                raise Conflict(f"{reviewer or role} is asked to review {found.name} already.")
            connection.execute(
                sa.insert(version_review).values(
                    id=made,
                    version_id=found.id,
                    requested_by_id=actor.id,
                    requested_by=actor.name,
                    reviewer=reviewer,
                    role=role,
                    state="open",
                    note=said,
                    answer="",
                    answered_by="",
                    created_at=now_us(),
                )
            )
            details = _details(found, made) | {"reviewer": reviewer, "role": role}
            details["note"] = said[:1000]
            audit.record(connection, actor, "request-review", resource, details)
            return self._review(connection, found, made)

    def answer_review(
        self,
        actor: Principal,
        name: str,
        reference: str,
        review_id: str,
        *,
        state: str,
        comment: str = "",
    ) -> Review:
        """`approved`, or `changes-requested` with a comment that says which."""
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.READ, resource)
            if state not in ANSWERS:
                raise InvalidInput(f"{state[:40]!r} is no answer: {' or '.join(ANSWERS)}.")
            row = self._review_row(connection, found, review_id)
            if not _is_reviewer(actor, row.reviewer, row.role, found.owner_team):
                who = row.reviewer or f"a principal with the role {row.role}"
                raise NotAllowed(f"{actor.name} was not asked: this review is for {who}.")
            if state == "approved" and (
                actor.id == row.requested_by_id or actor.name == found.created_by
            ):
                raise NotAllowed("Nobody approves what they registered or asked a review of.")
            said = plain(comment, "An answer", empty=state == "approved")
            self._close(connection, row, state, actor, said)
            details = _details(found, review_id) | {"state": state, "comment": said[:1000]}
            audit.record(connection, actor, "answer-review", resource, details)
            return self._review(connection, found, review_id)

    def withdraw_review(
        self, actor: Principal, name: str, reference: str, review_id: str
    ) -> Review:
        """By who asked for it, or an admin."""
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            row = self._review_row(connection, found, review_id)
            own = row.requested_by_id == actor.id
            if not own and not actor.may(Action.MANAGE_ACCESS, found.owner_team):
                raise NotAllowed(f"Only {row.requested_by} or an admin may withdraw this review.")
            self._close(connection, row, "withdrawn", actor, "")
            audit.record(connection, actor, "withdraw-review", resource, _details(found, review_id))
            return self._review(connection, found, review_id)

    def _close(
        self,
        connection: sa.Connection,
        row: sa.Row[*tuple[Any, ...]],
        state: str,
        actor: Principal,
        said: str,
    ) -> None:
        open_one = sa.and_(version_review.c.id == row.id, version_review.c.state == "open")
        values = {"state": state, "answer": said, "answered_by": actor.name}
        changed = connection.execute(
            sa.update(version_review).where(open_one).values(values | {"answered_at": now_us()})
        )
        if not changed.rowcount:
            raise WrongState(f"The review is {row.state} already.", hint="Ask for a new one.")

    def _review_row(
        self, connection: sa.Connection, found: Version, review_id: str
    ) -> sa.Row[*tuple[Any, ...]]:
        row = connection.execute(
            sa.select(version_review).where(
                version_review.c.id == review_id, version_review.c.version_id == found.id
            )
        ).first()
        if row is None:
            raise NotFound(f"{found.name} has no review {review_id[:40]}.")
        return row

    def _review(self, connection: sa.Connection, found: Version, review_id: str) -> Review:
        return self._reviews(connection, version_review.c.id == review_id)[0]

    def _reviews(
        self, connection: sa.Connection, condition: sa.ColumnElement[bool]
    ) -> list[Review]:
        return [one for one, _ in self._reviews_with_team(connection, condition)]

    def _reviews_with_team(
        self, connection: sa.Connection, condition: sa.ColumnElement[bool]
    ) -> list[tuple[Review, str]]:
        rows = connection.execute(
            sa.select(version_review, model_version.c.semver, model.c.name, model.c.owner_team)
            .join(model_version, model_version.c.id == version_review.c.version_id)
            .join(model, model.c.id == model_version.c.model_id)
            .where(condition, model.c.namespace_id == self.namespace_id)
            .order_by(version_review.c.created_at, version_review.c.id)
        )
        return [(_review_of(row), row.owner_team) for row in rows]


def _is_reviewer(actor: Principal, reviewer: str, role: str, team: str) -> bool:
    if reviewer:
        return actor.name == reviewer
    return any(one.role.value == role and one.team in ("*", team) for one in actor.grants)


def _details(found: Version, review_id: str) -> dict[str, object]:
    return {"version": found.version, "sequence": found.sequence, "review": review_id}


def _review_of(row: sa.Row[*tuple[Any, ...]]) -> Review:
    return Review(
        id=row.id,
        model=row.name,
        version=row.semver,
        requested_by=row.requested_by,
        reviewer=row.reviewer,
        role=row.role,
        state=row.state,
        note=row.note,
        answer=row.answer,
        answered_by=row.answered_by,
        created_at=iso(row.created_at),
        answered_at=iso(row.answered_at) if row.answered_at else None,
    )
