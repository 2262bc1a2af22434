from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfleet.client.transport import Transport
from modelfleet.client.uploads import digest_of, upload_file

if TYPE_CHECKING:
    from conftest import Api


def call(api: Api, method: str, path: str, status: int = 200, **given: Any) -> Any:
    found = api.http.request(method, path, headers=api.admin, **given)
    assert found.status_code == status, found.text
    return found.json() if found.content else None


def test_stages_and_lifecycle(full: Api) -> None:
    place = "/v1/models/churn/versions/1"
    promoted = call(full, "PUT", f"{place}/stage", json={"stage": "staging"})
    assert promoted["stage"] == "staging"
    call(full, "PUT", f"{place}/stage", 400, json={"stage": "moon"})
    aged = call(full, "PUT", f"{place}/lifecycle", json={"lifecycle": "deprecated", "reason": "r"})
    assert (aged["lifecycle"], aged["lifecycle_reason"]) == ("deprecated", "r")
    call(full, "PUT", f"{place}/lifecycle", 409, json={"lifecycle": "retired"})
    kinds = {one["kind"] for one in call(full, "GET", f"{place}/users")}
    assert kinds >= {"rollout", "alias"}
    call(full, "PUT", "/v1/stages/qa", json={"position": 2})
    assert "qa" in [one["name"] for one in call(full, "GET", "/v1/stages")]
    call(full, "DELETE", "/v1/stages/qa", 204)


def test_changes_of_a_version(full: Api) -> None:
    place = "/v1/models/churn/versions/1"
    body = {"description": "d", "tags": {"a": "b", "c": "d"}}
    call(full, "PATCH", place, json=body)
    changed = call(full, "PATCH", place, json={"tags": {"a": None}})
    assert (changed["description"], changed["tags"]) == ("d", {"c": "d"})
    call(full, "PATCH", place, 409, json={"version": "2.0.0"})  # a rollout holds it
    call(full, "POST", "/v1/models/churn/versions", 201, json=full.version_body(b"other"))
    renumbered = call(full, "PATCH", "/v1/models/churn/versions/2", json={"version": "7.0.0"})
    assert renumbered["version"] == "7.0.0"


def test_the_history_of_a_model(full: Api) -> None:
    call(full, "PUT", "/v1/models/churn/versions/1/stage", json={"stage": "staging"})
    found = call(full, "GET", "/v1/models/churn/history")
    actions = [one["action"] for one in found]
    assert actions[0] == "promote-version"
    assert {"create-model", "register-version", "set-alias", "start-rollout"} <= set(actions)
    started = next(one for one in found if one["action"] == "start-rollout")
    assert (started["version"], started["endpoint"], started["who"]) == ("1.0.0", "churn", "admin")
    assert [one["sequence"] for one in found] == sorted(
        (one["sequence"] for one in found), reverse=True
    )


def test_the_history_follows_a_rename(api: Api) -> None:
    for name in ("first", "other"):
        call(api, "POST", "/v1/models", 201, json={"name": name, "owner_team": "growth"})
    call(api, "POST", "/v1/models/first/rename", json={"name": "second"})
    call(api, "POST", "/v1/models/second/transfer", json={"owner_team": "risk"})
    found = call(api, "GET", "/v1/models/second/history")
    assert [one["action"] for one in found] == [
        "transfer-model",
        "rename-model",
        "rename-model",
        "create-model",
    ]
    call(api, "GET", "/v1/models/first/history", 404)


def test_files_of_a_version(full: Api) -> None:
    found = full.http.get("/v1/models/churn/versions/1/files/model.joblib", headers=full.admin)
    assert found.content == b"model"
    call(full, "GET", "/v1/models/churn/versions/1/files/nothing", 404)
    call(full, "GET", "/v1/models/churn/versions/1/files/..%2fbundle.json", 404)


def test_what_mlflow_saved_is_registered_as_it_is(api: Api) -> None:
    call(api, "POST", "/v1/models", 201, json={"name": "churn", "owner_team": "growth"})
    files = {"MLmodel": b"flavors: {}\n", "model.pkl": b"x"}
    entries = [{"path": path} | api.upload(data) for path, data in files.items()]
    body = {"entries": entries, "requirements": [], "python": "3.11", "version": "2.1.0"}
    made = call(api, "POST", "/v1/models/churn/versions", 201, json=body)
    assert (made["status"], made["version"]) == ("registered", "2.1.0")
    pending = call(api, "POST", "/v1/models/churn/versions/1/prepare")
    assert pending["status"] == "pending"


def test_large_contents_go_in_parts(api: Api, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("modelfleet.client.uploads.PART", 1000)
    content = bytes(range(256)) * 20
    (tmp_path / "large").write_bytes(content)
    sha256, size = digest_of(tmp_path / "large")
    assert (sha256, size) == (hashlib.sha256(content).hexdigest(), len(content))
    first = api.http.patch(
        f"/v1/uploads/{sha256}",
        params={"offset": 0, "size": size},
        content=content[:700],
        headers=api.admin,
    )
    assert first.json() == {"sha256": sha256, "offset": 700, "complete": False}
    transport = Transport("http://testserver", api.admin["authorization"].split()[1])
    transport._http = api.http  # the application, without a network
    api.http.headers.update(api.admin)
    upload_file(transport, sha256, tmp_path / "large")
    assert api.fleet.blobs.path(sha256).read_bytes() == content


def test_garbage(full: Api) -> None:
    full.upload(b"nobody names this")
    found = call(full, "POST", "/v1/garbage", json={"dry_run": True, "grace_hours": 0})
    assert (found["removed"], found["dry_run"]) == (1, True)
    call(full, "POST", "/v1/garbage", 400, json={"grace_hours": -1})


def test_webhooks(api: Api) -> None:
    body = {"name": "w", "url": "https://127.0.0.1/x", "events": ["*"]}
    refused = call(api, "POST", "/v1/webhooks", 400, json=body)
    assert "non-public" in refused["detail"]
    assert call(api, "GET", "/v1/webhooks") == []
    call(api, "GET", "/v1/webhooks/nothing", 404)


@pytest.mark.parametrize("version", ["1.0", "^1", "best", "latest"])
def test_versions_by_range(full: Api, version: str) -> None:
    found = call(full, "GET", f"/v1/models/churn/versions/{version}")
    assert found["version"]["version"] == "1.0.0"


def test_what_an_import_registers(full: Api) -> None:
    place = "/v1/models/churn/versions"
    run_id = call(full, "GET", f"{place}/1")["version"]["run_id"]
    body = full.version_body(b"other") | {"sequence": 7, "run_id": run_id}
    made = call(full, "POST", place, 201, json=body)
    assert (made["sequence"], made["run_id"]) == (7, run_id)
    call(full, "POST", place, 409, json=full.version_body(b"late") | {"sequence": 6})
    call(full, "POST", place, 404, json=full.version_body(b"x") | {"run_id": "0" * 32})
    as_it_is = {
        "entries": [{"path": "weights.bin"} | full.upload(b"1 2 3")],
        "requirements": [],
        "python": "3.11",
        "source_uri": "http://elsewhere/#/models/churn/versions/9",
        "run_id": run_id,
        "sequence": 9,
    }
    call(full, "POST", place, 404, json=as_it_is | {"run_id": "0" * 32})
    made = call(full, "POST", place, 201, json=as_it_is)
    assert (made["sequence"], made["status"], made["run_id"]) == (9, "registered", run_id)
    query = {"name": "churn", "version": "9"}
    uri = call(full, "GET", "/api/2.0/mlflow/model-versions/get-download-uri", params=query)
    assert uri["artifact_uri"].startswith("mlflow-artifacts:/versions/")
    far = {"entries": [], "requirements": [], "python": "3.11", "sequence": 12}
    made = call(full, "POST", place, 201, json=far | {"source_uri": "s3://bucket/model"})
    assert (made["sequence"], made["status"]) == (12, "external")
    call(full, "POST", f"{place}/12/prepare", 409)
    for wrong in ("/etc", "file:///etc", "../x", "s3://a\nb", "s3://" + "x" * 3000):
        call(full, "POST", place, 400, json=far | {"sequence": 13, "source_uri": wrong})
    assert [one["sequence"] for one in call(full, "GET", place)] == [12, 9, 7, 1]


def test_a_training_hook_takes_any_body(full: Api) -> None:
    """Those that call it send what they like, or nothing; whoever has no token learns nothing."""
    for given in ({}, {"json": {"detail": {"nested": 1}}}, {"json": {"detail": "by hand"}}):
        answer = full.http.post("/v1/hooks/training/churn/wrong", **given)
        assert answer.status_code == 404
