"""The tables of pipelines, and the two questions that endpoints have about them."""

from __future__ import annotations

import sqlalchemy as sa

from modelfleet.core.database import Json, metadata

pipeline = sa.Table(
    "pipeline",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("owner_team", sa.String(120), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("applied_revision", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

pipeline_revision = sa.Table(
    "pipeline_revision",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("pipeline_id", sa.ForeignKey("pipeline.id"), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("definition", Json, nullable=False),
    sa.Column("plan", Json, nullable=False),
    sa.Column("created_by", sa.String(200), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("pipeline_id", "revision"),
    sqlite_autoincrement=True,  # records are read by number: it must never return
)

pipeline_use = sa.Table(
    "pipeline_use",
    metadata,
    sa.Column("pipeline_id", sa.ForeignKey("pipeline.id"), primary_key=True),
    sa.Column("endpoint", sa.String(200), primary_key=True),
    sa.Index("ix_pipeline_use_endpoint", "endpoint"),
)


def is_pipeline(connection: sa.Connection, name: str) -> bool:
    """Pipelines and endpoints share their names: both are called at `/v2/models/NAME`."""
    found = connection.execute(sa.select(pipeline.c.id).where(pipeline.c.name == name))
    return found.first() is not None


def users_of(connection: sa.Connection, endpoint: str) -> list[str]:
    """The pipelines that call an endpoint."""
    rows = connection.execute(
        sa.select(pipeline.c.name)
        .join(pipeline_use, pipeline_use.c.pipeline_id == pipeline.c.id)
        .where(pipeline_use.c.endpoint == endpoint)
        .order_by(pipeline.c.name)
    )
    return [row.name for row in rows]
