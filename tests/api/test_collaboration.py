"""Collaboration, lineage and code over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from modelfleet.core.authorization import Grant, Role

if TYPE_CHECKING:
    from conftest import Api

VERSION = "/v1/models/churn/versions/1"


def node(kind: str, name: str) -> dict[str, str]:
    return {"kind": kind, "name": name}


def edge(source: dict[str, str], destination: dict[str, str]) -> dict[str, Any]:
    return {"source": source, "destination": destination}


def test_a_review_from_request_to_answer(full: Api) -> None:
    anna = full.key("anna", Grant(Role.APPROVER, "growth"))
    made: Any = full.post(f"{VERSION}/reviews", {"reviewer": "anna", "note": "n"})
    waiting = full.http.get("/v1/reviews", params={"mine": True, "state": "open"}, headers=anna)
    assert made["id"] in {one["id"] for one in waiting.json()}
    path = f"{VERSION}/reviews/{made['id']}/answer"
    own = full.http.post(path, json={"state": "approved"}, headers=full.admin)
    assert (own.status_code, own.json()["type"]) == (403, "urn:modelfleet:problem:not-allowed")
    done = full.http.post(path, json={"state": "approved", "comment": "yes"}, headers=anna)
    assert (done.status_code, done.json()["state"]) == (200, "approved")
    again = full.http.post(path, json={"state": "approved"}, headers=anna)
    assert (again.status_code, again.json()["type"]) == (409, "urn:modelfleet:problem:wrong-state")


def test_only_who_there_is_can_be_asked_or_own(full: Api) -> None:
    full.post(f"{VERSION}/reviews", {"reviewer": "zoe"}, 404)
    found = full.http.put("/v1/models/churn/owners/zoe", headers=full.admin)
    assert found.status_code == 404
    assert full.http.put("/v1/models/churn/owners/admin", headers=full.admin).status_code == 200
    owners: Any = full.get("/v1/models/churn/owners")
    assert [one["principal"] for one in owners] == ["admin"]


def test_a_model_from_a_template(full: Api) -> None:
    body = {"criticality": "critical", "tags": {"a": "b"}}
    full.http.put("/v1/templates/growth/usual", json=body, headers=full.admin)
    made: Any = full.post("/v1/models", {"name": "x", "owner_team": "growth", "template": "usual"})
    assert (made["criticality"], made["tags"], made["isolation"]) == (
        "critical",
        {"a": "b"},
        "shared",
    )


def test_lineage_from_a_dataset_to_an_application(full: Api) -> None:
    chain = [
        (node("dataset", "raw"), node("feature-view", "f")),
        (node("feature-view", "f"), node("version", "churn@best")),
        (node("version", "churn@1"), node("application", "shop")),
    ]
    for source, destination in chain:
        full.post("/v1/lineage/edges", edge(source, destination))
    found: Any = full.get("/v1/lineage?kind=dataset&name=raw&direction=downstream")
    assert [one["relation"] for one in found][:3] == ["derived", "used-by", "consumed-by"]
    assert {one["destination"]["kind"] for one in found} >= {"application", "version"}
    up: Any = full.get("/v1/lineage?kind=application&name=shop&direction=upstream")
    assert {one["source"]["name"] for one in up} >= {"raw", "f", "churn@1.0.0"}
    down: Any = full.get(f"{VERSION}/lineage?direction=downstream")
    assert node("application", "shop") in [one["destination"] for one in down]
    gone = full.http.request(
        "DELETE", "/v1/lineage/edges", json=edge(*chain[2]), headers=full.admin
    )
    assert gone.status_code == 204
    twice = full.http.request(
        "DELETE", "/v1/lineage/edges", json=edge(*chain[2]), headers=full.admin
    )
    assert twice.status_code == 404
    assert full.get("/v1/lineage?kind=application&name=shop") == []


@pytest.mark.parametrize(
    ("source", "destination", "status"),
    [
        (node("dataset", "a"), node("application", "b"), 400),
        (node("version", "churn@1"), node("endpoint", "churn"), 400),
        (node("dataset", "a"), node("version", "churn@9"), 404),
        (node("dataset", "a"), node("version", "churn"), 400),
        (node("model", "nope"), node("application", "b"), 404),
    ],
    ids=str,
)
def test_what_can_not_be_declared(
    full: Api, source: dict[str, str], destination: dict[str, str], status: int
) -> None:
    full.post("/v1/lineage/edges", edge(source, destination), status)


def test_edges_are_declared_by_the_team_of_the_model(full: Api) -> None:
    risk = full.key("rick", Grant(Role.DEPLOYER, "risk"), Grant(Role.VIEWER, "growth"))
    body = edge(node("version", "churn@1"), node("application", "theirs"))
    assert full.http.post("/v1/lineage/edges", json=body, headers=risk).status_code == 403
    assert full.get("/v1/lineage?kind=application&name=theirs") == []


def test_edges_of_other_teams_are_not_told(full: Api) -> None:
    full.post("/v1/lineage/edges", edge(node("dataset", "raw"), node("version", "churn@1")))
    risk = full.key("rick", Grant(Role.VIEWER, "risk"))
    found = full.http.get("/v1/lineage", params=node("dataset", "raw"), headers=risk)
    assert (found.status_code, found.json()) == (200, [])
    assert full.get("/v1/lineage?kind=dataset&name=raw") != []


def test_code_is_kept_beside_the_bundle(full: Api) -> None:
    source = full.upload(b"print('hi')\n")
    code = {"commit": "abc", "dirty": True, "files": [{"path": "src/train.py"} | source]}
    made: Any = full.post("/v1/models/churn/versions", full.version_body(b"new") | {"code": code})
    path = f"/v1/models/churn/versions/{made['version']}"
    assert full.get(f"{path}/code") == code
    found = full.http.get(f"{path}/code/src/train.py", headers=full.admin)
    assert found.content == b"print('hi')\n"
    for other in ("nothing.py", "../bundle.json", "model.joblib"):
        assert full.http.get(f"{path}/code/{other}", headers=full.admin).status_code == 404


@pytest.mark.parametrize(
    "files",
    [
        [{"path": "../x.py", "sha256": "0" * 64, "size": 1}],
        [{"path": "x.py", "sha256": "0" * 64, "size": 1}],
        [{"path": "x.py"}],
        "x.py",
    ],
    ids=["outside", "not uploaded", "half", "no list"],
)
def test_wrong_code_registers_nothing(full: Api, files: object) -> None:
    before: Any = full.get("/v1/models/churn/versions")
    body = full.version_body(b"new") | {"code": {"files": files}}
    found = full.http.post("/v1/models/churn/versions", json=body, headers=full.admin)
    assert found.status_code in (400, 404), found.text
    assert full.get("/v1/models/churn/versions") == before


def test_what_is_not_ready_is_not_rebuilt(full: Api) -> None:
    found: Any = full.post(f"{VERSION}/rebuilds", None, 409)
    assert "pending" in found["detail"]
    assert full.http.get(f"{VERSION}/rebuilds/nope", headers=full.admin).status_code == 404


def test_who_declared_to_consume_a_version_still_uses_it(full: Api) -> None:
    made: Any = full.post("/v1/models/churn/versions", full.version_body(b"new"))
    name = f"churn@{made['version']}"
    path = f"/v1/models/churn/versions/{made['version']}"
    declared = edge(node("version", name), node("application", "shop"))
    full.post("/v1/lineage/edges", declared)
    assert {"kind": "application", "name": "shop"} in full.get(f"{path}/users")  # type: ignore[operator]
    refused = full.http.put(f"{path}/lifecycle", json={"lifecycle": "retired"}, headers=full.admin)
    assert (refused.status_code, refused.json()["holders"]) == (409, ["application/shop"])
    full.http.request("DELETE", "/v1/lineage/edges", json=declared, headers=full.admin)
    done = full.http.put(f"{path}/lifecycle", json={"lifecycle": "retired"}, headers=full.admin)
    assert done.json()["lifecycle"] == "retired"


def test_edges_of_a_model_go_where_its_name_goes(full: Api) -> None:
    full.post("/v1/models", {"name": "early", "owner_team": "growth"})
    full.post("/v1/lineage/edges", edge(node("model", "early"), node("application", "shop")))
    full.post("/v1/models/early/rename", {"name": "late"}, 200)
    found: Any = full.get("/v1/lineage?kind=application&name=shop")
    assert [one["source"]["name"] for one in found] == ["late"]
    assert full.http.delete("/v1/models/late", headers=full.admin).status_code == 204
    assert full.get("/v1/lineage?kind=application&name=shop") == []
