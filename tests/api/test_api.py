"""What programs rely on: shapes of answers and of errors, uploads, outcomes, audit."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from api_routes import app_routes, permission

from modelfleet.core import audit
from modelfleet.core.authorization import Grant, Role

if TYPE_CHECKING:
    from conftest import Api

PROBLEM = "application/problem+json"
PREDICTION = "01890a5d-ac96-774b-bcce-b302099a8057"


def problem(api: Api, method: str, path: str, status: int, **given: Any) -> dict[str, Any]:
    headers = api.admin | given.pop("headers", {})
    found = api.http.request(method, path, headers=headers, **given)
    assert found.status_code == status, found.text
    assert found.headers["content-type"] == PROBLEM
    body: dict[str, Any] = found.json()
    assert body["status"] == status
    assert set(body) >= {"type", "title", "status", "detail"}
    assert body["type"].startswith("urn:modelfleet:problem:")
    assert found.headers["x-request-id"]
    return body


# Errors ----------------------------------------------------------------------------------------


def test_every_error_is_a_problem(full: Api) -> None:
    body = problem(full, "GET", "/v1/models/nothing", 404)
    assert body["type"] == "urn:modelfleet:problem:not-found"
    assert body["hint"] == "See: modelfleet models list"
    assert problem(full, "GET", "/v1/nothing", 404)["type"].endswith("http-404")
    assert problem(full, "PUT", "/v1/models", 405)["type"].endswith("http-405")
    churn = {"name": "churn", "owner_team": "growth"}
    assert problem(full, "POST", "/v1/models", 409, json=churn)["detail"].endswith("churn.")
    body = problem(full, "DELETE", "/v1/models/churn/versions/1", 409)
    assert body["type"] == "urn:modelfleet:problem:referenced"
    assert any(one.startswith("rollout/") for one in body["holders"])
    body = problem(full, "GET", "/v1/models", 401, headers={"authorization": "Bearer no"})
    assert body["type"] == "urn:modelfleet:problem:unauthenticated"


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/models", {"name": "x"}, "owner_team"),
        ("/v1/models", {"name": "x", "owner_team": "t", "extra": 1}, "extra"),
        ("/v1/models", {"name": "a/b", "owner_team": "t"}, "a/b"),
        ("/v1/models", [], "body"),
        ("/v1/models/churn/versions", {"entries": [], "requirements": [], "python": "3"}, "file"),
        ("/v1/rollouts", {"model": "churn", "spec": {"weights": [20_000]}}, "weights"),
        ("/v1/rollouts", {"model": "churn", "spec": {"strategy": "yolo"}}, "strategy"),
        ("/v1/rollouts", {"model": "churn", "spec": {"analysis": {"alpha": 7}}}, "alpha"),
        ("/v1/rollouts", {"model": "churn", "spec": {"bake_seconds": -1}}, "Durations"),
        ("/v1/principals/admin/grants", {"role": "king"}, "role"),
        ("/v1/keys", {"principal": "admin", "seconds": 0}, "second"),
    ],
)
def test_wrong_bodies_are_400_and_say_what(full: Api, path: str, body: object, told: str) -> None:
    assert told in problem(full, "POST", path, 400, json=body)["detail"]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "offset=-1", "limit=1001"])
def test_wrong_queries_are_400(api: Api, query: str) -> None:
    problem(api, "GET", f"/v1/models?{query}", 400)


def test_broken_json_and_odd_numbers_are_400_at_most(full: Api) -> None:
    headers = {"content-type": "application/json"}
    for content in (b"{", b"\xff\xfe", b'{"name": "\\ud800", "owner_team": "t"}'):
        found = full.http.post("/v1/models", content=content, headers=full.admin | headers)
        assert found.status_code == 400, (content, found.text)
    body = json.dumps(full.version_body(b"nan") | {"metrics": {"auc": float("nan")}})
    found = full.http.post("/v1/models/churn/versions", content=body, headers=full.admin | headers)
    assert found.status_code == 400
    assert full.http.get("/v1/models/churn/versions", headers=full.admin).status_code == 200


def test_the_unexpected_is_500_without_details(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(type(api.fleet.registry), "list_models", fail)
    found = api.http.get("/v1/models", headers=api.admin)
    assert found.status_code == 500
    assert found.headers["content-type"] == PROBLEM
    assert "secret" not in found.text


def test_a_second_rollout_names_the_first(full: Api) -> None:
    full.post("/v1/models/churn/versions", full.version_body(b"two"))
    body = problem(full, "POST", "/v1/rollouts", 409, json={"model": "churn"})
    first = full.get("/v1/rollouts")[0]["id"]  # type: ignore[index]
    assert body["rollout"] == first
    assert first in body["hint"]


def test_a_request_keeps_its_id_into_the_audit_log(full: Api) -> None:
    headers = full.admin | {"x-request-id": "from-my-proxy"}
    found = full.http.patch("/v1/models/churn", json={"description": "x"}, headers=headers)
    assert found.headers["x-request-id"] == "from-my-proxy"
    assert audit.events(full.fleet.database)[0].correlation_id == "from-my-proxy"


# The document ------------------------------------------------------------------------------------


def test_the_openapi_document_lists_every_route(api: Api) -> None:
    found = api.http.get("/v1/openapi.json")
    assert found.status_code == 200
    document = json.loads(found.text)
    assert document["openapi"].startswith("3.")
    for route in app_routes(api):
        if not route.path.startswith(("/v1/", "/v2/", "/healthz")):
            continue
        for method in route.methods:
            place = route.path.replace(":path}", "}")
            told = document["paths"][place][method.lower()]
            assert told["x-permission"] == permission(route)
            assert {"200", "201", "204"} & set(told["responses"])


def test_references_of_the_document_all_lead_somewhere(api: Api) -> None:
    document = api.http.get("/v1/openapi.json").json()
    missing = set()

    def walk(part: object) -> None:
        if isinstance(part, dict):
            reference = part.get("$ref")
            if isinstance(reference, str):
                here: Any = document
                for step in reference.removeprefix("#/").split("/"):
                    here = here.get(step, {})
                if not here:
                    missing.add(reference)
            for one in part.values():
                walk(one)
        elif isinstance(part, list):
            for one in part:
                walk(one)

    walk(document)
    assert missing == set()


# Blobs -------------------------------------------------------------------------------------------


def test_an_upload_with_another_digest_is_refused_and_leaves_nothing(api: Api) -> None:
    wanted, real = "0" * 64, hashlib.sha256(b"abc").hexdigest()
    body = problem(api, "PUT", f"/v1/blobs/{wanted}", 400, content=b"abc")
    assert real in body["detail"]
    assert [p for p in api.fleet.layout.blobs.rglob("*") if p.is_file()] == []
    for digest in (wanted, real):
        assert api.http.head(f"/v1/blobs/{digest}", headers=api.admin).status_code == 404
    api.upload(b"abc")
    assert api.http.head(f"/v1/blobs/{real}", headers=api.admin).status_code == 200
    problem(api, "PUT", "/v1/blobs/..%2f..%2fkeys", 404, content=b"abc")
    problem(api, "PUT", "/v1/blobs/nohex", 400, content=b"abc")


def test_whoever_registers_for_any_team_may_upload(api: Api) -> None:
    both = api.key("both", Grant(Role.APPROVER, "a"), Grant(Role.DATA_SCIENTIST, "b"))
    place = f"/v1/blobs/{hashlib.sha256(b'x').hexdigest()}"
    assert api.http.put(place, content=b"x", headers=both).status_code == 201
    approver = api.key("approver", Grant(Role.APPROVER))
    assert api.http.put(place, content=b"x", headers=approver).status_code == 403


def test_a_large_blob_streams_through(api: Api) -> None:
    content = b"0123456789abcdef" * 400_000
    assert api.upload(content)["size"] == 6_400_000


# Models and versions -----------------------------------------------------------------------------


def test_the_whole_story_of_a_version(full: Api) -> None:
    found: Any = full.get("/v1/models/churn/versions/best")
    assert found["version"]["version"] == "1.0.0"
    assert {one["path"] for one in found["files"]} == {"bundle.json", "model.joblib"}
    assert found["gates"] == found["variants"] == []
    lineage: Any = full.get("/v1/models/churn/versions/1/lineage")
    assert [edge["relation"] for edge in lineage] == ["produced"]
    run: Any = full.get(f"/v1/runs/{found['version']['run_id']}")
    assert run["experiment"] == "Default"
    listed: Any = full.get("/v1/models?team=growth&text=hur")
    assert [one["name"] for one in listed] == ["churn"]
    rollout: Any = full.get("/v1/rollouts?endpoint=churn")
    details: Any = full.get(f"/v1/rollouts/{rollout[0]['id']}")
    assert details["rollout"]["to_version"] == "1.0.0"
    fleet: Any = full.get("/v1/fleet")
    assert [row["endpoint"] for row in fleet["rows"]] == ["churn"]
    assert full.http.get("/healthz").json()["live"] is True


def test_keys_are_shown_once(api: Api) -> None:
    api.post("/v1/principals", {"name": "bob", "kind": "person"})
    made: Any = api.post("/v1/keys", {"principal": "bob", "models": ["churn"]})
    assert made["key"].count(".") == 2
    headers = {"authorization": f"Bearer {made['key']}"}
    assert api.http.get("/v1/whoami", headers=headers).json()["name"] == "bob"
    assert made["key"] not in api.http.get("/v1/keys", headers=api.admin).text
    gone = api.http.delete(f"/v1/keys/{made['info']['id']}", headers=api.admin)
    assert gone.status_code == 204
    assert api.http.get("/v1/whoami", headers=headers).status_code == 401


# Outcomes ----------------------------------------------------------------------------------------


def lines(*ones: object) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in ones)


def inbox(api: Api) -> list[bytes]:
    folder = api.fleet.layout.outcome_inbox
    return [p.read_bytes() for p in sorted(folder.glob("*"))] if folder.exists() else []


def test_outcomes_wait_for_the_collector(api: Api) -> None:
    one = {"prediction_id": PREDICTION, "value": 1.0}
    content = lines(one, b"", one | {"value": 0})
    found = api.http.post("/v1/outcomes:batch", content=content, headers=api.admin)
    assert found.json() == {"accepted": 2}
    assert inbox(api) == [content]
    empty = api.http.post("/v1/outcomes:batch", content=b"\n", headers=api.admin)
    assert empty.json() == {"accepted": 0}
    assert len(inbox(api)) == 1


@pytest.mark.parametrize(
    "bad", [b"{", {"value": 1.0}, {"prediction_id": 7, "value": 1}, [1], b"\xff"], ids=str
)
def test_one_wrong_line_refuses_all(api: Api, bad: object) -> None:
    content = lines({"prediction_id": PREDICTION, "value": 1.0}, bad)
    body = problem(api, "POST", "/v1/outcomes:batch", 400, content=content)
    assert "line 2" in body["detail"]
    assert inbox(api) == []


def test_a_batch_that_is_too_large_is_413(api: Api) -> None:
    problem(api, "POST", "/v1/outcomes:batch", 413, content=b" " * (16 * 1024 * 1024 + 1))
    assert inbox(api) == []


def test_feedback_comes_only_through_the_gateway(api: Api) -> None:
    one = {"prediction_id": PREDICTION, "value": 1.0}
    path = "/v2/models/churn/feedback"
    assert api.http.post(path, json=one, headers=api.admin).status_code == 403
    assert api.http.post(path, json=one, headers={"x-mf-gateway": "guess"}).status_code == 403
    proven = {"x-mf-gateway": api.fleet.gateway.secret()}
    assert api.http.post(path, json=one, headers=proven).json() == {"accepted": 1}
    assert api.http.post(path, json=[one, one], headers=proven).json() == {"accepted": 2}
    assert api.http.post(path, json={"no": 1}, headers=proven).status_code == 400
    assert len(inbox(api)) == 2


# Audit -------------------------------------------------------------------------------------------


def test_the_audit_log_pages_and_can_be_verified(full: Api) -> None:
    newest: Any = full.get("/v1/audit?limit=2")
    older: Any = full.get(f"/v1/audit?limit=2&before={newest[-1]['sequence']}")
    sequences = [one["sequence"] for one in newest + older]
    assert sequences == list(range(sequences[0], sequences[0] - 4, -1))
    own: Any = full.get("/v1/audit?kind=model&name=churn")
    assert {one["resource"] for one in own} == {"churn"}
    assert full.get("/v1/audit/verify") == {"intact": True, "first_broken": None}
    table = audit.audit_event
    with full.fleet.database.begin() as connection:
        connection.execute(sa.update(table).where(table.c.sequence == 2).values(principal="eve"))
    assert full.get("/v1/audit/verify") == {"intact": False, "first_broken": 2}


def test_what_moves_traffic_wakes_the_reconciler(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    monkeypatch.setattr(api.fleet.reconciler, "wake", lambda: woken.append("now"))
    api.post("/v1/principals", {"name": "bob"})
    made: Any = api.post("/v1/keys", {"principal": "bob", "models": ["churn"]})
    assert len(woken) == 1
    assert api.http.get("/v1/keys", headers=api.admin).status_code == 200
    assert api.http.delete("/v1/keys/unknown", headers=api.admin).status_code == 404
    assert len(woken) == 1
    gone = api.http.delete(f"/v1/keys/{made['info']['id']}", headers=api.admin)
    assert gone.status_code == 204
    assert len(woken) == 2
