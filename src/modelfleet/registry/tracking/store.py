"""SQL of experiments and runs: rows in, domain types out."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.core.ids import new_id
from modelfleet.registry.tracking.tables import (
    experiment,
    metric_point,
    run,
    run_metric,
    run_parameter,
    run_tag,
)
from modelfleet.registry.tracking.types import Run


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


def find_run(connection: sa.Connection, namespace_id: str, run_id: str) -> Run | None:
    row = connection.execute(
        sa.select(run, experiment.c.name.label("experiment"))
        .join(experiment, experiment.c.id == run.c.experiment_id)
        .where(run.c.id == run_id, experiment.c.namespace_id == namespace_id)
    ).first()
    if row is None:
        return None
    return Run(
        id=row.id,
        experiment_id=row.experiment_id,
        experiment=row.experiment,
        name=row.name,
        user=row.user,
        status=row.status,
        parameters=_pairs(connection, run_parameter, run_id),
        metrics={
            r.key: float("nan") if r.is_nan else r.value
            for r in connection.execute(
                sa.select(run_metric).where(run_metric.c.run_id == run_id).order_by("key")
            )
        },
        dataset=row.dataset,
        git_commit=row.git_commit,
        created_at=iso(row.created_at),
        started_at=row.started_at,
        ended_at=row.ended_at,
        deleted_at=row.deleted_at,
        tags=_pairs(connection, run_tag, run_id),
    )


def _pairs(connection: sa.Connection, table: sa.Table, run_id: str) -> dict[str, str]:
    query = sa.select(table.c.key, table.c.value).where(table.c.run_id == run_id)
    return {row.key: row.value for row in connection.execute(query.order_by(table.c.key))}
