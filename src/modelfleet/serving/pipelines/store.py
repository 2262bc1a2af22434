"""SQL of pipelines. Domain types come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from modelfleet.core.clock import iso, now_us
from modelfleet.core.ids import new_id
from modelfleet.serving.pipelines.definition import Definition
from modelfleet.serving.pipelines.plan import INDEX_BASE, PipelinePlan
from modelfleet.serving.pipelines.tables import pipeline, pipeline_revision, pipeline_use


@dataclass(frozen=True)
class Pipeline:
    name: str
    owner_team: str
    revision: int
    applied_revision: int
    """the newest revision that the gateway routes to; 0 if there is none yet"""
    index: int
    """what its prediction records carry instead of a model's version"""
    definition: Mapping[str, object]
    created_by: str
    """who defined this revision"""
    created_at: str
    """when this revision was defined"""
    problem: str = ""
    """why it would be refused today: a model that it calls may have changed since"""


@dataclass(frozen=True)
class Row:
    """A pipeline with what the platform makes of it."""

    id: str
    pipeline: Pipeline
    plan: PipelinePlan


def find(connection: sa.Connection, name: str | None = None) -> list[Row]:
    """The newest revisions, by name; of one pipeline only if it is named."""
    query = (
        sa.select(
            pipeline,
            pipeline_revision.c.number,
            pipeline_revision.c.definition,
            pipeline_revision.c.plan,
            pipeline_revision.c.created_by,
            pipeline_revision.c.created_at.label("revised_at"),
        )
        .join(
            pipeline_revision,
            sa.and_(
                pipeline_revision.c.pipeline_id == pipeline.c.id,
                pipeline_revision.c.revision == pipeline.c.revision,
            ),
        )
        .order_by(pipeline.c.name)
    )
    if name is not None:
        query = query.where(pipeline.c.name == name)
    return [_row(found) for found in connection.execute(query)]


def _row(found: sa.Row[tuple[object, ...]]) -> Row:
    index = INDEX_BASE + found.number
    plan = msgspec.convert(found.plan, PipelinePlan)
    return Row(
        id=found.id,
        pipeline=Pipeline(
            name=found.name,
            owner_team=found.owner_team,
            revision=found.revision,
            applied_revision=found.applied_revision,
            index=index,
            definition=found.definition,
            created_by=found.created_by,
            created_at=iso(found.revised_at),
        ),
        plan=msgspec.structs.replace(plan, revision=found.revision, index=index),
    )


def put(
    connection: sa.Connection,
    before: Row | None,
    definition: Definition,
    plan: PipelinePlan,
    by: str,
) -> None:
    """A new pipeline, or the next revision of one."""
    revision = before.pipeline.revision + 1 if before else 1
    if before is None:
        pipeline_id = new_id()
        connection.execute(
            sa.insert(pipeline).values(
                id=pipeline_id,
                name=definition.name,
                owner_team=definition.team,
                revision=revision,
                applied_revision=0,
                created_at=now_us(),
            )
        )
    else:
        pipeline_id = before.id
        connection.execute(
            sa.update(pipeline)
            .where(pipeline.c.id == pipeline_id)
            .values(owner_team=definition.team, revision=revision)
        )
    connection.execute(
        sa.insert(pipeline_revision).values(
            pipeline_id=pipeline_id,
            revision=revision,
            definition=plain(definition),
            plan=plain(plan),
            created_by=by,
            created_at=now_us(),
        )
    )
    connection.execute(sa.delete(pipeline_use).where(pipeline_use.c.pipeline_id == pipeline_id))
    for endpoint in sorted({step.model for step in plan.steps}):
        connection.execute(
            sa.insert(pipeline_use).values(pipeline_id=pipeline_id, endpoint=endpoint)
        )


def plain(document: Definition | PipelinePlan) -> object:
    """As it comes back from the database."""
    return msgspec.json.decode(msgspec.json.encode(document))


def heads(connection: sa.Connection) -> list[tuple[str, int, int]]:
    """(name, revision, applied revision) of all pipelines."""
    query = sa.select(pipeline.c.name, pipeline.c.revision, pipeline.c.applied_revision)
    rows = connection.execute(query.order_by(pipeline.c.name))
    return [(row.name, row.revision, row.applied_revision) for row in rows]


def remove(connection: sa.Connection, row: Row) -> None:
    for table in (pipeline_use, pipeline_revision):
        connection.execute(sa.delete(table).where(table.c.pipeline_id == row.id))
    connection.execute(sa.delete(pipeline).where(pipeline.c.id == row.id))


def mark_applied(connection: sa.Connection, name: str, revision: int) -> None:
    connection.execute(
        sa.update(pipeline).where(pipeline.c.name == name).values(applied_revision=revision)
    )
