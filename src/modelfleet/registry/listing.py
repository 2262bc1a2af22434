"""Searches and long lists: what clients show of models and versions, in few queries.

A `Version` carries its signature and evidence, which cost more than all the rest; lists of
thousands are made of summaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from modelfleet.core.authorization import Action, Principal, authorize
from modelfleet.core.errors import NotFound
from modelfleet.registry import filters, store
from modelfleet.registry.base import PROMPT_TAG
from modelfleet.registry.filters import Comparison, Grammar
from modelfleet.registry.tables import (
    TAG_PREFIX,
    alias,
    model,
    model_tag,
    model_version,
    version_tag,
)
from modelfleet.registry.versions import VersionVerbs

MODELS = Grammar(
    texts=frozenset({"name"}),
    numbers=frozenset({"creation_timestamp", "last_updated_timestamp"}),
    listed=frozenset({"name"}),
)
VERSIONS = Grammar(
    texts=frozenset({"name", "run_id", "source_path"}),
    numbers=frozenset({"version_number", "creation_timestamp", "last_updated_timestamp"}),
    listed=frozenset({"name", "run_id"}),
)
_MODEL_COLUMNS: dict[str, sa.ColumnElement[object]] = {
    "name": model.c.name,
    "timestamp": model.c.updated_at,
    "creation_timestamp": model.c.created_at,
    "last_updated_timestamp": model.c.updated_at,
}
_VERSION_COLUMNS: dict[str, sa.ColumnElement[object]] = {
    "name": model.c.name,
    "version_number": model_version.c.sequence,
    "run_id": model_version.c.run_id,
    "source_path": model_version.c.source_uri,
    "creation_timestamp": model_version.c.created_at,
    "last_updated_timestamp": model_version.c.updated_at,
}


class VersionSummary(msgspec.Struct, frozen=True):
    id: str
    model_id: str
    model: str
    owner_team: str
    sequence: int
    version: str
    status: str
    reason: str
    stage: str
    description: str
    run_id: str | None
    run_link: str
    source_uri: str
    logged_model_id: str | None
    created_by: str
    created_at: int
    """microseconds since 1970"""
    updated_at: int
    """microseconds since 1970"""
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = {}


class ModelSummary(msgspec.Struct, frozen=True):
    id: str
    name: str
    owner_team: str
    description: str
    created_at: int
    """microseconds since 1970"""
    updated_at: int
    """microseconds since 1970"""
    tags: dict[str, str]
    aliases: tuple[tuple[str, int], ...]
    """names, and the sequence numbers they point at"""
    latest: tuple[VersionSummary, ...]
    """the newest version of each stage"""


_SUMMARY = (
    model_version.c.id,
    model_version.c.model_id,
    model.c.name.label("model"),
    model.c.owner_team,
    model_version.c.sequence,
    model_version.c.semver.label("version"),
    model_version.c.status,
    model_version.c.reason,
    model_version.c.stage,
    model_version.c.description,
    model_version.c.run_id,
    model_version.c.run_link,
    model_version.c.source_uri,
    model_version.c.logged_model_id,
    model_version.c.created_by,
    model_version.c.created_at,
    model_version.c.updated_at,
)
_JOINED = model_version.join(model, model.c.id == model_version.c.model_id)
_BY_SEQUENCE = (
    sa.select(*_SUMMARY)
    .select_from(_JOINED)
    .where(
        model_version.c.model_id == sa.bindparam("model"),
        model_version.c.sequence == sa.bindparam("sequence"),
    )
)
_NAMES = (
    sa.select(alias.c.version_id, alias.c.name)
    .where(alias.c.version_id.in_(sa.bindparam("versions", expanding=True)))
    .order_by(alias.c.name)
)
_LATEST = (
    sa.select(model_version.c.model_id, sa.func.max(model_version.c.sequence).label("sequence"))
    .where(model_version.c.model_id.in_(sa.bindparam("models", expanding=True)))
    .group_by(model_version.c.model_id, model_version.c.stage)
    .subquery()
)
_NEWEST = (
    sa.select(*_SUMMARY)
    .select_from(
        _JOINED.join(
            _LATEST,
            sa.and_(
                _LATEST.c.model_id == model_version.c.model_id,
                _LATEST.c.sequence == model_version.c.sequence,
            ),
        )
    )
    .order_by(model_version.c.sequence)
)
_ALIASES = (
    sa.select(alias.c.model_id, alias.c.name, model_version.c.sequence)
    .join(model_version, model_version.c.id == alias.c.version_id)
    .where(alias.c.model_id.in_(sa.bindparam("models", expanding=True)))
    .order_by(alias.c.name)
)
_ONE_MODEL = sa.select(model).where(
    model.c.namespace_id == sa.bindparam("namespace"), model.c.name == sa.bindparam("name")
)


class ListingVerbs(VersionVerbs):
    def search_models(
        self,
        actor: Principal,
        filter_text: str | None = None,
        *,
        order_by: Sequence[str] = (),
        limit: int = 100,
        offset: int = 0,
    ) -> list[ModelSummary]:
        """Models by name unless ordered otherwise; of teams whose models `actor` may read."""
        comparisons = filters.parse(filter_text, MODELS)
        keys = frozenset(_MODEL_COLUMNS)
        order = _order(filters.parse_order(order_by, MODELS, keys), _MODEL_COLUMNS)
        conditions = [
            self._inside(comparisons),
            store.readable_by(actor.teams(Action.READ)),
            *_conditions(comparisons, _MODEL_COLUMNS, model_tag, model.c.id),
        ]
        query = (
            sa.select(model)
            .where(*conditions)
            .order_by(*order, model.c.name)
            .limit(limit)
            .offset(offset)
        )
        with self._database.read() as connection:
            return _models(connection, connection.execute(query).all())

    def search_versions(
        self,
        actor: Principal,
        filter_text: str | None = None,
        *,
        order_by: Sequence[str] = (),
        limit: int = 1000,
        offset: int = 0,
    ) -> list[VersionSummary]:
        """Versions, last changed first unless ordered otherwise."""
        comparisons = filters.parse(filter_text, VERSIONS)
        keys = frozenset({"name", *VERSIONS.numbers})
        order = _order(filters.parse_order(order_by, VERSIONS, keys), _VERSION_COLUMNS)
        conditions = [
            self._inside(comparisons),
            store.readable_by(actor.teams(Action.READ)),
            *_conditions(comparisons, _VERSION_COLUMNS, version_tag, model_version.c.id),
        ]
        order = order or [model_version.c.updated_at.desc()]
        query = (
            sa.select(*_SUMMARY)
            .select_from(_JOINED)
            .where(*conditions)
            .order_by(*order, model.c.name, model_version.c.sequence.desc())
            .limit(limit)
            .offset(offset)
        )
        with self._database.read() as connection:
            return _versions(connection, query)

    def _inside(self, comparisons: Sequence[Comparison]) -> sa.ColumnElement[bool]:
        """In this namespace. A search by tag begins with the tag: the namespace, which holds for
        nearly all rows, must not look like a way to find them."""
        by_tag = any(one.entity == "tag" and one.operator == "=" for one in comparisons)
        own = model.c.namespace_id
        return (own.concat("") if by_tag else own) == self.namespace_id

    def summarise_model(self, actor: Principal, name: str) -> ModelSummary:
        with self._database.read() as connection:
            given = {"namespace": self.namespace_id, "name": name}
            rows = connection.execute(_ONE_MODEL, given).all()
            if not rows:
                raise NotFound(f"There is no model {name}.")
            authorize(actor, Action.READ, self._resource(name, rows[0].owner_team))
            return _models(connection, rows)[0]

    def summarise_version(self, actor: Principal, name: str, reference: str) -> VersionSummary:
        """By sequence number, alias, semantic version or range."""
        with self._database.read() as connection:
            row = store.model_row(connection, self.namespace_id, name)
            if row is None:
                raise NotFound(f"There is no model {name}.")
            authorize(actor, Action.READ, self._resource(name, row.owner_team))
            if reference.isascii() and reference.isdigit():
                given = {"model": row.id, "sequence": int(reference[:9])}
                found = _versions(connection, _BY_SEQUENCE, given)
            else:
                found = self._named(connection, row.id, reference)
            if found:
                return found[0]
        raise NotFound(f"{name} has no version {reference}.")

    def _named(
        self, connection: sa.Connection, model_id: str, reference: str
    ) -> list[VersionSummary]:
        for meaning in self._meanings(connection, model_id, reference):
            found = _versions(
                connection,
                sa.select(*_SUMMARY)
                .select_from(_JOINED)
                .where(model_version.c.model_id == model_id, meaning)
                .order_by(model_version.c.semver_sort_key.desc())
                .limit(1),
            )
            if found:
                return found
        return []

    def latest_versions(self, actor: Principal, name: str) -> list[VersionSummary]:
        """The newest version of each stage that has one."""
        return list(self.summarise_model(actor, name).latest)


def _order(
    entries: list[tuple[str, str, bool]], columns: dict[str, sa.ColumnElement[object]]
) -> list[sa.ColumnElement[object]]:
    return [
        columns[key].asc() if ascending else columns[key].desc() for _, key, ascending in entries
    ]


def _conditions(
    comparisons: Sequence[Comparison],
    columns: dict[str, sa.ColumnElement[object]],
    tags: sa.Table,
    owner: sa.ColumnElement[str],
) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    for one in comparisons:
        if one.entity == "attribute":
            value = one.value
            if one.key.endswith("_timestamp") and isinstance(value, int | float):
                found.append(_milliseconds(columns[one.key], one.operator, value))
            else:
                found.append(filters.compare(columns[one.key], one.operator, value))
        elif one.key == PROMPT_TAG and (one.operator, str(one.value).lower()) in (
            ("!=", "true"),
            ("=", "false"),
        ):
            found.append(owner.not_in(filters.owners(tags, PROMPT_TAG, "=", "true", TAG_PREFIX)))
        else:
            found.append(
                owner.in_(filters.owners(tags, one.key, one.operator, one.value, TAG_PREFIX))
            )
    if not any(one.entity == "tag" and one.key == PROMPT_TAG for one in comparisons):
        found.append(owner.not_in(filters.owners(tags, PROMPT_TAG, "=", "true", TAG_PREFIX)))
    return found


def _milliseconds(
    column: sa.ColumnElement[object], operator: str, value: float
) -> sa.ColumnElement[bool]:
    """A comparison of stored microseconds, as if they were whole milliseconds."""
    low, high = int(value) * 1000, int(value) * 1000 + 999
    if operator in ("=", "!="):
        inside = column.between(low, high)
        return inside if operator == "=" else sa.not_(inside)
    return filters.compare(column, operator, high if operator in (">", "<=") else low)


def _models(
    connection: sa.Connection, rows: Sequence[sa.Row[*tuple[Any, ...]]]
) -> list[ModelSummary]:
    ids = [row.id for row in rows]
    tags = store.tags_of(connection, model_tag, ids)
    latest = _latest(connection, ids)
    aliases: dict[str, list[tuple[str, int]]] = {}
    for chunk in store.chunks(ids):
        for model_id, name, sequence in connection.execute(_ALIASES, {"models": list(chunk)}):
            aliases.setdefault(model_id, []).append((name, sequence))
    return [
        ModelSummary(
            id=row.id,
            name=row.name,
            owner_team=row.owner_team,
            description=row.description,
            created_at=row.created_at,
            updated_at=row.updated_at,
            tags=tags.get(row.id, {}),
            aliases=tuple(aliases.get(row.id, ())),
            latest=tuple(latest.get(row.id, ())),
        )
        for row in rows
    ]


def _latest(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[VersionSummary]]:
    found: dict[str, list[VersionSummary]] = {}
    for chunk in store.chunks(ids):
        for one in _versions(connection, _NEWEST, {"models": list(chunk)}):
            found.setdefault(one.model_id, []).append(one)
    return found


def _versions(
    connection: sa.Connection, query: sa.Select[Any], given: Mapping[str, object] | None = None
) -> list[VersionSummary]:
    rows = connection.execute(query, given or {}).all()
    ids = [row[0] for row in rows]
    tags = store.tags_of(connection, version_tag, ids)
    names: dict[str, list[str]] = {}
    for chunk in store.chunks(ids):
        for version_id, name in connection.execute(_NAMES, {"versions": list(chunk)}):
            names.setdefault(version_id, []).append(name)
    made: Any = VersionSummary  # its fields are the columns, in their order
    return [made(*row, tuple(names.get(row[0], ())), tags.get(row[0], {})) for row in rows]
