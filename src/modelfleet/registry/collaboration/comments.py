"""Verbs on comments: whoever may read a version may say something about it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, authorize
from modelfleet.core.clock import iso, now_us
from modelfleet.core.errors import NotAllowed, NotFound
from modelfleet.core.ids import new_id
from modelfleet.registry.base import Verbs
from modelfleet.registry.collaboration.tables import version_comment
from modelfleet.registry.collaboration.types import Comment, plain
from modelfleet.registry.types import Version

_QUOTED = 1000
"""characters of a comment that events carry"""


class CommentVerbs(Verbs):
    def comments(self, actor: Principal, name: str, reference: str) -> list[Comment]:
        """Of a version, the oldest first."""
        with self._database.read() as connection:
            found = self._version(connection, name, reference)
            authorize(actor, Action.READ, self._resource(found.model, found.owner_team))
            rows = connection.execute(
                sa.select(version_comment)
                .where(version_comment.c.version_id == found.id)
                .order_by(version_comment.c.created_at, version_comment.c.id)
            )
            return [_comment(found, row) for row in rows]

    def comment(self, actor: Principal, name: str, reference: str, text: str) -> Comment:
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.READ, resource)
            said, made = plain(text, "A comment"), new_id()
            connection.execute(
                sa.insert(version_comment).values(
                    id=made,
                    version_id=found.id,
                    author_id=actor.id,
                    author=actor.name,
                    text=said,
                    created_at=now_us(),
                )
            )
            audit.record(
                connection, actor, "comment-version", resource, _details(found, made, said)
            )
            return _comment(found, self._comment_row(connection, found, made))

    def edit_comment(
        self, actor: Principal, name: str, reference: str, comment_id: str, text: str
    ) -> Comment:
        """One's own only."""
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.READ, resource)
            row = self._comment_row(connection, found, comment_id)
            if row.author_id != actor.id:
                raise NotAllowed(f"Only {row.author} may change this comment.")
            said = plain(text, "A comment")
            connection.execute(
                sa.update(version_comment)
                .where(version_comment.c.id == comment_id)
                .values(text=said, edited_at=now_us())
            )
            details = _details(found, comment_id, said)
            audit.record(connection, actor, "edit-comment", resource, details)
            return _comment(found, self._comment_row(connection, found, comment_id))

    def delete_comment(self, actor: Principal, name: str, reference: str, comment_id: str) -> None:
        """One's own, or an admin any."""
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.READ, resource)
            row = self._comment_row(connection, found, comment_id)
            if row.author_id != actor.id and not actor.may(Action.MANAGE_ACCESS, found.owner_team):
                raise NotAllowed(f"Only {row.author} or an admin may delete this comment.")
            connection.execute(sa.delete(version_comment).where(version_comment.c.id == comment_id))
            details = _details(found, comment_id, "") | {"author": row.author}
            audit.record(connection, actor, "delete-comment", resource, details)

    def _comment_row(
        self, connection: sa.Connection, found: Version, comment_id: str
    ) -> sa.Row[*tuple[Any, ...]]:
        row = connection.execute(
            sa.select(version_comment).where(
                version_comment.c.id == comment_id, version_comment.c.version_id == found.id
            )
        ).first()
        if row is None:
            raise NotFound(f"{found.name} has no comment {comment_id[:40]}.")
        return row


def _details(found: Version, comment_id: str, text: str) -> dict[str, object]:
    details: dict[str, object] = {"version": found.version, "sequence": found.sequence}
    return details | {"comment": comment_id, "text": text[:_QUOTED]}


def _comment(found: Version, row: sa.Row[*tuple[Any, ...]]) -> Comment:
    edited = iso(row.edited_at) if row.edited_at else None
    return Comment(
        row.id, found.model, found.version, row.author, row.text, iso(row.created_at), edited
    )
