"""A home with a migrated database, the whole fleet over it, and people of every role."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parent))

import environments
from modelfleet.core.authorization import Principal, Role
from modelfleet.core.database import Database
from modelfleet.core.layout import Layout
from modelfleet.core.logs import configure
from modelfleet.core.settings import Settings
from modelfleet.wiring import Fleet
from people import ADMIN, principal
from postgres_server import Server
from registrar import Registrar

STORES = ("sqlite", "postgres")
configure()  # as in production: tracebacks painted for people take seconds each
gc.disable()  # until all tests are imported: none of that is garbage


def pytest_configure(config: pytest.Config) -> None:
    if _is_first(config):
        environments.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _is_first(config):
        environments.end()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What starts real processes comes first: the rest is small enough to end together."""
    if not _is_first(config):
        items.sort(key=lambda item: item.get_closest_marker("e2e") is None)


def pytest_collection_finish() -> None:
    """What is there by now is looked through no more."""
    gc.freeze()
    gc.enable()


def _is_first(config: pytest.Config) -> bool:
    """Not one of several workers."""
    return not hasattr(config, "workerinput")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """PostgreSQL, for the whole session; started for the first test that wants it."""
    made = Server()
    yield made
    made.end()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without rows; made once, copied by every test that wants one."""
    path = tmp_path_factory.mktemp("empty") / "fleet.db"
    _migrated(path)
    return path


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The same in PostgreSQL."""
    name = server.create(name="template")
    _migrated(server.url(name))
    return name


def _migrated(place: Path | sa.URL) -> None:
    import modelfleet.wiring  # noqa: F401 - declares every table
    from modelfleet.core.migrate import migrate

    made = Database(place)
    migrate(made)
    made.close()


@pytest.fixture(params=STORES)
def database_kind(request: pytest.FixtureRequest) -> str:
    """Tests of what uses a database run on each store that there is."""
    found: str = request.param
    return found


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "home")
    found.home.mkdir()
    return found


@pytest.fixture
def database_place(
    database_kind: str, layout: Layout, request: pytest.FixtureRequest
) -> Iterator[Path | sa.URL]:
    """Where a migrated database without rows is: one for each test."""
    if database_kind == "sqlite":
        shutil.copy(request.getfixturevalue("empty_database"), layout.fleet_database)
        yield layout.fleet_database
        return
    made: Server = request.getfixturevalue("server")
    with made.database(request.getfixturevalue("template")) as name:
        yield made.url(name)


@pytest.fixture
def fleet_settings(layout: Layout, database_place: Path | sa.URL) -> Settings:
    """Of a home with such a database."""
    from modelfleet.core.settings import load_settings

    url = "" if isinstance(database_place, Path) else str(database_place)
    return load_settings(layout.home, {"database": {"url": url}}, environment={})


@pytest.fixture
def database(database_place: Path | sa.URL) -> Iterator[Database]:
    made = Database(database_place)
    yield made
    made.close()


@pytest.fixture
def fleet(fleet_settings: Settings) -> Iterator[Fleet]:
    """Everything wired as in production, nothing started."""
    from modelfleet.wiring import build

    made = build(fleet_settings)
    yield made
    made.converters.close()
    made.database.close()


@pytest.fixture
def admin() -> Principal:
    return ADMIN


@pytest.fixture
def people() -> Callable[[Role, str], Principal]:
    return principal


@pytest.fixture
def registrar(fleet: Fleet) -> Registrar:
    return Registrar(fleet)
