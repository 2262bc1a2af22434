"""What is special about a server: its address, its absence, and what it can't hold."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from modelfleet.core.database import Database, check, place_of
from modelfleet.core.errors import InvalidInput, Unavailable
from modelfleet.core.jobs import job
from modelfleet.core.settings import load_settings
from postgres_server import Server


@pytest.fixture
def own_server() -> Iterator[Server]:
    """One that may be stopped."""
    made = Server()
    yield made
    made.end()


def place(tmp_path: Path, **given: str) -> Path | sa.URL:
    return place_of(load_settings(tmp_path, {"database": given}, environment={}))


def test_addresses(tmp_path: Path) -> None:
    assert place(tmp_path) == tmp_path / "fleet.db"
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        found = place(tmp_path, url=f"{scheme}://u@h:5433/n", password="p@:/")
        assert isinstance(found, sa.URL)
        assert found.render_as_string(False) == "postgresql+psycopg://u:p%40%3A%2F@h:5433/n"
    (tmp_path / "secret").write_text("from a file\n")
    found = place(tmp_path, url="postgresql://u:other@h/n", password_file="secret")
    assert isinstance(found, sa.URL)
    assert found.password == "from a file"


@pytest.mark.parametrize(
    "given",
    [
        {"url": "mysql://u@h/n"},
        {"url": "no address"},
        {"url": "postgresql://h:port/n"},
        {"url": "postgresql://h/n", "password": "a", "password_file": "b"},
        {"url": "postgresql://h/n", "password_file": "is-not-there"},
    ],
)
def test_what_is_no_address_is_told(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        place(tmp_path, **given)


def test_the_password_may_come_from_the_environment(tmp_path: Path) -> None:
    environment = {
        "MODELFLEET_DATABASE__URL": "postgresql://u@h/n",
        "MODELFLEET_DATABASE__PASSWORD": "w",
    }
    found = place_of(load_settings(tmp_path, environment=environment))
    assert isinstance(found, sa.URL)
    assert found.password == "w"
    assert "w" not in str(found).split("@")[0].replace("***", "")


def test_without_a_server(tmp_path: Path) -> None:
    settings = load_settings(
        tmp_path, {"database": {"url": "postgresql://u:word@127.0.0.1:1/n"}}, environment={}
    )
    with pytest.raises(Unavailable, match="can't be reached") as told:
        check(settings)
    assert told.value.hint
    assert "word" not in told.value.message


def test_an_unknown_database_and_a_bad_user(server: Server, tmp_path: Path) -> None:
    for url in (server.address("is_not_there"), server.address("postgres").replace("fleet@", "x@")):
        settings = load_settings(tmp_path, {"database": {"url": url}}, environment={})
        with pytest.raises(Unavailable):
            check(settings)


def test_a_wrong_encoding_is_refused(server: Server, tmp_path: Path) -> None:
    server._tell("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        url = server.address("latin")
        settings = load_settings(tmp_path, {"database": {"url": url}}, environment={})
        with pytest.raises(InvalidInput, match="LATIN1"):
            check(settings)
    finally:
        server.drop("latin")


def test_connections_that_died_in_the_pool_are_replaced(own_server: Server) -> None:
    database = Database(own_server.url("postgres"))

    def ask() -> int:
        with database.read() as connection:
            return int(connection.execute(sa.text("SELECT 1")).scalar_one())

    with database.begin(), database.read(), database.read():
        pass
    assert ask() == 1
    own_server.stop()
    with pytest.raises(Unavailable, match="reached"):
        ask()
    own_server.start()
    assert ask() == 1
    with pytest.raises(Unavailable, match="reached"), database.begin():
        own_server.stop(signal.SIGQUIT)
    own_server.start()
    with database.begin() as connection:
        connection.execute(sa.text("SELECT 1"))
    database.close()


def test_a_restart_between_two_calls_is_not_noticed(own_server: Server) -> None:
    database = Database(own_server.url("postgres"))
    with database.begin(), database.read():
        pass
    own_server.stop()
    own_server.start()
    for _ in range(3):
        with database.begin() as connection, database.read() as reader:
            assert connection.execute(sa.text("SELECT 1")).scalar() == 1
            assert reader.execute(sa.text("SELECT 1")).scalar() == 1
    database.close()


@pytest.mark.parametrize(
    "wrong", [{"key": "a\0b"}, {"key": "x" * 201}, {"attempts": 1 << 40}], ids=str
)
def test_what_it_cannot_hold_is_the_callers_mistake(
    database: Database, wrong: dict[str, object]
) -> None:
    if not database.is_postgres:
        pytest.skip("SQLite holds it")
    values = {"id": "i", "key": "k", "kind": "k", "arguments": {}, "status": "q"}
    values |= {"attempts": 0, "error": "", "created_at": 0} | wrong
    with pytest.raises(InvalidInput, match="can't hold"), database.begin() as connection:
        connection.execute(sa.insert(job).values(values))
    with database.read() as connection:
        assert connection.execute(sa.select(job)).all() == []
