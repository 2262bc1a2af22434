"""What all verbs of the registry share: the stores, the namespace, how things are found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from modelfleet.core.authorization import Resource
from modelfleet.core.database import Database
from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.core.jobs import JobRunner
from modelfleet.registry import ranges, semver, store
from modelfleet.registry.bundles import BundleStore
from modelfleet.registry.tables import alias, model, model_tag, model_version
from modelfleet.registry.types import DEFAULT_NAMESPACE_ID, Model, Version

ModelRow = sa.Row[*tuple[Any, ...]]
"""id, name, owner_team, next_sequence and latest_version_id: what most verbs need"""
PROMPT_TAG = "mlflow.prompt.is_prompt"
"""Prompts are models with this tag; searches hide them unless they ask for it."""


def prompt_mark(tags: Mapping[str, str]) -> dict[str, object]:
    """What audit events of a prompt say beside their own details."""
    return {"prompt": True} if tags.get(PROMPT_TAG, "").lower() == "true" else {}


_ALIAS = sa.select(alias.c.version_id).where(
    alias.c.model_id == sa.bindparam("model"), alias.c.name == sa.bindparam("name")
)


class Verbs:
    """Bound to one namespace: whatever lives in another one is not found."""

    def __init__(
        self,
        database: Database,
        bundles: BundleStore,
        jobs: JobRunner,
        namespace: str = "default",
        namespace_id: str = DEFAULT_NAMESPACE_ID,
    ) -> None:
        self._database = database
        self._bundles = bundles
        self._jobs = jobs
        self._ready: dict[str, Version] = {}
        self.namespace = namespace
        self.namespace_id = namespace_id

    def _resource(self, name: str, team: str, kind: str = "model") -> Resource:
        """Names outside of the default namespace are told apart by a prefix."""
        return Resource(kind, self._qualified(name), team)

    def _qualified(self, name: str) -> str:
        return name if self.namespace == "default" else f"{self.namespace}/{name}"

    def _mark(self, connection: sa.Connection, model_id: str) -> dict[str, object]:
        return prompt_mark(store.tags_of(connection, model_tag, [model_id]).get(model_id, {}))

    def _row(self, connection: sa.Connection, name: str) -> ModelRow:
        row = store.model_row(connection, self.namespace_id, name)
        if row is None:
            raise NotFound(f"There is no model {name}.", hint="See: modelfleet models list")
        return row

    def _model(self, connection: sa.Connection, name: str) -> Model:
        found = store.find_model(connection, self.namespace_id, name)
        if found is None:
            raise NotFound(f"There is no model {name}.", hint="See: modelfleet models list")
        return found

    def _version_by_id(self, connection: sa.Connection, version_id: str) -> Version:
        return store.versions(connection, model_version.c.id == version_id)[0]

    def _version(self, connection: sa.Connection, name: str, reference: str) -> Version:
        """By alias, `latest`, sequence number, semantic version, range or stage; in this order."""
        row = store.model_row(connection, self.namespace_id, name)
        if row is None:
            raise NotFound(f"There is no model {name}.", hint="See: modelfleet models list")
        own = model_version.c.model_id == row.id
        for condition in self._meanings(connection, row.id, reference):
            order = (model_version.c.semver_sort_key.desc(),)
            found = store.versions(connection, sa.and_(own, condition), 1, order=order)
            if found:
                return found[0]
        raise NotFound(
            f"{name} has no version {reference}.", hint=f"See: modelfleet versions list {name}"
        )

    def _meanings(
        self, connection: sa.Connection, model_id: str, reference: str
    ) -> list[sa.ColumnElement[bool]]:
        named = connection.execute(_ALIAS, {"model": model_id, "name": reference}).scalar()
        if named is not None:
            return [model_version.c.id == named]
        if reference == "latest":
            newest = sa.select(model.c.latest_version_id).where(model.c.id == model_id)
            return [model_version.c.id == newest.scalar_subquery()]
        if reference.isascii() and reference.isdigit():
            return [model_version.c.sequence == int(reference[:9])]
        key = model_version.c.semver_sort_key
        if reference.count(".") >= 2 and reference[:1].isdigit() and "," not in reference:
            try:
                return [key == semver.parse(reference).sort_key]
            except InvalidInput:
                return [self._range(reference)]
        if not reference:
            return []
        if "." in reference or reference[0] in "^~<>=":
            return [self._range(reference)]
        return [model_version.c.stage == reference]

    def _range(self, reference: str) -> sa.ColumnElement[bool]:
        bounds = ranges.parse(reference)
        key = model_version.c.semver_sort_key
        conditions = [key >= bounds.low, model_version.c.lifecycle != "retired"]
        if bounds.high:
            conditions.append(key < bounds.high)
        if not bounds.prereleases:
            conditions.append(key.like("%~"))
        return sa.and_(*conditions)
