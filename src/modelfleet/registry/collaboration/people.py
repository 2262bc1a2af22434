"""Verbs on who stands beside a model: its owners and its watchers.

An owner answers for the model; what somebody may do to it is for grants alone to say. Who watches
a model is named in the events that tell of its changes.
"""

from __future__ import annotations

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, authorize
from modelfleet.core.clock import iso, now_us
from modelfleet.core.errors import NotFound
from modelfleet.registry.base import Verbs
from modelfleet.registry.collaboration.tables import model_owner, model_watcher
from modelfleet.registry.collaboration.types import Person
from modelfleet.registry.tables import model, namespace


class PeopleVerbs(Verbs):
    def owners(self, actor: Principal, name: str) -> list[Person]:
        return self._people(actor, name, model_owner)

    def add_owner(self, actor: Principal, name: str, person: str) -> list[Person]:
        """`person` names a principal that there is. Twice is once."""
        with self._database.begin() as connection:
            row = self._row(connection, name)
            resource = self._resource(row.name, row.owner_team)
            authorize(actor, Action.REGISTER, resource)
            same = sa.and_(model_owner.c.model_id == row.id, model_owner.c.principal == person)
            if connection.execute(sa.select(model_owner).where(same)).first() is None:
                connection.execute(
                    sa.insert(model_owner).values(
                        model_id=row.id,
                        principal=person,
                        added_by=actor.name,
                        created_at=now_us(),
                    )
                )
                audit.record(connection, actor, "add-owner", resource, {"owner": person})
        return self.owners(actor, name)

    def remove_owner(self, actor: Principal, name: str, person: str) -> None:
        with self._database.begin() as connection:
            row = self._row(connection, name)
            resource = self._resource(row.name, row.owner_team)
            authorize(actor, Action.REGISTER, resource)
            same = sa.and_(model_owner.c.model_id == row.id, model_owner.c.principal == person)
            if not connection.execute(sa.delete(model_owner).where(same)).rowcount:
                raise NotFound(f"{person} is no owner of {name}.")
            audit.record(connection, actor, "remove-owner", resource, {"owner": person})

    def watchers(self, actor: Principal, name: str) -> list[Person]:
        return self._people(actor, name, model_watcher)

    def watch(self, actor: Principal, name: str) -> list[Person]:
        """The caller watches the model from now on. Twice is once."""
        with self._database.begin() as connection:
            row = self._row(connection, name)
            resource = self._resource(row.name, row.owner_team)
            authorize(actor, Action.READ, resource)
            if connection.execute(self._watching(actor, row.id)).first() is None:
                values = {"model_id": row.id, "principal": actor.name, "created_at": now_us()}
                connection.execute(sa.insert(model_watcher).values(values))
                audit.record(connection, actor, "watch-model", resource)
        return self.watchers(actor, name)

    def unwatch(self, actor: Principal, name: str) -> None:
        """The caller watches the model no longer; nothing happens if they did not."""
        with self._database.begin() as connection:
            row = self._row(connection, name)
            resource = self._resource(row.name, row.owner_team)
            authorize(actor, Action.READ, resource)
            if connection.execute(self._watching(actor, row.id)).first() is not None:
                connection.execute(
                    sa.delete(model_watcher).where(
                        model_watcher.c.model_id == row.id,
                        model_watcher.c.principal == actor.name,
                    )
                )
                audit.record(connection, actor, "unwatch-model", resource)

    def _watching(self, actor: Principal, model_id: str) -> sa.Select[tuple[str]]:
        return sa.select(model_watcher.c.model_id).where(
            model_watcher.c.model_id == model_id, model_watcher.c.principal == actor.name
        )

    def _people(self, actor: Principal, name: str, table: sa.Table) -> list[Person]:
        with self._database.read() as connection:
            row = self._row(connection, name)
            authorize(actor, Action.READ, self._resource(row.name, row.owner_team))
            found = connection.execute(
                sa.select(table.c.principal, table.c.created_at)
                .where(table.c.model_id == row.id)
                .order_by(table.c.principal)
            )
            return [Person(one.principal, iso(one.created_at)) for one in found]


def watchers_of(connection: sa.Connection, resource: str) -> list[str]:
    """Who watches a model, by its name as the audit log has it (with its namespace)."""
    within, _, name = resource.rpartition("/")
    return list(
        connection.execute(
            sa.select(model_watcher.c.principal)
            .join(model, model.c.id == model_watcher.c.model_id)
            .join(namespace, namespace.c.id == model.c.namespace_id)
            .where(model.c.name == name, namespace.c.name == (within or "default"))
            .order_by(model_watcher.c.principal)
        ).scalars()
    )
