"""A home with a migrated database, the whole fleet over it, and people of every role."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parent))

from modelfleet.core.authorization import Principal, Role
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.database import Database
from modelfleet.core.layout import Layout
from modelfleet.core.settings import Settings
from modelfleet.registry import Entry, NewVersion, Version
from modelfleet.wiring import Fleet
from people import ADMIN, principal
from postgres_server import Server

STORES = ("sqlite", "postgres")


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


@dataclass
class Registrar:
    """Registers small versions through the real registry."""

    fleet: Fleet
    count: int = 0

    def new(
        self,
        *,
        version: str | None = None,
        features: int = 2,
        content: bytes | None = None,
        python: str = "3.11",
        dataset: str = "",
        uses: tuple[str, ...] = (),
    ) -> NewVersion:
        self.count += 1
        artifact = content if content is not None else f"model {self.count}".encode()
        x = {"name": "x", "datatype": "FP64", "shape": [-1, features]}
        x["features"] = [f"f{k}" for k in range(features)]
        info = {
            "format": 1,
            "runtime": "sklearn",
            "artifact": "model.joblib",
            "method": "predict",
            "signature": {
                "inputs": [x],
                "outputs": [{"name": "prediction", "datatype": "FP64", "shape": [-1]}],
            },
            "score": {"output": "prediction", "column": None},
            "options": {},
        }
        files = {"bundle.json": json.dumps(info).encode(), "model.joblib": artifact}
        blobs = FolderBlobStore(self.fleet.layout.blobs)
        entries = []
        for path, data in files.items():
            sha256, size = blobs.put([data])
            entries.append(Entry(path, sha256, size))
        return NewVersion(
            tuple(entries), ("numpy",), python, version=version, dataset=dataset, uses=uses
        )

    def model(self, name: str = "churn", team: str = "growth") -> None:
        self.fleet.registry.create_model(ADMIN, name, owner_team=team)

    def version(self, name: str = "churn", **given: object) -> Version:
        return self.fleet.registry.register(ADMIN, name, self.new(**given))  # type: ignore[arg-type]

    def ready(self, name: str = "churn", **given: object) -> Version:
        """A version as the preparing job leaves it, served by its compiled form."""
        from modelfleet.core.authorization import SYSTEM
        from modelfleet.registry import Environment, Variant

        made = self.version(name, **given)
        entries = self.fleet.registry.entries(made.bundle_digest)
        environment = Environment("e" * 64, "3.11", "linux-x86_64", "numpy==2.0\n")
        variant = Variant("compiled", made.bundle_digest, None, {})
        self.fleet.registry.mark_ready(SYSTEM, made, environment, [(variant, entries)], "compiled")
        return self.fleet.registry.get_version(ADMIN, name, str(made.sequence))


@pytest.fixture
def registrar(fleet: Fleet) -> Registrar:
    return Registrar(fleet)
