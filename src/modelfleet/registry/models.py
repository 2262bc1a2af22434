"""Verbs on models."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.errors import Conflict, InvalidInput, Referenced
from modelfleet.core.ids import new_id
from modelfleet.lineage import Node, edges_from, remove_edges, rename_node
from modelfleet.registry import store
from modelfleet.registry.base import prompt_mark
from modelfleet.registry.collaboration.tables import model_default, model_owner, model_watcher
from modelfleet.registry.collaboration.types import Template
from modelfleet.registry.tables import alias, model, model_tag, model_version
from modelfleet.registry.types import CRITICALITIES, ISOLATIONS, Model, Placement
from modelfleet.registry.versions import VersionVerbs

_NAME = re.compile(r"[^\s/:@](?:[^/:@]{0,248}[^\s/:@])?")


class ModelVerbs(VersionVerbs):
    def create_model(
        self,
        actor: Principal,
        name: str,
        *,
        owner_team: str,
        business_function: str | None = None,
        criticality: str | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        isolation: str | None = None,
        template: str = "",
    ) -> Model:
        """What is not given is as the team's `template` says, else normal, shared and empty."""
        check_name(name)
        if not owner_team or len(owner_team) > 120 or owner_team == "*":
            raise InvalidInput("A model needs an owner team.")
        _check(criticality, isolation)
        resource = self._resource(name, owner_team)
        authorize(actor, Action.REGISTER, resource)
        with self._database.begin() as connection:
            if store.model_row(connection, self.namespace_id, name) is not None:
                raise Conflict(f"There is already a model {name}.")
            used = Template(owner_team, "")
            if template:
                used = self._template(connection, owner_team, template)
            tags = {**used.tags, **(tags or {})}
            values = {
                "owner_team": owner_team,
                "business_function": _first(business_function, used.business_function, ""),
                "criticality": _first(criticality, used.criticality, "normal"),
                "description": description,
                "isolation": _first(isolation, used.isolation, "shared"),
            }
            model_id, now = new_id(), now_us()
            connection.execute(
                sa.insert(model).values(
                    id=model_id,
                    namespace_id=self.namespace_id,
                    name=name,
                    next_sequence=1,
                    created_at=now,
                    updated_at=now,
                    **values,
                )
            )
            store.replace_tags(connection, model_tag, model_id, tags)
            details = values | {"tags": tags} | prompt_mark(tags)
            if template:
                self._keep_defaults(connection, model_id, used)
                details["template"] = template
            audit.record(connection, actor, "create-model", resource, details)
            return self._model(connection, name)

    def update_model(
        self,
        actor: Principal,
        name: str,
        *,
        business_function: str | None = None,
        criticality: str | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        isolation: str | None = None,
    ) -> Model:
        given = {
            "business_function": business_function,
            "criticality": criticality,
            "description": description,
            "isolation": isolation,
        }
        changes: dict[str, object] = {k: v for k, v in given.items() if v is not None}
        _check(criticality, isolation)
        with self._database.begin() as connection:
            found = self._model(connection, name)
            resource = self._resource(found.name, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            if changes or tags is not None:
                store.touch_model(connection, found.id, **changes)
                if tags is not None:
                    store.replace_tags(connection, model_tag, found.id, tags)
                    changes["tags"] = dict(tags)
                audit.record(connection, actor, "update-model", resource, changes)
            return self._model(connection, name)

    def rename_model(self, actor: Principal, name: str, new_name: str) -> Model:
        """Endpoints keep their names; what is deployed goes on."""
        check_name(new_name)
        with self._database.begin() as connection:
            found = self._model(connection, name)
            resource = self._resource(found.name, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            if store.model_row(connection, self.namespace_id, new_name) is not None:
                raise Conflict(f"There is already a model {new_name}.")
            uses = self._uses(connection, found)
            if uses:
                raise Referenced(
                    f"{name} is used by {', '.join(uses)}.",
                    hint="What is deployed keeps its name: register under a new one instead.",
                    holders=uses,
                )
            own = model_version.c.model_id == found.id
            for semver in connection.execute(
                sa.select(model_version.c.semver).where(own)
            ).scalars():
                old, new = (
                    Node("version", self._qualified(f"{n}@{semver}")) for n in (name, new_name)
                )
                rename_node(connection, old, new)
            nodes = (Node("model", self._qualified(n)) for n in (found.name, new_name))
            rename_node(connection, *nodes)
            store.touch_model(connection, found.id, name=new_name)
            details = {"name": new_name}
            audit.record(connection, actor, "rename-model", resource, details)
            renamed = self._resource(new_name, found.owner_team)
            audit.record(connection, actor, "rename-model", renamed, {"before": name})
            self._ready.clear()
            return self._model(connection, new_name)

    def transfer_model(self, actor: Principal, name: str, owner_team: str) -> Model:
        """Give the model to another team. Whoever does it may register for both."""
        if not owner_team or len(owner_team) > 120 or owner_team == "*":
            raise InvalidInput("A model needs an owner team.")
        with self._database.begin() as connection:
            found = self._model(connection, name)
            resource = self._resource(found.name, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            authorize(actor, Action.REGISTER, self._resource(found.name, owner_team))
            store.touch_model(connection, found.id, owner_team=owner_team)
            details = {"before": found.owner_team, "owner_team": owner_team}
            audit.record(connection, actor, "transfer-model", resource, details)
            self._ready.clear()
            return self._model(connection, name)

    def set_model_tag(self, actor: Principal, name: str, key: str, value: str) -> None:
        with self._database.begin() as connection:
            row = self._row(connection, name)
            resource = self._resource(row.name, row.owner_team)
            authorize(actor, Action.REGISTER, resource)
            store.set_tag(connection, model_tag, row.id, key, value)
            store.touch_model(connection, row.id)
            details = {"key": key, "value": value[:1000]} | self._mark(connection, row.id)
            audit.record(connection, actor, "set-model-tag", resource, details)

    def delete_model_tag(self, actor: Principal, name: str, key: str) -> None:
        with self._database.begin() as connection:
            row = self._row(connection, name)
            resource = self._resource(row.name, row.owner_team)
            authorize(actor, Action.REGISTER, resource)
            store.delete_tag(connection, model_tag, row.id, key)
            store.touch_model(connection, row.id)
            details = {"key": key} | self._mark(connection, row.id)
            audit.record(connection, actor, "delete-model-tag", resource, details)

    def get_model(self, actor: Principal, name: str) -> Model:
        with self._database.read() as connection:
            found = self._model(connection, name)
        authorize(actor, Action.READ, self._resource(found.name, found.owner_team))
        return found

    def list_models(
        self,
        actor: Principal,
        *,
        team: str | None = None,
        text: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Model]:
        """Models by name; only those of teams whose models `actor` may read."""
        with self._database.read() as connection:
            return store.list_models(
                connection,
                self.namespace_id,
                readable=actor.teams(Action.READ),
                team=team,
                text=text,
                limit=limit,
                offset=offset,
            )

    def models_by_name(self, actor: Principal, names: Collection[str]) -> dict[str, Model]:
        """Those of these that are there and that `actor` may read."""
        may = store.readable_by(actor.teams(Action.READ))
        own = model.c.namespace_id == self.namespace_id
        found: list[Model] = []
        with self._database.read() as connection:
            for some in store.chunks(sorted(names)):
                found += store.models(connection, sa.and_(own, may, model.c.name.in_(some)))
        return {one.name: one for one in found}

    def delete_model(self, actor: Principal, name: str, *, versions: bool = False) -> None:
        """Refused while it has versions, unless `versions` says that they go with it.

        Whatever of these is in use is refused in any case.
        """
        with self._database.begin() as connection:
            found = self._model(connection, name)
            resource = self._resource(found.name, found.owner_team)
            authorize(actor, Action.DELETE, resource)
            if found.versions and not versions:
                raise Referenced(
                    f"{name} has {found.versions} versions.", hint="Delete its versions first."
                )
            own = store.versions(connection, model_version.c.model_id == found.id)
            for version in own:
                self._refuse_if_held(connection, version)
            uses = self._uses(connection, found)
            if uses:
                raise Referenced(
                    f"{name} is used by {', '.join(uses)}.",
                    hint="Delete these first.",
                    holders=uses,
                )
            for version in own:
                self._remove_version(connection, version)
            connection.execute(sa.delete(alias).where(alias.c.model_id == found.id))
            remove_edges(connection, Node("model", self._qualified(found.name)))
            for table in (model_tag, model_owner, model_watcher, model_default):
                connection.execute(sa.delete(table).where(table.c.model_id == found.id))
            connection.execute(sa.delete(model).where(model.c.id == found.id))
            details = {"versions": [version.version for version in own]}
            audit.record(connection, actor, "delete-model", resource, details)

    def placements(self, names: Collection[str]) -> dict[str, Placement]:
        """Of these models, by name. For the platform's own rooms: no check of who asks."""
        with self._database.read() as connection:
            return store.placements(connection, sorted(names))

    def _uses(self, connection: sa.Connection, found: Model) -> list[str]:
        return [
            one.destination.name
            for one in edges_from(connection, Node("model", self._qualified(found.name)))
            if one.destination.kind in ("version", "endpoint")
        ]


def check_name(name: str) -> None:
    """Raises `InvalidInput` if a model can't have this name."""
    if not _NAME.fullmatch(name) or not name.isprintable() or set(name) == {"."}:
        raise InvalidInput(
            f"{name[:250]!r} can't name a model.",
            hint="Use 1 to 250 printable characters but none of / : @.",
        )


def _first(*given: str | None) -> str:
    """The first that was given."""
    return next(one for one in given if one is not None)


def _check(criticality: str | None, isolation: str | None) -> None:
    if isolation is not None and isolation not in ISOLATIONS:
        raise InvalidInput(
            f"{isolation!r} is no isolation.", hint=f"Use one of {', '.join(ISOLATIONS)}."
        )
    if criticality is not None and criticality not in CRITICALITIES:
        raise InvalidInput(
            f"{criticality!r} is no criticality.", hint=f"Use one of {', '.join(CRITICALITIES)}."
        )
