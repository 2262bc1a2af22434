"""An application over a real fleet, and clients of every kind of caller."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from faces import app_over
from modelfleet.batch import Wish
from modelfleet.batch import store as batches
from modelfleet.batch.service import new_row
from modelfleet.core.authorization import Grant
from modelfleet.delivery.training import Cause, Plan
from modelfleet.delivery.training import store as trainings
from modelfleet.serving.pipelines import store
from modelfleet.serving.pipelines.check import Callee, check
from modelfleet.serving.pipelines.definition import read
from modelfleet.serving.pipelines.kinds import Kind
from modelfleet.serving.tuning import Size, Tuning, tuning
from modelfleet.wiring import Fleet
from people import ADMIN

PIPELINE: dict[str, object] = {
    "name": "scoring",
    "team": "growth",
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}],
    "steps": [{"name": "first", "model": "churn", "inputs": {"x": "input.x"}}],
    "outputs": {"score": "first.prediction"},
}

sys.path.insert(0, str(Path(__file__).parent))


_SIZE = Size(1, 1.0, 1.0, 1.0, 1.0, 1.0, True)
TUNING = msgspec.to_builtins(
    Tuning(
        model="churn",
        version="1.0.0",
        objective_ms=1.0,
        concurrency=1,
        sizes=(_SIZE,),
        inline=_SIZE,
        now="lane",
        now_rows=1,
        place="lane",
        rows=1,
        gain=1.0,
        sentence="",
    )
)


@dataclass
class Api:
    """The lifespan is not entered: no threads run."""

    fleet: Fleet
    http: TestClient
    admin_key: str

    def key(self, name: str, *grants: Grant) -> dict[str, str]:
        """Headers of a new principal."""
        self.fleet.identity.create_principal(ADMIN, name, "service")
        for grant in grants:
            self.fleet.identity.add_grant(ADMIN, name, grant)
        text, _ = self.fleet.identity.create_key(ADMIN, name, seconds=600)
        return {"authorization": f"Bearer {text}"}

    @property
    def admin(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.admin_key}"}

    def get(self, path: str) -> object:
        found = self.http.get(path, headers=self.admin)
        assert found.status_code == 200, found.text
        return found.json()

    def post(self, path: str, body: object, status: int = 201) -> object:
        found = self.http.post(path, json=body, headers=self.admin)
        assert found.status_code == status, found.text
        return found.json() if found.content else None

    def upload(self, content: bytes) -> dict[str, object]:
        sha256 = hashlib.sha256(content).hexdigest()
        found = self.http.put(f"/v1/blobs/{sha256}", content=content, headers=self.admin)
        assert found.status_code == 201, found.text
        return {"sha256": sha256, "size": len(content)}

    def version_body(self, content: bytes = b"model") -> dict[str, Any]:
        info = {
            "format": 1,
            "runtime": "sklearn",
            "artifact": "model.joblib",
            "signature": {
                "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}],
                "outputs": [{"name": "prediction", "datatype": "FP64", "shape": [-1]}],
            },
        }
        files = {"bundle.json": json.dumps(info).encode(), "model.joblib": content}
        entries = [{"path": path} | self.upload(data) for path, data in files.items()]
        return {"entries": entries, "requirements": ["numpy"], "python": "3.11"}


@pytest.fixture
def api(fleet: Fleet) -> Iterator[Api]:
    fleet.identity.bootstrap(fleet.layout)
    key = fleet.layout.admin_key.read_text().strip()
    http = TestClient(app_over(fleet), raise_server_exceptions=False, follow_redirects=False)
    yield Api(fleet, http, key)
    http.close()


@pytest.fixture
def full(api: Api) -> Api:
    """With one of each: a model, a version, an alias, an endpoint, a rollout, a review, ..."""
    api.post("/v1/models", {"name": "churn", "owner_team": "growth"})
    body = api.version_body()
    files = [one for one in body["entries"] if one["path"] == "model.joblib"]
    api.post("/v1/models/churn/versions", body | {"code": {"files": files}})
    api.http.put("/v1/models/churn/aliases/best", json={"version": "1"}, headers=api.admin)
    api.post("/v1/rollouts", {"model": "churn", "spec": {"strategy": "immediate"}})
    define_pipeline(api.fleet)
    add_batch(api.fleet)
    api.post("/v1/models/churn/versions/1/comments", {"text": "well done"})
    api.post("/v1/models/churn/versions/1/reviews", {"role": "approver"})
    api.http.put("/v1/templates/growth/usual", json={}, headers=api.admin)
    return api


def add_batch(fleet: Fleet) -> None:
    """The batch `b1` of team growth. No version serves, so that it is written here."""
    version = fleet.registry.get_version(ADMIN, "churn", "1")
    wish = Wish(model="churn", input="/tmp/in", output="/tmp/out")
    values = new_row("b1", wish, version, ADMIN)
    tuned = {"version_id": version.id, "evidence": TUNING, "applied": False, "at": 0}
    with fleet.database.begin() as connection:
        batches.insert(connection, values)
        connection.execute(sa.insert(tuning).values(**tuned))
        trainings.add(connection, Plan("churn", "growth"), Cause("manual"), "ada", "ada")


def define_pipeline(fleet: Fleet) -> None:
    """The pipeline `scoring` of team growth. No version serves, so that its plan is made here."""
    kinds = Kind("FP64", (-1, 2)), Kind("FP64", (-1,))
    definition = read(PIPELINE)
    plan = check(definition, {"first": Callee({"x": kinds[0]}, {"prediction": kinds[1]})})
    with fleet.database.begin() as connection:
        store.put(connection, None, definition, plan, "ada")
