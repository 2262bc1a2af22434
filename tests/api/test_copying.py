"""A version on its way from one modelfleet to another."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from modelfleet.app import create_app
from modelfleet.client import Client
from modelfleet.client.copying import copy_version
from modelfleet.client.errors import ApiError
from modelfleet.core.settings import load_settings
from modelfleet.wiring import Fleet, build

if TYPE_CHECKING:
    from conftest import Api


def client_of(http: TestClient, key: str) -> Client:
    made = Client("http://testserver", key, gateway_url="http://testserver")
    http.headers.update({"authorization": f"Bearer {key}"})
    made.api._http = http  # the application, without a network
    return made


@pytest.fixture
def other(tmp_path: Path, empty_database: Path) -> Iterator[tuple[Fleet, Client]]:
    home = tmp_path / "other"
    home.mkdir()
    settings = load_settings(home, environment={})
    shutil.copyfile(empty_database, settings.layout.fleet_database)
    fleet = build(settings)
    fleet.identity.bootstrap(fleet.layout)
    http = TestClient(create_app(fleet), raise_server_exceptions=False)
    yield fleet, client_of(http, fleet.layout.admin_key.read_text().strip())
    http.close()
    fleet.database.close()


def test_its_bytes_go_with_it_once(api: Api, other: tuple[Fleet, Client]) -> None:
    fleet, target = other
    api.post("/v1/models", {"name": "churn", "owner_team": "growth", "description": "d"})
    body = api.version_body() | {"version": "1.4.0", "tags": {"k": "v"}, "metrics": {"auc": 0.9}}
    api.post("/v1/models/churn/versions", body)
    source = client_of(api.http, api.admin_key)
    made = copy_version(source, target, "churn", "1.4", name="leavers")
    assert (made["version"], made["tags"], made["metrics"]) == ("1.4.0", {"k": "v"}, {"auc": 0.9})
    there = fleet.registry.get_model(fleet.identity.authenticate(target.api.key), "leavers")
    assert (there.owner_team, there.description) == ("growth", "d")
    for entry in fleet.registry.entries(made["bundle_digest"]):
        assert fleet.blobs.path(entry.sha256).read_bytes() == (
            api.fleet.blobs.path(entry.sha256).read_bytes()
        )
    again = copy_version(source, target, "churn", "1.4.0", name="leavers")
    assert again["id"] == made["id"]
    other_body = api.version_body(b"other") | {"version": "2.0.0"}
    api.post("/v1/models/churn/versions", other_body)
    target.api.post(
        "/v1/models/leavers/versions",
        {**api.version_body(), "entries": target_entries(fleet, made), "version": "2.0.0"},
    )
    with pytest.raises(ApiError, match="another version"):
        copy_version(source, target, "churn", "2.0.0", name="leavers")


def target_entries(fleet: Fleet, version: dict[str, str]) -> list[dict[str, object]]:
    found = fleet.registry.entries(version["bundle_digest"])
    return [{"path": one.path, "sha256": one.sha256, "size": one.size} for one in found]


def test_what_is_not_there_is_not_copied(other: tuple[Fleet, Client]) -> None:
    _, target = other
    with pytest.raises(ApiError, match="no model nothing"):
        copy_version(target, target, "nothing", "1")
