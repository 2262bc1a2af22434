"""SQL of the registry: rows in, domain types out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.core.ids import new_id
from modelfleet.registry.bundles import Entry
from modelfleet.registry.signature import UNKNOWN, BundleInfo
from modelfleet.registry.tables import (
    alias,
    bundle,
    environment,
    model,
    model_tag,
    model_version,
    namespace,
    reference,
    stage,
    variant,
    version_tag,
)
from modelfleet.registry.types import (
    DEFAULT_NAMESPACE_ID,
    Environment,
    Model,
    Placement,
    Stage,
    Variant,
    Version,
)

_CHUNK = 500
"""ids in one condition"""


STAGES = (("dev", False), ("staging", False), ("prod", True), ("archived", False))
"""of a new namespace, and whether they are protected"""


def find_namespace(connection: sa.Connection, name: str) -> str | None:
    return connection.execute(sa.select(namespace.c.id).where(namespace.c.name == name)).scalar()


def add_namespace(connection: sa.Connection, name: str) -> str:
    made = new_id()
    connection.execute(sa.insert(namespace).values(id=made, name=name, created_at=now_us()))
    for position, (stage_name, protected) in enumerate(STAGES, 1):
        connection.execute(
            sa.insert(stage).values(
                namespace_id=made, name=stage_name, position=position, protected=protected
            )
        )
    return made


def find_model(connection: sa.Connection, namespace_id: str, name_or_id: str) -> Model | None:
    named = sa.or_(model.c.name == name_or_id, model.c.id == name_or_id)
    found = models(connection, sa.and_(model.c.namespace_id == namespace_id, named), 1)
    return found[0] if found else None


_MODEL_ROW = sa.select(
    model.c.id, model.c.name, model.c.owner_team, model.c.next_sequence, model.c.latest_version_id
).where(model.c.namespace_id == sa.bindparam("namespace"), model.c.name == sa.bindparam("name"))


def model_row(
    connection: sa.Connection, namespace_id: str, name: str
) -> sa.Row[*tuple[Any, ...]] | None:
    """Id, name and team alone: what most verbs need."""
    return connection.execute(_MODEL_ROW, {"namespace": namespace_id, "name": name}).first()


def list_models(
    connection: sa.Connection,
    namespace_id: str,
    *,
    readable: frozenset[str] | None,
    team: str | None,
    text: str | None,
    limit: int,
    offset: int,
) -> list[Model]:
    conditions = [model.c.namespace_id == namespace_id, readable_by(readable)]
    if team:
        conditions.append(model.c.owner_team == team)
    if text:
        conditions.append(model.c.name.icontains(text, autoescape=True))
    return models(connection, sa.and_(*conditions), limit, offset)


def readable_by(teams: frozenset[str] | None) -> sa.ColumnElement[bool]:
    """A condition on the table model: owned by one of these teams, None is all of them."""
    return sa.true() if teams is None else model.c.owner_team.in_(sorted(teams))


def models(
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    limit: int | None = None,
    offset: int = 0,
    order: Sequence[sa.ColumnElement[object]] = (),
) -> list[Model]:
    """Models that meet `condition` (on the table model), by name unless `order` says otherwise."""
    query = _models().where(condition).order_by(*(order or (model.c.name,))).offset(offset)
    rows = connection.execute(query.limit(limit) if limit is not None else query).all()
    ids = [r.id for r in rows]
    tags = tags_of(connection, model_tag, ids)
    aliases: dict[str, dict[str, str]] = {}
    for chunk in chunks(ids):
        named = (
            sa.select(alias.c.model_id, alias.c.name, model_version.c.semver)
            .join(model_version, model_version.c.id == alias.c.version_id)
            .where(alias.c.model_id.in_(chunk))
            .order_by(alias.c.name)
        )
        for row in connection.execute(named):
            aliases.setdefault(row.model_id, {})[row.name] = row.semver
    return [
        Model(
            id=r.id,
            name=r.name,
            owner_team=r.owner_team,
            business_function=r.business_function,
            criticality=r.criticality,
            description=r.description,
            tags=tags.get(r.id, {}),
            created_at=iso(r.created_at),
            updated_at=iso(r.updated_at),
            latest_version=r.semver,
            versions=r.versions,
            isolation=r.isolation,
            aliases=aliases.get(r.id, {}),
        )
        for r in rows
    ]


@cache
def _models() -> sa.Select[Any]:
    """Made once: building a statement costs more than running it."""
    own = model_version.alias("own")
    counted = (
        sa.select(sa.func.count())
        .select_from(own)
        .where(own.c.model_id == model.c.id)
        .correlate(model)
        .scalar_subquery()
    )
    return sa.select(model, model_version.c.semver, counted.label("versions")).join(
        model_version, model_version.c.id == model.c.latest_version_id, isouter=True
    )


def chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def tags_of(
    connection: sa.Connection, table: sa.Table, ids: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Rows of an owner, key, value table by owner; `ids` are the owners."""
    one, several = _tag_queries(table)
    if len(ids) == 1:
        tags = {key: value for _, key, value in connection.execute(one, {"owner": ids[0]})}
        return {ids[0]: tags} if tags else {}
    found: dict[str, dict[str, str]] = {}
    for chunk in chunks(ids):
        for owner_id, key, value in connection.execute(several, {"owners": list(chunk)}):
            found.setdefault(owner_id, {})[key] = value
    return found


@cache
def _tag_queries(table: sa.Table) -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Made once: building a statement costs more than running it."""
    owner = next(iter(table.primary_key))
    query = sa.select(owner, table.c.key, table.c.value).order_by(table.c.key)
    several = owner.in_(sa.bindparam("owners", expanding=True))
    return query.where(owner == sa.bindparam("owner")), query.where(several)


def set_tag(
    connection: sa.Connection, table: sa.Table, owner_id: str, key: str, value: str
) -> None:
    owner = next(iter(table.primary_key))
    same = sa.and_(owner == owner_id, table.c.key == key)
    changed = connection.execute(sa.update(table).where(same).values(value=value))
    if not changed.rowcount:
        connection.execute(
            sa.insert(table).values({owner.name: owner_id, "key": key, "value": value})
        )


def delete_tag(connection: sa.Connection, table: sa.Table, owner_id: str, key: str) -> bool:
    owner = next(iter(table.primary_key))
    same = sa.and_(owner == owner_id, table.c.key == key)
    return connection.execute(sa.delete(table).where(same)).rowcount > 0


def replace_tags(
    connection: sa.Connection, table: sa.Table, owner_id: str, tags: Mapping[str, str]
) -> None:
    owner = next(iter(table.primary_key))
    connection.execute(sa.delete(table).where(owner == owner_id))
    if tags:
        connection.execute(
            sa.insert(table),
            [{owner.name: owner_id, "key": key, "value": value} for key, value in tags.items()],
        )


def placements(connection: sa.Connection, names: Sequence[str]) -> dict[str, Placement]:
    """Of these models of the default namespace, by name. Critical models are pinned."""
    return {
        r.name: Placement(r.isolation, r.owner_team, r.criticality == "critical")
        for some in chunks(names)
        for r in connection.execute(_PLACEMENTS, {"names": list(some)})
    }


_PLACEMENTS = sa.select(
    model.c.name, model.c.isolation, model.c.owner_team, model.c.criticality
).where(
    model.c.namespace_id == DEFAULT_NAMESPACE_ID,
    model.c.name.in_(sa.bindparam("names", expanding=True)),
)


def versions(
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    limit: int | None = None,
    offset: int = 0,
    order: Sequence[sa.ColumnElement[object]] = (),
) -> list[Version]:
    """Versions that meet `condition` (on the tables model, model_version), newest first."""
    query = (
        sa.select(model_version, model.c.name.label("model"), model.c.owner_team)
        .join(model, model.c.id == model_version.c.model_id)
        .where(condition)
        .order_by(*(order or (model_version.c.number.desc(),)))
        .offset(offset)
    )
    rows = connection.execute(query.limit(limit) if limit is not None else query).all()
    ids = [r.id for r in rows]
    names: dict[str, list[str]] = {}
    for chunk in chunks(ids):
        named = sa.select(alias.c.version_id, alias.c.name).where(alias.c.version_id.in_(chunk))
        for row in connection.execute(named.order_by(alias.c.name)):
            names.setdefault(row.version_id, []).append(row.name)
    tags = tags_of(connection, version_tag, ids)
    return [
        Version(
            id=r.id,
            index=r.number,
            model_id=r.model_id,
            model=r.model,
            owner_team=r.owner_team,
            sequence=r.sequence,
            version=r.semver,
            status=r.status,
            reason=r.reason,
            bundle_digest=r.bundle_digest or "",
            environment_digest=r.environment_digest,
            requested_environment=r.requested_environment,
            run_id=r.run_id,
            created_by=r.created_by,
            created_at=iso(r.created_at),
            updated_at=iso(r.updated_at),
            info=msgspec.convert(r.info, BundleInfo) if r.info else UNKNOWN,
            serving=r.serving,
            metrics=r.metrics,
            aliases=tuple(names.get(r.id, ())),
            tags=tags.get(r.id, {}),
            description=r.description,
            stage=r.stage,
            lifecycle=r.lifecycle,
            lifecycle_reason=r.lifecycle_reason,
            source_uri=r.source_uri,
            run_link=r.run_link,
            logged_model_id=r.logged_model_id,
            code=r.code,
            hardware=r.hardware,
        )
        for r in rows
    ]


def stages(connection: sa.Connection, namespace_id: str) -> list[Stage]:
    """In their order."""
    rows = connection.execute(
        sa.select(stage)
        .where(stage.c.namespace_id == namespace_id)
        .order_by(stage.c.position, stage.c.name)
    )
    return [Stage(r.name, r.position, r.protected) for r in rows]


def entries(connection: sa.Connection, digest: str) -> tuple[Entry, ...]:
    if not digest:
        return ()
    row = connection.execute(sa.select(bundle.c.entries).where(bundle.c.digest == digest)).one()
    return tuple(msgspec.convert(row.entries, list[Entry]))


def add_bundle(connection: sa.Connection, digest: str, found: Sequence[Entry]) -> None:
    known = connection.execute(sa.select(bundle.c.digest).where(bundle.c.digest == digest))
    if known.first() is None:
        connection.execute(
            sa.insert(bundle).values(
                digest=digest,
                entries=[msgspec.to_builtins(entry) for entry in found],
                created_at=now_us(),
            )
        )


def add_environment(connection: sa.Connection, made: Environment) -> None:
    known = connection.execute(
        sa.select(environment.c.digest).where(environment.c.digest == made.digest)
    )
    if known.first() is None:
        connection.execute(
            sa.insert(environment).values(
                digest=made.digest,
                python=made.python,
                platform=made.platform,
                lock=made.lock,
                created_at=now_us(),
            )
        )


def find_environment(connection: sa.Connection, digest: str) -> Environment | None:
    row = connection.execute(sa.select(environment).where(environment.c.digest == digest)).first()
    return Environment(row.digest, row.python, row.platform, row.lock) if row else None


def variants(connection: sa.Connection, version_ids: Sequence[str]) -> dict[str, list[Variant]]:
    found: dict[str, list[Variant]] = {}
    for chunk in chunks(version_ids):
        query = sa.select(variant).where(variant.c.version_id.in_(chunk))
        for r in connection.execute(query.order_by(variant.c.kind.desc())):
            one = Variant(r.kind, r.bundle_digest, r.environment_digest, r.evidence)
            found.setdefault(r.version_id, []).append(one)
    return found


def holders(connection: sa.Connection, version_id: str) -> list[str]:
    rows = connection.execute(
        sa.select(reference.c.holder)
        .where(reference.c.version_id == version_id)
        .order_by(reference.c.holder)
    )
    return [row.holder for row in rows]


def hold(connection: sa.Connection, version_id: str, holder: str) -> None:
    """Note that `holder` (`endpoint/churn`) uses the version, so that it can't be deleted."""
    if holder not in holders(connection, version_id):
        connection.execute(sa.insert(reference).values(version_id=version_id, holder=holder))


def let_go(connection: sa.Connection, version_id: str, holder: str) -> None:
    connection.execute(
        sa.delete(reference).where(
            reference.c.version_id == version_id, reference.c.holder == holder
        )
    )


def set_version(connection: sa.Connection, version_id: str, **values: object) -> None:
    connection.execute(
        sa.update(model_version)
        .where(model_version.c.id == version_id)
        .values(updated_at=now_us(), **values)
    )


def touch_model(connection: sa.Connection, model_id: str, **values: object) -> None:
    connection.execute(
        sa.update(model).where(model.c.id == model_id).values(updated_at=now_us(), **values)
    )


def set_variant(connection: sa.Connection, version_id: str, made: Variant) -> None:
    connection.execute(
        sa.delete(variant).where(variant.c.version_id == version_id, variant.c.kind == made.kind)
    )
    values: Mapping[str, object] = {
        "version_id": version_id,
        "kind": made.kind,
        "bundle_digest": made.bundle_digest,
        "environment_digest": made.environment_digest,
        "evidence": dict(made.evidence),
    }
    connection.execute(sa.insert(variant).values(**values))
