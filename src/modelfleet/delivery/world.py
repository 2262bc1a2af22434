"""What is there: read in batches, so that a plan of a thousand models asks a dozen questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import sqlalchemy as sa

from modelfleet.core.clock import iso
from modelfleet.core.errors import InvalidInput
from modelfleet.lineage.service import edge
from modelfleet.registry import Model, ranges, semver
from modelfleet.registry import store as registry_store
from modelfleet.registry.tables import model, model_version, version_tag
from modelfleet.registry.types import DEFAULT_NAMESPACE_ID
from modelfleet.rollouts.step import ENDED
from modelfleet.rollouts.tables import rollout
from modelfleet.serving.endpoints import Endpoint, EndpointService
from modelfleet.serving.pipelines import store as pipeline_store
from modelfleet.serving.pipelines.store import Pipeline

SOURCE_TAG = "modelfleet.source"
"""of a version that was registered from files: the digest of these"""
_FEW = 20
"""names that are asked for one by one"""
_ENDED = [state.value for state in ENDED]


@dataclass(frozen=True)
class VersionRow:
    id: str
    index: int
    sequence: int
    version: str
    key: str
    """sorts as versions do"""
    status: str
    stage: str
    lifecycle: str
    digest: str
    source: str = ""
    """digest of the files that it was registered from"""

    @property
    def usable(self) -> bool:
        return self.status not in ("failed", "external") and self.lifecycle != "retired"


@dataclass(frozen=True)
class RolloutRow:
    id: str
    endpoint_id: str
    to_version_id: str
    state: str
    sentence: str
    actor: str
    started_at: str

    @property
    def active(self) -> bool:
        return self.state not in _ENDED


@dataclass(frozen=True)
class World:
    models: Mapping[str, Model]
    versions: Mapping[str, Sequence[VersionRow]]
    """by model, newest first"""
    endpoints: Mapping[str, Endpoint]
    rollouts: Mapping[str, RolloutRow]
    """the newest of each endpoint, by the endpoint's id"""
    pipelines: Mapping[str, Pipeline]
    uses: Mapping[str, frozenset[str]]
    consumers: Mapping[str, frozenset[str]]
    """declared, by model: `app crm`, `model upsell`"""
    downstream: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """`kind name` to what takes its answers directly"""

    def resolve(self, name: str, reference: str) -> VersionRow | None:
        """What a reference means now: alias, `latest`, number, version, range or stage."""
        own = self.versions.get(name, ())
        found = self.models.get(name)
        named = found.aliases.get(reference) if found else None
        if named is not None:
            return next((one for one in own if one.version == named), None)
        if reference == "latest":
            return next((one for one in own if one.usable), None)
        if reference.isascii() and reference.isdigit():
            return next((one for one in own if one.sequence == int(reference[:9])), None)
        exact = next((one for one in own if one.version == reference), None)
        if exact is not None:
            return exact
        best = sorted((one for one in own if one.usable), key=lambda one: one.key, reverse=True)
        if "." in reference or reference[:1] in ("^", "~", "<", ">", "="):
            try:
                bounds = ranges.parse(reference)
            except InvalidInput:
                return None  # which `checked_range` tells
            return next((one for one in best if bounds.holds(semver.parse(one.version))), None)
        return next((one for one in best if one.stage == reference), None)

    def affected(self, start: str) -> list[str]:
        """All that takes answers of `kind name`, directly or not; nearest first."""
        seen, border, found = {start}, [start], []
        while border:
            following = []
            for one in border:
                for other in sorted(self.downstream.get(one, ())):
                    if other not in seen:
                        seen.add(other)
                        found.append(other)
                        following.append(other)
            border = following
        return found


def look(
    connection: sa.Connection,
    endpoints: EndpointService,
    models: Collection[str],
    places: Collection[str],
    pipelines: Collection[str],
    *,
    lineage: bool = True,
) -> World:
    """models, places (endpoints), pipelines: those of interest, by name. lineage: all of it, to
    follow; else what was declared of these models alone."""
    names = sorted(models)
    found_models: dict[str, Model] = {}
    for chunk in registry_store.chunks(names):
        own = sa.and_(model.c.namespace_id == DEFAULT_NAMESPACE_ID, model.c.name.in_(chunk))
        found_models |= {one.name: one for one in registry_store.models(connection, own)}
    found_places = _endpoints(connection, endpoints, places)
    downstream, uses, consumers = _edges(connection, None if lineage else names)
    return World(
        models=found_models,
        versions=_versions(connection, [one.id for one in found_models.values()]),
        endpoints=found_places,
        rollouts=_rollouts(connection, [one.id for one in found_places.values()]),
        pipelines=_pipelines(connection, pipelines),
        uses=uses,
        consumers=consumers,
        downstream=downstream,
    )


def _endpoints(
    connection: sa.Connection, endpoints: EndpointService, places: Collection[str]
) -> dict[str, Endpoint]:
    wanted = set(places)
    if not wanted:
        return {}
    return {one.name: one for one in endpoints.named(connection, sorted(wanted))}


def _pipelines(connection: sa.Connection, names: Collection[str]) -> dict[str, Pipeline]:
    if not names:
        return {}
    if len(names) <= _FEW:
        rows = [row for name in names for row in pipeline_store.find(connection, name)]
    else:
        rows = pipeline_store.find(connection)
    return {row.pipeline.name: row.pipeline for row in rows if row.pipeline.name in set(names)}


@cache
def _version_query() -> sa.Select[Any]:
    """Made once, as are the others: building a statement costs more than running it."""
    tag, version = version_tag, model_version
    tagged = sa.and_(tag.c.version_id == version.c.id, tag.c.key == SOURCE_TAG)
    columns = (
        model.c.name,
        version.c.id,
        version.c.number,
        version.c.sequence,
        version.c.semver,
        version.c.semver_sort_key,
        version.c.status,
        version.c.stage,
        version.c.lifecycle,
        version.c.bundle_digest,
        tag.c.value,
    )
    return (
        sa.select(*columns)
        .join(model, model.c.id == version.c.model_id)
        .join(tag, tagged, isouter=True)
        .where(version.c.model_id.in_(sa.bindparam("ids", expanding=True)))
        .order_by(version.c.number.desc())
    )


def _versions(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[VersionRow]]:
    found: dict[str, list[VersionRow]] = defaultdict(list)
    for chunk in registry_store.chunks(ids):
        for row in connection.execute(_version_query(), {"ids": list(chunk)}):
            values: tuple[Any, ...] = tuple(row)
            own = VersionRow(*values[1:-2], *(one or "" for one in values[-2:]))
            found[values[0]].append(own)
    return found


@cache
def _rollout_query() -> sa.Select[Any]:
    newest = (
        sa.select(rollout.c.endpoint_id, sa.func.max(rollout.c.started_at).label("at"))
        .where(rollout.c.endpoint_id.in_(sa.bindparam("ids", expanding=True)))
        .group_by(rollout.c.endpoint_id)
        .subquery()
    )
    same = sa.and_(
        rollout.c.endpoint_id == newest.c.endpoint_id, rollout.c.started_at == newest.c.at
    )
    columns = (
        rollout.c.id,
        rollout.c.endpoint_id,
        rollout.c.to_version_id,
        rollout.c.state,
        rollout.c.sentence,
        rollout.c.actor,
        rollout.c.started_at,
    )
    return sa.select(*columns).join(newest, same).order_by(rollout.c.id)


def _rollouts(connection: sa.Connection, endpoint_ids: Sequence[str]) -> dict[str, RolloutRow]:
    """The newest of each endpoint."""
    found = {}
    for chunk in registry_store.chunks(endpoint_ids):
        for row in connection.execute(_rollout_query(), {"ids": list(chunk)}):
            found[row.endpoint_id] = RolloutRow(
                row.id,
                row.endpoint_id,
                row.to_version_id,
                row.state,
                row.sentence,
                row.actor,
                iso(row.started_at),
            )
    return found


_Sets = dict[str, frozenset[str]]


def _edges(connection: sa.Connection, of: Sequence[str] | None) -> tuple[_Sets, _Sets, _Sets]:
    """(downstream by `kind name`, declared uses by model, declared consumers by model)."""
    relations = ("feeds", "consumed-by", "step-of", "served-by", "called-by", "read-by")
    touching: sa.ColumnElement[bool] = sa.true()
    if of is not None:
        touching = sa.or_(
            sa.and_(edge.c.source_kind == "model", edge.c.source.in_(of)),
            sa.and_(edge.c.destination_kind == "model", edge.c.destination.in_(of)),
        )
    rows = connection.execute(
        sa.select(
            edge.c.source_kind, edge.c.source, edge.c.destination_kind, edge.c.destination
        ).where(edge.c.relation.in_(relations), touching)
    )
    downstream: dict[str, set[str]] = defaultdict(set)
    uses: dict[str, set[str]] = defaultdict(set)
    consumers: dict[str, set[str]] = defaultdict(set)
    for source_kind, source, kind, name in rows:
        if kind == "version":
            kind, name = "model", name.rpartition("@")[0]
            downstream[f"{source_kind} {source}"].add(f"{kind} {name}")
            continue
        downstream[f"{source_kind} {source}"].add(f"{kind} {name}")
        if source_kind == "model" and kind == "model":
            uses[name].add(source)
            consumers[source].add(f"model {name}")
        elif source_kind == "model" and kind == "application":
            consumers[source].add(f"app {name}")
    frozen = ({k: frozenset(v) for k, v in one.items()} for one in (downstream, uses, consumers))
    return tuple(frozen)  # type: ignore[return-value]


def checked_range(reference: str) -> str:
    """What is wrong with a reference to versions; empty if nothing is."""
    if "." in reference or reference[:1] in ("^", "~", "<", ">", "="):
        try:
            ranges.parse(reference)
        except InvalidInput as error:
            return f"{error.message} {error.hint}"
    return ""
