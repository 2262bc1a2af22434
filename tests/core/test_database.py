"""Transactions and the schema."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import modelfleet.wiring  # noqa: F401 - declares every table
from modelfleet.core.database import Database, metadata
from modelfleet.core.errors import Conflict, FleetError
from modelfleet.core.jobs import job
from modelfleet.core.migrate import configuration, current, migrate, revisions


def add(connection: sa.Connection, key: str) -> None:
    connection.execute(
        sa.insert(job).values(
            id=key, key=key, kind="k", arguments={}, status="q", attempts=0, error="", created_at=0
        )
    )


def keys(connection: sa.Connection) -> set[str]:
    return {row.key for row in connection.execute(sa.select(job.c.key))}


def test_a_transaction_is_whole_or_not_at_all(database: Database) -> None:
    with pytest.raises(KeyboardInterrupt), database.begin() as connection:
        add(connection, "a")
        raise KeyboardInterrupt
    with database.begin() as connection:
        add(connection, "b")
    with database.read() as connection:
        assert keys(connection) == {"b"}


def test_what_comes_afterwards_sees_what_was_committed(database: Database) -> None:
    seen: list[set[str]] = []

    def look() -> None:
        with database.read() as connection:
            seen.append(keys(connection))

    with pytest.raises(KeyboardInterrupt), database.begin():
        database.afterwards(look)
        raise KeyboardInterrupt
    with database.together() as connection:
        with database.begin():
            database.afterwards(look)
        assert seen == []
        add(connection, "a")
    assert seen == [{"a"}]


def test_a_reader_keeps_one_view_while_others_write(database: Database) -> None:
    with database.read() as reader:
        assert keys(reader) == set()
        with database.begin() as writer:
            add(writer, "a")
        assert keys(reader) == set()
    with database.read() as reader:
        assert keys(reader) == {"a"}


def test_writers_wait_for_each_other(database: Database) -> None:
    def count_up() -> None:
        for _ in range(10):
            with database.begin() as connection:
                seen = connection.execute(sa.select(job.c.attempts)).scalar_one()
                connection.execute(sa.update(job).values(attempts=seen + 1))

    with database.begin() as connection:
        add(connection, "a")
    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute(sa.select(job.c.attempts)).scalar_one() == 40


def test_verbs_join_one_transaction(database: Database) -> None:
    with database.together():
        with database.begin() as first:
            add(first, "a")
        with database.read() as reading:
            assert keys(reading) == {"a"}, "what was written just now is seen"
        with database.begin() as second:
            add(second, "b")
            assert second is first
    with database.read() as connection:
        assert keys(connection) == {"a", "b"}


def test_what_joined_is_undone_together_even_if_the_error_was_caught(database: Database) -> None:
    with pytest.raises(KeyboardInterrupt), database.together():
        with database.begin() as connection:
            add(connection, "a")
        raise KeyboardInterrupt
    with pytest.raises(FleetError, match="nothing was changed"), database.together():
        with database.begin() as connection:
            add(connection, "b")
        with contextlib.suppress(ValueError), database.begin() as connection:
            add(connection, "c")
            raise ValueError
    with database.read() as connection:
        assert keys(connection) == set()


def test_nobody_else_joins(database: Database) -> None:
    seen: list[set[str]] = []

    def look() -> None:
        with database.read() as connection:
            seen.append(keys(connection))

    with database.together() as connection:
        add(connection, "a")
        other = threading.Thread(target=look)
        other.start()
        other.join(10)
    assert seen == [set()]


def test_acknowledged_means_on_disk(database: Database) -> None:
    if database.is_postgres:
        pytest.skip("the server's settings decide")
    with database.read() as connection:
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_upgrading_from_nothing_gives_the_declared_tables(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == current(database) == revisions()[-1]


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_the_schema_can_be_taken_down_and_built_again(tmp_path: Path) -> None:
    database = Database(tmp_path / "fleet.db")
    assert current(database) is None
    migrate(database)
    migrate(database)
    config = configuration()
    with database.begin(rebuild=True) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with database.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
    migrate(database)
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


def test_a_database_of_a_newer_release_is_left_alone(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        before = sa.inspect(connection).get_table_names()
    with pytest.raises(Conflict, match="9999"):
        migrate(database)
    with database.read() as connection:
        assert sa.inspect(connection).get_table_names() == before
        assert current(database) == "9999"
