"""The few places where SQLite and PostgreSQL are spoken differently."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


@lru_cache(maxsize=64)
def _upsert(dialect: str, table: sa.Table, later: tuple[str, ...]) -> Any:
    statement: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    keys = {column.name for column in table.primary_key}
    new = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
    newer = None
    if later:
        newer = sa.tuple_(*(statement.excluded[name] for name in later)) > sa.tuple_(
            *(table.c[name] for name in later)
        )
    return statement.on_conflict_do_update(
        index_elements=[*table.primary_key], set_=new, where=newer
    )


def upsert(connection: sa.Connection, table: sa.Table, later: tuple[str, ...] = ()) -> Any:
    """Insert, or replace the row with the same key; only by a row that is later in these."""
    return _upsert(connection.dialect.name, table, later)


@lru_cache(maxsize=64)
def _add(dialect: str, table: sa.Table) -> Any:
    statement: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    return statement.on_conflict_do_nothing()


def add(connection: sa.Connection, table: sa.Table) -> Any:
    """Insert what is not there yet."""
    return _add(connection.dialect.name, table)


def below(
    connection: sa.Connection, column: sa.ColumnElement[str], folder: str
) -> sa.ColumnElement[bool]:
    """Paths in `folder`, at any depth; all if it is empty. Compares bytes, uses the index."""
    if not folder:
        return sa.true()
    exact = column.collate("C") if connection.dialect.name == "postgresql" else column
    return sa.and_(exact >= f"{folder}/", exact < f"{folder}0")  # '0' comes after '/'
