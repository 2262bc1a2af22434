"""Every route says what it asks, and asks it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import pytest
from api_routes import app_routes, permission
from fastapi.routing import APIRoute

from modelfleet.core.authorization import SYSTEM, Action, Grant, Principal, Role
from modelfleet.delivery.apply import Signed
from modelfleet.delivery.types import Order
from modelfleet.gates import store as gates
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.rollouts.windows import Window
from modelfleet.wiring import Fleet

if TYPE_CHECKING:
    from conftest import Api

KNOWN = {action.value for action in Action} | {"public"}


@pytest.fixture
def full(full: Api) -> Api:
    """Also with a rebuild, something to approve, a document that was applied, a request of gates
    and a data set."""
    full.fleet.files.apply(_admin(full), Signed("default", "", "", ""), [Order(DOCUMENT)])
    version = full.fleet.registry.get_version(_admin(full), "churn", "1")
    rebuilt = GateRun("rebuild", Verdict.PASS, "", {"rebuild": "r1", "state": "equal"})
    gates.save(full.fleet.database, version.id, "0" * 64, [rebuilt])
    asked = gates.Request("q1", version.id, None, (), "admin", "admin", "")
    with full.fleet.database.begin() as connection:
        gates.add_request(connection, asked)
    data = full.upload(b"a,target\n1,0\n")
    table = {"sha256": data["sha256"], "format": "csv", "team": "growth"}
    full.post("/v1/datasets/churn/versions", table)
    with full.fleet.database.begin() as connection:
        full.fleet.approvals.ask(
            connection, SYSTEM, "rollout/churn", {"spec": "0"}, role="approver", team="growth"
        )
    past = Window(begins="2020-01-01T00:00:00Z", ends="2020-01-02T00:00:00Z", reason="done")
    full.fleet.freezes.create(SYSTEM, "churn", past, endpoint="churn")
    return full


def test_every_route_declares_a_permission(api: Api) -> None:
    routes = app_routes(api)
    assert len(routes) > 45
    undeclared = [(r.path, r.methods) for r in routes if permission(r) not in KNOWN]
    assert undeclared == []


def test_what_is_public_is_known(api: Api) -> None:
    public = {r.path for r in app_routes(api) if permission(r) == "public"}
    assert public <= {
        "/healthz",
        "/v1/health",  # a mere yes or no
        "/v1/hooks/training/{name}/{token}",  # the token is the proof
        "/v2/models/{name}/feedback",  # proves itself with the gateway's secret
        "/login",
        "/login/{secret}",
        "/static/{version}/{name}",
    }


EDGE = {
    "source": {"kind": "dataset", "name": "events"},
    "destination": {"kind": "version", "name": "churn@1"},
}
DOCUMENT = {
    "apiVersion": "modelfleet.dev/v1",
    "kind": "Model",
    "metadata": {"name": "churn", "owner": "growth", "description": "who leaves"},
}
BODIES: dict[tuple[str, str], object] = {
    ("PATCH", "/v1/endpoints/{name}/traffic"): {"concurrency": 3},
    ("POST", "/v1/models"): {"name": "other", "owner_team": "growth"},
    ("PATCH", "/v1/models/{name}"): {"description": "x"},
    ("PUT", "/v1/models/{name}/aliases/{alias}"): {"version": "1"},
    ("POST", "/v1/endpoints"): {"name": "other", "model": "churn"},
    ("POST", "/v1/rollouts"): {"model": "churn"},
    ("POST", "/v1/rollout-groups"): {"members": [{"model": "churn"}, {"model": "churn"}]},
    ("POST", "/v1/rollouts/{rollout_id}/promote"): {"reason": "x"},
    ("POST", "/v1/rollouts/{rollout_id}/override"): {"reason": "x"},
    ("POST", "/v1/freezes"): {"name": "other", "ends": "2020-01-02T00:00:00Z", "reason": "x"},
    ("POST", "/v1/approvals/{approval_id}/approve"): {"reason": "x"},
    ("POST", "/v1/approvals/{approval_id}/reject"): {"reason": "x"},
    ("POST", "/v1/pipelines"): {
        "name": "other",
        "team": "growth",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}],
        "steps": [{"name": "first", "model": "churn", "inputs": {"x": "input.x"}}],
        "outputs": {"score": "first.prediction"},
    },
    ("POST", "/v1/batches"): {"model": "churn", "input": "/tmp/in", "output": "/tmp/out"},
    ("POST", "/v1/models/{name}/versions/{version}/tuning"): {"concurrency": 2},
    ("POST", "/v1/principals"): {"name": "eve"},
    ("POST", "/v1/principals/{name}/grants"): {"role": "admin"},
    ("DELETE", "/v1/principals/{name}/grants"): {"role": "admin"},
    ("POST", "/v1/keys"): {"principal": "admin"},
    ("POST", "/v1/models/{name}/rename"): {"name": "leavers"},
    ("POST", "/v1/models/{name}/transfer"): {"owner_team": "risk"},
    ("PATCH", "/v1/models/{name}/versions/{version}"): {"description": "x"},
    ("PUT", "/v1/models/{name}/versions/{version}/stage"): {"stage": "dev"},
    ("PUT", "/v1/models/{name}/versions/{version}/lifecycle"): {"lifecycle": "deprecated"},
    ("PUT", "/v1/stages/{name}"): {"position": 2},
    ("POST", "/v1/garbage"): {"dry_run": True},
    ("POST", "/v1/webhooks"): {"name": "w", "url": "https://127.0.0.1/", "events": ["*"]},
    ("PATCH", "/v1/webhooks/{webhook}"): {"active": False},
    ("POST", "/v1/models/{name}/versions/{version}/comments"): {"text": "x"},
    ("PATCH", "/v1/models/{name}/versions/{version}/comments/{comment_id}"): {"text": "x"},
    ("POST", "/v1/models/{name}/versions/{version}/reviews"): {"role": "approver"},
    ("POST", "/v1/models/{name}/versions/{version}/reviews/{review_id}/answer"): {
        "state": "approved"
    },
    ("PUT", "/v1/templates/{team}/{template}"): {"criticality": "high"},
    ("POST", "/v1/lineage/edges"): EDGE,
    ("POST", "/v1/fleet/plan"): {"documents": [DOCUMENT]},
    ("POST", "/v1/fleet/apply"): {"objects": [{"document": DOCUMENT}]},
    ("POST", "/v1/fleet/remove"): {"objects": [{"kind": "Model", "name": "churn"}]},
    ("DELETE", "/v1/lineage/edges"): EDGE,
}
SIDE = [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}]
BODIES |= {
    ("POST", "/v1/models/{name}/versions/{version}/gates"): {"gates": ["signature"]},
    ("POST", "/v1/models/{name}/users"): {"inputs": SIDE, "outputs": SIDE},
    ("POST", "/v1/datasets/{name}/versions"): {"sha256": "0" * 64, "format": "csv"},
}
OWN_BUSINESS = {"/v1/whoami", "/v1/login-links"}
"""What anybody with a key may do: it tells or gives nothing but what they have."""
OF_NO_TEAM = {"/v1/blobs/{sha256}", "/v1/outcomes:batch", "/v1/health/details"}
OF_NO_TEAM |= {"/v1/uploads/{sha256}", "/v1/stages"}
OF_NO_TEAM |= {"/v1/experiments", "/v1/experiments/{experiment}"}
OF_NO_TEAM |= {"/v1/experiments/{experiment}/runs"}
EMPTY_LISTS = {"/v1/models", "/v1/versions", "/v1/models/{name}/versions", "/v1/endpoints"}
EMPTY_LISTS |= {"/v1/pipelines", "/v1/rollouts", "/v1/alerts", "/v1/fleet", "/v1/quarantine"}
EMPTY_LISTS |= {"/v1/batches", "/v1/trainings", "/v1/templates", "/v1/reviews"}
EMPTY_LISTS |= {"/v1/approvals", "/v1/freezes"}
EMPTY_LISTS |= {"/v1/fleet/standings", "/v1/fleet/objects", "/v1/fleet/export"}
EMPTY_LISTS |= {"/v1/datasets"}
OF_SOMEBODY = {
    "/v1/models/{name}/versions/{version}/comments/{comment_id}",
    "/v1/models/{name}/versions/{version}/reviews/{review_id}/answer",
    "/v1/approvals/{approval_id}/approve",
    "/v1/approvals/{approval_id}/reject",
}
"""Whoever may read may call these, for what is theirs; here it is the admin's."""


def names_of(api: Api) -> dict[str, str]:
    """What stands for the parameters of a path."""
    admin = _admin(api)
    return {
        "name": "churn",
        "version": "1",
        "alias": "best",
        "rollout_id": api.fleet.rollouts.list(admin)[0].id,
        "run_id": str(api.fleet.registry.get_version(admin, "churn", "1").run_id),
        "sha256": "0" * 64,
        "alert_id": "a1",
        "batch_id": "b1",
        "training_id": api.fleet.training.list(admin)[0].id,
        "token": "t1",
        "key_id": api.fleet.identity.list_keys(admin)[-1].id,
        "webhook": "w1",
        "path": "model.joblib",
        "experiment": "0",
        "person": "admin",
        "team": "growth",
        "template": "usual",
        "rebuild_id": "r1",
        "approval_id": api.fleet.approvals.list(admin)[0].id,
        "request_id": "q1",
        "comment_id": api.fleet.registry.comments(admin, "churn", "1")[0].id,
        "review_id": api.fleet.registry.reviews(admin, "churn", "1")[0].id,
    }


def fill(path: str, names: Mapping[str, str]) -> str:
    given = dict(names)
    if "principals" in path:
        given["name"] = "admin"
    if "pipelines" in path:
        given["name"] = "scoring"
    return re.sub(r"\{(\w+)(?::path)?\}", lambda match: given[match[1]], path)


def _admin(api: Api) -> Principal:
    return api.fleet.identity.authenticate(api.admin_key)


def private(api: Api) -> list[tuple[str, APIRoute]]:
    return [
        (method, route)
        for route in app_routes(api)
        if permission(route) != "public" and route.path.startswith("/v1/")
        for method in route.methods
    ]


Caller = Callable[[str, APIRoute, Mapping[str, str]], tuple[int, str]]


def caller(api: Api) -> Caller:
    """Calls a method of a route with these headers; status and text of the answer."""
    return partial(call, api, names_of(api))


def call(
    api: Api, names: Mapping[str, str], method: str, route: APIRoute, headers: Mapping[str, str]
) -> tuple[int, str]:
    body = BODIES.get((method, route.path))
    if route.path == "/v1/models/{name}/versions" and method == "POST":
        body = api.version_body(b"other")
    query: dict[str, object] = {"offset": 0, "size": 1} if "uploads" in route.path else {}
    if route.path == "/v1/lineage":
        query = {"kind": "version", "name": "churn@1"}
    found = api.http.request(
        method, fill(route.path, names), json=body, headers=headers, params=query
    )
    return found.status_code, found.text


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer x"}, {"cookie": "a=b"}], ids=str)
def test_without_credentials_nothing_is_told(full: Api, headers: dict[str, str]) -> None:
    ask = caller(full)
    for method, route in private(full):
        status, _ = ask(method, route, headers)
        assert status == 401, (method, route.path)


def test_without_grants_nothing_is_told_either(full: Api) -> None:
    nobody = full.key("nemo")
    ask = caller(full)
    for method, route in private(full):
        status, text = ask(method, route, nobody)
        if route.path in OWN_BUSINESS:
            assert status < 300
        elif method == "GET" and route.path in EMPTY_LISTS:
            assert status == 200, (route.path, text)
            body = json.loads(text)
            assert (body["rows"] if isinstance(body, dict) else body) == [], route.path
            assert "churn" not in text
        elif "{alert_id}" in route.path:
            assert status in (403, 404), (method, route.path, status)
        else:
            assert status == 403, (method, route.path, status, text)
    assert full.get("/v1/audit/verify") == {"intact": True, "first_broken": None}


def test_another_team_sees_and_does_nothing(full: Api) -> None:
    stranger = full.key("eve", *(Grant(role, "risk") for role in Role))
    ask = caller(full)
    for method, route in private(full):
        status, text = ask(method, route, stranger)
        if route.path in OWN_BUSINESS | OF_NO_TEAM:
            continue  # their own, or of no team
        if method == "GET" and route.path in EMPTY_LISTS:
            assert status == 200
            assert "churn" not in text
        else:
            assert status in (403, 404), (method, route.path, status, text)
            assert "alert" in route.path or status == 403, (method, route.path)


def test_a_viewer_reads_and_changes_nothing(full: Api) -> None:
    viewer = full.key("vera", Grant(Role.VIEWER, "growth"))
    events = len(full.fleet.identity.list_keys(_admin(full)))
    ask = caller(full)
    for method, route in private(full):
        status, text = ask(method, route, viewer)
        if route.path in OF_SOMEBODY:
            assert status == 403, (method, route.path, text)
        elif permission(route) == "read" and "alert_id" not in route.path:
            assert status < 300, (method, route.path, text)
        elif "alert_id" not in route.path:
            assert status == 403, (method, route.path, text)
    assert len(full.fleet.identity.list_keys(_admin(full))) == events


def test_a_session_needs_its_csrf_token_to_change_things(full: Api, fleet: Fleet) -> None:
    secret = fleet.identity.log_in(full.admin_key)
    cookies = {"cookie": f"modelfleet_session={secret}"}
    assert full.http.get("/v1/models", headers=cookies).status_code == 200
    body = {"name": "two", "owner_team": "growth"}
    assert full.http.post("/v1/models", json=body, headers=cookies).status_code == 403
    wrong = cookies | {"x-csrf-token": "guess"}
    assert full.http.post("/v1/models", json=body, headers=wrong).status_code == 403
    right = cookies | {"x-csrf-token": fleet.identity.session(secret).csrf}
    assert full.http.post("/v1/models", json=body, headers=right).status_code == 201
