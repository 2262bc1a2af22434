"""The protocol over a real fleet, as a client without any library sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from faces import app_over
from modelfleet.core.authorization import Grant, Role
from modelfleet.wiring import Fleet
from people import ADMIN

API = "/api/2.0/mlflow/"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


@dataclass
class Mlflow:
    fleet: Fleet
    http: TestClient
    headers: dict[str, str]
    start: str = ""
    """of every address: `/t/<namespace>`"""

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        place = path if path.startswith("/") else API + path
        options.setdefault("headers", self.headers)
        if body is not None:
            options["json"] = body
        return self.http.request(method, self.start + place, **options)

    def get(self, path: str, /, **query: Any) -> Any:
        found = self.call("GET", path, params=query)
        assert found.status_code == 200, found.text
        return found.json()

    def post(self, path: str, /, **body: Any) -> Any:
        found = self.call("POST", path, body)
        assert found.status_code == 200, found.text
        return found.json()

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[str, str]:
        """Code and message of an answer that must be an error."""
        found = self.call(method, path, body, **options)
        assert 400 <= found.status_code < 600, found.text
        return found.json()["error_code"], found.json()["message"]

    def run(self, **given: Any) -> str:
        made: str = self.post("runs/create", **given)["run"]["info"]["run_id"]
        return made

    def put(self, path: str, content: bytes, **options: Any) -> httpx2.Response:
        return self.call("PUT", f"{FILES}/{path}", content=content, **options)

    def file(self, path: str, **options: Any) -> httpx2.Response:
        return self.call("GET", f"{FILES}/{path}", **options)

    def key(self, name: str, *grants: Grant) -> dict[str, str]:
        self.fleet.identity.create_principal(ADMIN, name, "service")
        for grant in grants:
            self.fleet.identity.add_grant(ADMIN, name, grant)
        text, _ = self.fleet.identity.create_key(ADMIN, name, seconds=600)
        return {"authorization": f"Bearer {text}"}


@pytest.fixture
def mlflow(fleet: Fleet) -> Iterator[Mlflow]:
    with_server = TestClient(app_over(fleet), raise_server_exceptions=False)
    made = Mlflow(fleet, with_server, {})
    made.headers = made.key("ada", Grant(Role.DATA_SCIENTIST, "growth"))
    yield made
    with_server.close()
