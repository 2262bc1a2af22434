"""Whatever documents are applied after each other, and whatever people do in between: applying
twice is applying once, and what is exported has nothing to do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelfleet.core.errors import InvalidInput
from modelfleet.delivery.apply import Signed
from modelfleet.delivery.types import Order
from modelfleet.fleetfile.documents import ModelDocument
from modelfleet.fleetfile.sections import Metadata
from modelfleet.registry.semver import Semver
from modelfleet.serving.traffic import Sticky
from modelfleet.wiring import Fleet
from people import ADMIN
from registrar import Registrar

SIGNED = Signed("shop", "", "", "")


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


texts = st.sampled_from(["", "one", "two", "Ünïcode | `x`"])
metadata = st.fixed_dictionaries(
    {"name": st.just("churn"), "owner": st.sampled_from(["growth", "risk"])},
    optional={
        "description": texts,
        "function": texts,
        "tier": st.sampled_from(["low", "normal", "critical"]),
        "tags": st.dictionaries(st.sampled_from(["a", "b.c"]), texts, max_size=2),
    },
)
rules = st.lists(
    st.sampled_from(
        [
            {"version": "1", "header": "x-a", "equals": "1"},
            {"version": "1.0.0", "header": "x-b", "prefix": "10."},
            {"version": "1.0.0", "team": "growth"},
        ]
    ),
    max_size=2,
)
endpoint = optional(
    sticky=st.sampled_from(["none", "caller", "header:x-user", "cookie:v"]),
    rules=rules,
    rate_limit=st.sampled_from([{"requests": 5}, {"requests": 5, "per": "60s"}]),
    concurrency=st.integers(1, 4),
    priority=st.sampled_from(["high", "normal", "low"]),
    try_timeout=st.sampled_from(["50ms", 0.06]),
)
documents = st.fixed_dictionaries(
    {"apiVersion": st.just("modelfleet.dev/v1"), "kind": st.just("Model"), "metadata": metadata},
    optional={
        "source": st.sampled_from(
            [{"version": "^1.0"}, {"version": "latest"}, {"version": "9.9.9"}]
        ),
        "consumers": st.lists(
            st.sampled_from([{"app": "crm"}, {"app": "a b"}, {"model": "other"}]),
            max_size=2,
            unique_by=str,
        ),
        "uses": st.sampled_from([[], [{"model": "base"}], [{"model": "base", "version": "^1"}]]),
        "serve": optional(
            isolation=st.sampled_from(["shared", "team", "model"]),
            timeout=st.sampled_from(["200ms", "1500ms"]),
        ),
        "endpoint": endpoint,
        "scale": optional(min=st.integers(0, 2)),
        "gates": st.sampled_from([[], ["signature"], [{"latency": {"p95": "30ms"}}]]),
    },
)
meddling = st.sampled_from(["nothing", "describe", "tag", "traffic", "rules", "version"])


def meddle(fleet: Fleet, registrar: Registrar, how: str) -> None:
    places = {one.name for one in fleet.endpoints.all()}
    if how == "describe":
        fleet.registry.update_model(ADMIN, "churn", description="by hand", isolation="model")
    elif how == "tag":
        fleet.registry.set_model_tag(ADMIN, "churn", "theirs", "x")
    elif how == "traffic" and "churn" in places:
        sticky = {"by": "header", "name": "x-theirs"}
        fleet.endpoints.set_traffic(ADMIN, "churn", {"sticky": sticky, "concurrency": 9})
        assert fleet.endpoints.get(ADMIN, "churn").traffic.sticky == Sticky("header", "x-theirs")
    elif how == "rules" and "churn" in places:
        fleet.endpoints.set_traffic(ADMIN, "churn", {"rules": []})
    elif how == "version":
        last = fleet.registry.list_versions(ADMIN, "churn")[0]
        major, minor, patch = (int(part) for part in last.version.split("."))
        registrar.ready("churn", version=str(Semver(major, minor + 1, patch)))


@given(st.lists(st.tuples(documents, meddling), min_size=1, max_size=4))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_applying_twice_is_applying_once(
    fleet: Fleet, registrar: Registrar, history: list[tuple[dict[str, Any], str]]
) -> None:
    _begin_anew(fleet, registrar)
    for document, how in history:
        meddle(fleet, registrar, how)
        before = fleet.files.plan(ADMIN, "shop", [document])
        assert before.troubles == ()
        [result] = fleet.files.apply(
            ADMIN, SIGNED, [Order(document, before.objects[0].fingerprint)], rollouts=False
        )
        assert result.status == 0, result
        [after] = fleet.files.plan(ADMIN, "shop", [document]).objects
        assert after.changes == ()
        waits = after.version is not None and after.version.state == "rollout"
        assert after.action == ("update" if waits else "none")
        found = fleet.files.export(ADMIN, ["churn"])[0]["document"]
        [again] = fleet.files.plan(ADMIN, "shop", [found]).objects
        assert [c.path for c in again.changes if not c.recorded_only] == []


def _begin_anew(fleet: Fleet, registrar: Registrar) -> None:
    """Each history has the model by hand, with one version that serves nowhere."""
    known = [(one.kind, one.name) for one in fleet.files.applied(ADMIN)]
    fleet.files.remove(ADMIN, SIGNED, known, {})
    for one in fleet.endpoints.all():
        fleet.endpoints.delete(ADMIN, one.name)
    names = {one.name for one in fleet.registry.list_models(ADMIN)}
    if "churn" in names:
        fleet.registry.delete_model(ADMIN, "churn", versions=True)
    for name in {"base", "other"} - names:
        registrar.model(name)
    registrar.model("churn")
    registrar.ready("churn", version="1.0.0")


JUNK: list[Any] = [
    None,
    [],
    {},
    "",
    0,
    -1,
    10**30,
    float("inf"),
    "\ud800",
    "\x00",
    ["x"],
    {"a": {}},
]


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_junk_in_any_section_is_refused_or_applied_whole(
    fleet: Fleet, registrar: Registrar, junk: Any
) -> None:
    head = {"apiVersion": "modelfleet.dev/v1", "kind": "Model"}
    named = {"metadata": {"name": "junk", "owner": "growth"}}
    bodies = [{**head, **named, key: junk} for key in ModelDocument.model_fields]
    bodies += [
        {**head, "metadata": {**named["metadata"], key: junk}} for key in Metadata.model_fields
    ]
    for body in bodies:
        try:
            [result] = fleet.files.apply(ADMIN, SIGNED, [Order(body)])
        except InvalidInput:
            continue
        made = {one.name for one in fleet.registry.list_models(ADMIN)}
        recorded = {one.name for one in fleet.files.applied(ADMIN)}
        assert made == recorded, body
        assert result.status in (0, 400), result
