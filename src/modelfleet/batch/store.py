"""Jobs in the database."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from modelfleet.batch.types import Batch, Progress, Wish
from modelfleet.core.clock import iso
from modelfleet.core.database import Json, metadata

batch = sa.Table(
    "batch",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("version", sa.String(120), nullable=False),
    sa.Column("version_id", sa.String(32), nullable=False),
    sa.Column("owner_team", sa.String(120), nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("wish", Json, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("progress", Json, nullable=False),
    sa.Column("starts", sa.Integer, nullable=False),
    sa.Column("created_by", sa.String(200), nullable=False),
    sa.Column("created_by_id", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
    sa.Index("ix_batch_state", "state", "created_at"),
)
ACTIVE = ("queued", "running")


def insert(connection: sa.Connection, values: Mapping[str, object]) -> None:
    connection.execute(sa.insert(batch).values(**values))


def rows(
    connection: sa.Connection, condition: sa.ColumnElement[bool], limit: int | None = None
) -> list[sa.Row[tuple[object, ...]]]:
    """Oldest first, or the newest `limit`, newest first."""
    query = sa.select(batch).where(condition)
    if limit is None:
        query = query.order_by(batch.c.created_at, batch.c.id)
    else:
        query = query.order_by(batch.c.created_at.desc(), batch.c.id.desc()).limit(limit)
    return list(connection.execute(query).all())


def update(connection: sa.Connection, batch_id: str, **values: object) -> bool:
    """Change a job that is not over. False if it is."""
    done = connection.execute(
        sa.update(batch).where(batch.c.id == batch_id, batch.c.state.in_(ACTIVE)).values(**values)
    )
    return done.rowcount == 1


def domain(row: sa.Row[tuple[object, ...]], progress: Progress | None = None) -> Batch:
    """progress: a newer one than the row's."""
    values = row._mapping
    return Batch(
        id=values["id"],
        model=values["model"],
        version=values["version"],
        owner_team=values["owner_team"],
        state=values["state"],
        wish=msgspec.convert(values["wish"], Wish),
        progress=progress or msgspec.convert(values["progress"], Progress),
        created_by=values["created_by"],
        created_at=iso(values["created_at"]),
        finished_at=None if values["finished_at"] is None else iso(values["finished_at"]),
    )
