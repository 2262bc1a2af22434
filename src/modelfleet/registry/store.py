"""SQL of the registry: rows in, domain types out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.registry.bundles import Entry
from modelfleet.registry.signature import BundleInfo
from modelfleet.registry.tables import (
    alias,
    bundle,
    environment,
    model,
    model_version,
    reference,
    run,
    variant,
)
from modelfleet.registry.types import Environment, Model, Placement, Run, Variant, Version


def find_model(connection: sa.Connection, name_or_id: str) -> Model | None:
    condition = sa.or_(model.c.name == name_or_id, model.c.id == name_or_id)
    found = _models(connection, condition)
    return found[0] if found else None


def list_models(
    connection: sa.Connection,
    *,
    readable: frozenset[str] | None,
    team: str | None,
    text: str | None,
    limit: int,
    offset: int,
) -> list[Model]:
    conditions = [readable_by(readable)]
    if team:
        conditions.append(model.c.owner_team == team)
    if text:
        conditions.append(model.c.name.contains(text, autoescape=True))
    return _models(connection, sa.and_(*conditions), limit, offset)


def readable_by(teams: frozenset[str] | None) -> sa.ColumnElement[bool]:
    """A condition on the table model: owned by one of these teams, None is all of them."""
    return sa.true() if teams is None else model.c.owner_team.in_(sorted(teams))


def _models(
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    limit: int = 1,
    offset: int = 0,
) -> list[Model]:
    own = model_version.alias("own")
    counted = (
        sa.select(sa.func.count())
        .select_from(own)
        .where(own.c.model_id == model.c.id)
        .correlate(model)
        .scalar_subquery()
    )
    rows = connection.execute(
        sa.select(model, model_version.c.semver, counted.label("versions"))
        .join(model_version, model_version.c.id == model.c.latest_version_id, isouter=True)
        .where(condition)
        .order_by(model.c.name)
        .limit(limit)
        .offset(offset)
    )
    return [
        Model(
            id=r.id,
            name=r.name,
            owner_team=r.owner_team,
            business_function=r.business_function,
            criticality=r.criticality,
            description=r.description,
            tags=r.tags,
            created_at=iso(r.created_at),
            latest_version=r.semver,
            versions=r.versions,
            isolation=r.isolation,
        )
        for r in rows
    ]


def placements(connection: sa.Connection) -> dict[str, Placement]:
    """Of all models, by name. Critical models are pinned."""
    columns = model.c.name, model.c.isolation, model.c.owner_team, model.c.criticality
    return {
        r.name: Placement(r.isolation, r.owner_team, r.criticality == "critical")
        for r in connection.execute(sa.select(*columns))
    }


def versions(
    connection: sa.Connection, condition: sa.ColumnElement[bool], limit: int | None = None
) -> list[Version]:
    """Versions that meet `condition` (on the tables model, model_version), newest first."""
    query = (
        sa.select(model_version, model.c.name.label("model"), model.c.owner_team)
        .join(model, model.c.id == model_version.c.model_id)
        .where(condition)
        .order_by(model_version.c.number.desc())
    )
    if limit is not None:
        query = query.limit(limit)
    rows = connection.execute(query).all()
    names: dict[str, list[str]] = {}
    if rows:
        wanted = {r.model_id for r in rows}
        named = sa.select(alias)
        if len(wanted) <= 100:
            named = named.where(alias.c.model_id.in_(wanted))
        for row in connection.execute(named.order_by(alias.c.name)):
            names.setdefault(row.version_id, []).append(row.name)
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
            bundle_digest=r.bundle_digest,
            environment_digest=r.environment_digest,
            requested_environment=r.requested_environment,
            run_id=r.run_id,
            created_by=r.created_by,
            created_at=iso(r.created_at),
            info=msgspec.convert(r.info, BundleInfo),
            serving=r.serving,
            metrics=r.metrics,
            aliases=tuple(names.get(r.id, ())),
        )
        for r in rows
    ]


def entries(connection: sa.Connection, digest: str) -> tuple[Entry, ...]:
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
    query = sa.select(variant).order_by(variant.c.kind.desc())
    if len(version_ids) <= 100:
        query = query.where(variant.c.version_id.in_(version_ids))
    found: dict[str, list[Variant]] = {}
    for r in connection.execute(query):
        one = Variant(r.kind, r.bundle_digest, r.environment_digest, r.evidence)
        found.setdefault(r.version_id, []).append(one)
    return found


def find_run(connection: sa.Connection, run_id: str) -> Run | None:
    row = connection.execute(sa.select(run).where(run.c.id == run_id)).first()
    if row is None:
        return None
    return Run(
        row.id,
        row.experiment,
        row.name,
        row.parameters,
        row.metrics,
        row.dataset,
        row.git_commit,
        iso(row.created_at),
    )


def add_run(connection: sa.Connection, made: Run) -> None:
    connection.execute(
        sa.insert(run).values(
            id=made.id,
            experiment=made.experiment,
            name=made.name,
            parameters=dict(made.parameters),
            metrics=dict(made.metrics),
            dataset=made.dataset,
            git_commit=made.git_commit,
            created_at=now_us(),
        )
    )


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
        sa.update(model_version).where(model_version.c.id == version_id).values(**values)
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
