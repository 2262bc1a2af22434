"""SQL of experiments and runs: rows in, domain types out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.core.ids import new_id
from modelfleet.registry import store as registry_store
from modelfleet.registry.tables import model, model_version, namespace
from modelfleet.registry.tracking import paths
from modelfleet.registry.tracking.tables import (
    dataset,
    experiment,
    metric_point,
    run,
    run_input,
    run_metric,
    run_model,
    run_parameter,
    run_tag,
)
from modelfleet.registry.tracking.types import Dataset, Input, ModelLink, Point, Run

_CHUNK = 500
"""ids in one condition"""


def ensure_experiment(connection: sa.Connection, namespace_id: str, name: str) -> str:
    """The id of the experiment with this name; made if there is none."""
    own = experiment.c.namespace_id == namespace_id
    known = connection.execute(
        sa.select(experiment.c.id).where(own, experiment.c.name == name)
    ).scalar()
    if known is not None:
        return str(known)
    if name != "Default":
        ensure_experiment(connection, namespace_id, "Default")
    highest = connection.execute(sa.select(sa.func.max(experiment.c.number)).where(own)).scalar()
    number = 0 if highest is None else highest + 1
    made, now = new_id(), now_us()
    connection.execute(
        sa.insert(experiment).values(
            id=made,
            namespace_id=namespace_id,
            number=number,
            name=name,
            artifact_location=f"mlflow-artifacts:/{number}",
            created_at=now,
            updated_at=now,
        )
    )
    return made


def add_finished_run(
    connection: sa.Connection,
    namespace_id: str,
    *,
    experiment_name: str,
    name: str,
    user: str,
    parameters: Mapping[str, str],
    metrics: Mapping[str, float],
    dataset: str,
    git_commit: str,
) -> str:
    """A run that was over before we heard of it."""
    made, now = new_id(), now_us()
    moment = now // 1000
    connection.execute(
        sa.insert(run).values(
            id=made,
            experiment_id=ensure_experiment(connection, namespace_id, experiment_name),
            name=name,
            user=user,
            status="FINISHED",
            started_at=moment,
            ended_at=moment,
            dataset=dataset,
            git_commit=git_commit,
            created_at=now,
        )
    )
    if parameters:
        rows = [{"run_id": made, "key": k, "value": v} for k, v in parameters.items()]
        connection.execute(sa.insert(run_parameter), rows)
    if metrics:
        points = [
            {
                "run_id": made,
                "key": key,
                "value": value,
                "is_nan": False,
                "timestamp_ms": moment,
                "step": 0,
            }
            for key, value in metrics.items()
        ]
        connection.execute(sa.insert(run_metric), points)
        connection.execute(sa.insert(metric_point), points)
    return made


def find_run(
    connection: sa.Connection, namespace_id: str, run_id: str, *, whole: bool = True
) -> Run | None:
    """whole: with all that it logged."""
    own = sa.and_(run.c.id == run_id, experiment.c.namespace_id == namespace_id)
    found = runs(connection, own, limit=1, whole=whole)
    return found[0] if found else None


def artifact_uri() -> sa.ColumnElement[Any]:
    """Of a run joined with its experiment, as SQL."""
    return experiment.c.artifact_location + "/" + run.c.id + "/artifacts"


def runs(
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    *,
    order: Sequence[sa.ColumnElement[object]] = (),
    joins: Sequence[tuple[sa.FromClause, sa.ColumnElement[bool]]] = (),
    limit: int,
    offset: int = 0,
    whole: bool = True,
) -> list[Run]:
    """Runs that meet `condition` (on the tables run and experiment).

    joins: outer ones that `order` needs; whole: with all that they logged.
    """
    source: sa.FromClause = run.join(experiment, experiment.c.id == run.c.experiment_id)
    for table, on in joins:
        source = source.join(table, on, isouter=True)
    query = (
        sa.select(run, experiment.c.name.label("experiment"), experiment.c.number)
        .add_columns(experiment.c.artifact_location)
        .select_from(source)
        .where(condition)
        .order_by(*order)
    )
    rows = connection.execute(query.limit(limit).offset(offset)).all()
    ids = [row.id for row in rows] if whole else []
    parameters = registry_store.tags_of(connection, run_parameter, ids)
    tags = registry_store.tags_of(connection, run_tag, ids)
    points = _points(connection, ids)
    inputs = _inputs(connection, ids)
    models = _models(connection, ids)
    return [
        Run(
            id=row.id,
            experiment_id=row.experiment_id,
            experiment=row.experiment,
            name=row.name,
            user=row.user,
            status=row.status,
            parameters=parameters.get(row.id, {}),
            metrics={one.key: one.value for one in points.get(row.id, ())},
            dataset=row.dataset,
            git_commit=row.git_commit,
            created_at=iso(row.created_at),
            started_at=row.started_at,
            ended_at=row.ended_at,
            deleted_at=row.deleted_at,
            tags=tags.get(row.id, {}),
            experiment_number=row.number,
            artifact_uri=paths.join(row.artifact_location, row.id, "artifacts"),
            points=points.get(row.id, ()),
            inputs=inputs.get(row.id, ()),
            models=models.get(row.id, ()),
        )
        for row in rows
    ]


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def _points(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    columns = run_metric.c
    for chunk in _chunks(ids):
        query = sa.select(run_metric).where(columns.run_id.in_(chunk)).order_by(columns.key)
        for row in connection.execute(query):
            point = Point(
                row.key, math.nan if row.is_nan else row.value, row.timestamp_ms, row.step
            )
            found.setdefault(row.run_id, []).append(point)
    return found


def _inputs(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[Input]]:
    found: dict[str, list[Input]] = {}
    for chunk in _chunks(ids):
        query = (
            sa.select(run_input.c.run_id, run_input.c.tags, dataset)
            .join(dataset, dataset.c.id == run_input.c.dataset_id)
            .where(run_input.c.run_id.in_(chunk))
            .order_by(dataset.c.id)
        )
        for row in connection.execute(query):
            read = Dataset(
                row.name, row.digest, row.source_type, row.source, row.schema, row.profile
            )
            found.setdefault(row.run_id, []).append(Input(read, row.tags))
    return found


def _models(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[ModelLink]]:
    found: dict[str, list[ModelLink]] = {}
    columns = run_model.c
    for chunk in _chunks(ids):
        query = (
            sa.select(run_model)
            .where(columns.run_id.in_(chunk))
            .order_by(columns.step, columns.logged_model_id)
        )
        for row in connection.execute(query):
            link = ModelLink(row.logged_model_id, row.direction, row.step)
            found.setdefault(row.run_id, []).append(link)
    return found


def commit_of(connection: sa.Connection, resource: str, version: str) -> str:
    """The commit that a version was made of, if its run tells one. resource: the model's name as
    the audit log has it."""
    within, _, name = resource.rpartition("/")
    query = (
        sa.select(run.c.git_commit)
        .join(model_version, model_version.c.run_id == run.c.id)
        .join(model, model.c.id == model_version.c.model_id)
        .join(namespace, namespace.c.id == model.c.namespace_id)
        .where(model.c.name == name, namespace.c.name == (within or "default"))
        .where(model_version.c.semver == version)
    )
    return str(connection.execute(query).scalar() or "")
