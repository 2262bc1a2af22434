"""Every migration, up and down, with rows in every table, on either store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import modelfleet.wiring  # noqa: F401 - declares every table
from modelfleet.core import audit
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict
from modelfleet.core.migrate import (
    current,
    downgrade_to,
    migrate,
    revision_of,
    revisions,
    upgrade_to,
)
from postgres_server import Server

Rows = dict[str, list[dict[str, Any]]]
STEPS = list(zip(revisions(), revisions()[1:], strict=False))


@pytest.fixture
def blank(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database without a schema."""
    if database_kind == "sqlite":
        made = Database(tmp_path / "fleet.db")
        yield made
        made.close()
        return
    server: Server = request.getfixturevalue("server")
    with server.database() as name:
        made = Database(server.url(name))
        yield made
        made.close()


def tables(connection: sa.Connection) -> list[sa.Table]:
    found = sa.MetaData()
    found.reflect(connection)
    return [one for one in found.sorted_tables if one.name != "alembic_version"]


def fill(connection: sa.Connection, each: int = 3) -> None:
    """Rows that fit, whatever the tables are: distinct values, and parents that are there."""
    made: Rows = {}
    for table in tables(connection):
        made[table.name] = []
        for n in range(1, each + 1):
            row = {one.name: _value(one, n, made) for one in table.columns}
            connection.execute(sa.insert(table).values(row))
            made[table.name].append(row)


def _value(column: sa.Column[Any], n: int, made: Rows) -> object:
    for key in column.foreign_keys:
        parents = made[key.column.table.name]
        return parents[min(n, len(parents)) - 1][key.column.name]
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return n % 2 == 0
    if isinstance(kind, sa.Integer):
        return n
    if isinstance(kind, sa.Float):
        return n / 3
    if isinstance(kind, sa.Text) or getattr(kind, "length", None) is None:
        # documents as they are written: texts by name, but numbers for metrics
        value = float(n) if column.name == "metrics" else str(n)
        return json.dumps({"n": value}, separators=(",", ":"))
    return f"{column.name}-é-{n}"[: getattr(kind, "length", 20)]


def rows(connection: sa.Connection) -> Rows:
    return {
        table.name: sorted(
            (dict(one) for one in connection.execute(sa.select(table)).mappings()), key=repr
        )
        for table in tables(connection)
    }


def kept(before: Rows, after: Rows) -> None:
    """What was there is there still, in the columns that both have."""
    for name, known in before.items():
        if name not in after:
            continue
        assert len(after[name]) >= len(known), name
        common = set(known[0]) & set(after[name][0])
        assert common, name
        want = sorted(repr({k: row[k] for k in sorted(common)}) for row in known)
        have = sorted(repr({k: row[k] for k in sorted(common)}) for row in after[name])
        assert [one for one in want if one not in have] == [], name


@pytest.mark.filterwarnings("ignore:.*expression-based index")
@pytest.mark.parametrize(("before", "after"), STEPS, ids=lambda one: str(one))
def test_a_step_up_and_down_keeps_the_rows(blank: Database, before: str, after: str) -> None:
    with blank.begin() as connection:
        upgrade_to(connection, before)
        fill(connection)
        old = rows(connection)
    with blank.begin(rebuild=True) as connection:
        upgrade_to(connection, after)
    with blank.read() as connection:
        assert revision_of(connection) == after
        kept(old, rows(connection))
    with blank.begin(rebuild=True) as connection:
        downgrade_to(connection, before)
    with blank.read() as connection:
        assert revision_of(connection) == before
        assert rows(connection) == old


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_the_first_release_comes_to_the_present_with_its_rows(blank: Database) -> None:
    with blank.begin() as connection:
        upgrade_to(connection, revisions()[0])
        fill(connection)
        old = rows(connection)
    migrate(blank)
    assert current(blank) == revisions()[-1]
    with blank.read() as connection:
        kept(old, rows(connection))
    with blank.begin(rebuild=True) as connection:
        downgrade_to(connection, "base")
    with blank.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]


def test_a_migration_that_fails_changes_nothing(
    blank: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blank.begin() as connection:
        upgrade_to(connection, revisions()[0])
        fill(connection)
        old = rows(connection)
    from alembic import op

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(op, "drop_column", fail)
    monkeypatch.setattr(op, "create_table", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        migrate(blank)
    with blank.read() as connection:
        assert revision_of(connection) == revisions()[0]
        assert rows(connection) == old


def test_texts_sort_by_their_bytes(database: Database) -> None:
    table = audit.audit_event
    words = ["a", "B", "é", "Z", "_", "10", "9", "a-b", "a.b", "ab"]
    with database.begin() as connection:
        for n, word in enumerate(words, 1):
            values = {one.name: "" for one in table.columns} | {"at": 0, "details": {}}
            connection.execute(sa.insert(table).values(values | {"sequence": n, "principal": word}))
        found = connection.execute(sa.select(table.c.principal).order_by(table.c.principal))
        assert [row.principal for row in found] == sorted(words, key=str.encode)


def test_every_text_column_of_postgres_sorts_bytewise(database: Database) -> None:
    if not database.is_postgres:
        pytest.skip("SQLite always does")
    query = sa.text(
        "SELECT table_name, column_name FROM information_schema.columns WHERE "
        "table_schema = current_schema() AND table_name <> 'alembic_version' "
        "AND data_type IN ('text', 'character varying') AND collation_name IS DISTINCT FROM 'C'"
    )
    with database.read() as connection:
        assert connection.execute(query).all() == []


def test_a_schema_is_not_changed_under_another_release(blank: Database) -> None:
    if not blank.is_postgres:
        pytest.skip("SQLite has one control plane")
    with blank.begin() as connection:
        upgrade_to(connection, "head")
        connection.execute(
            sa.text("INSERT INTO member VALUES ('old', 'f', 'http://there:8080', 1, :later)"),
            {"later": blank.now_us(connection) + 60_000_000},
        )
        # as the next release would find it
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0005'"))
    with pytest.raises(Conflict, match="http://there:8080"):
        migrate(blank)
    with blank.begin() as connection:
        assert revision_of(connection) == "0005"
