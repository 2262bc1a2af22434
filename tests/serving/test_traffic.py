"""Traffic policies: what is refused, what is stored, what the gateway is told."""

from __future__ import annotations

import pytest

from modelfleet.core import audit
from modelfleet.core.authorization import Resource, Role
from modelfleet.core.errors import InvalidInput, NotAllowed
from modelfleet.registry import Version
from modelfleet.registry import store as registry_store
from modelfleet.serving import routing
from modelfleet.serving.endpoints import FULL, Endpoint, Route
from modelfleet.serving.gateway import GatewayConfig, Rule
from modelfleet.serving.pools import Residency
from modelfleet.serving.traffic import Traffic, changed
from modelfleet.wiring import Fleet
from people import ADMIN, principal
from registrar import Registrar


@pytest.fixture
def versions(fleet: Fleet, registrar: Registrar) -> list[Version]:
    registrar.model()
    fleet.endpoints.create(ADMIN, "churn", "churn")
    return [registrar.ready() for _ in range(3)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stickies": None}, "stickies"),
        ({"sticky": {"by": "moon"}}, "sticky.by"),
        ({"sticky": {"by": "header", "name": "X-User"}}, "X-User"),
        ({"sticky": {"by": "header", "name": "x_user"}}, "underscores"),
        ({"sticky": {"by": "header", "name": "x-mf-caller"}}, "x-mf-caller"),
        ({"sticky": {"by": "cookie", "name": "a b"}}, "cookie"),
        ({"sticky": {"by": "caller", "name": "x"}}, "no name"),
        ({"sticky": {"by": "caller", "extra": 1}}, "extra"),
        ({"rules": [{"version": "1.0.0"}]}, "one of header"),
        ({"rules": [{"version": "1.0.0", "caller": "a", "team": "b"}]}, "one of header"),
        ({"rules": [{"version": "1.0.0", "header": "x-a"}]}, "one of equals"),
        ({"rules": [{"version": "1.0.0", "header": "x-a", "equals": "a\nb"}]}, "matched"),
        ({"rules": [{"version": "1.0.0", "header": "authorization", "equals": "a"}]}, "clients"),
        ({"rules": [{"version": "1.0.0", "team": "a", "equals": "b"}]}, "Only a rule"),
        ({"rules": [{"version": "1.0.0", "team": "a", "colour": "b"}]}, "colour"),
        ({"rules": [{"team": "a"}]}, "version"),
        ({"rules": [{"version": "1.0.0", "team": "a"}] * 51}, "50"),
        ({"rate_limit": {"requests": 0}}, "rate limit"),
        ({"rate_limit": {"requests": "many"}}, "requests"),
        ({"concurrency": 0}, "concurrency"),
        ({"priority": "urgent"}, "priority"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": 300, "per_try_timeout_ms": 300}, "shorter"),
    ],
)
def test_what_can_not_work_is_refused_with_a_reason(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        changed(Traffic(), changes)
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_what_is_not_named_stays(fleet: Fleet, versions: list[Version]) -> None:
    fleet.endpoints.set_traffic(ADMIN, "churn", {"sticky": {"by": "cookie", "name": "v"}})
    first = fleet.endpoints.set_traffic(ADMIN, "churn", {"concurrency": 4})
    assert first.revision == 2
    assert first.traffic.sticky is not None
    assert first.traffic.sticky.name == "v"
    same = fleet.endpoints.set_traffic(ADMIN, "churn", {"concurrency": 4})
    assert same.revision == 2
    gone = fleet.endpoints.set_traffic(ADMIN, "churn", {"sticky": None})
    assert (gone.traffic.sticky, gone.traffic.concurrency, gone.revision) == (None, 4, 3)
    events = audit.events(fleet.database, resource=Resource("endpoint", "churn"))
    assert [one.action for one in events][:3] == ["set-traffic"] * 3


def test_rules_name_what_exists_and_hold_it(fleet: Fleet, versions: list[Version]) -> None:
    fleet.identity.create_principal(ADMIN, "alice", "person")

    def put(**rule: str) -> Endpoint:
        return fleet.endpoints.set_traffic(ADMIN, "churn", {"rules": [rule]})

    for bad in ({"version": "9.9.9", "team": "a"}, {"version": "latest", "team": "a"}):
        with pytest.raises(InvalidInput, match="no version"):
            put(**bad)
    with pytest.raises(InvalidInput, match="principal"):
        put(version="1", caller="nobody")
    rule = put(version="2", caller="alice").traffic.rules[0]
    assert (rule.version, rule.version_id) == (versions[1].version, versions[1].id)
    assert rule.caller_id
    with fleet.database.begin() as connection:
        assert "endpoint/churn" in registry_store.holders(connection, versions[1].id)
        routes = [Route(versions[0].id, FULL)]
        fleet.endpoints.set_routes(connection, "churn", routes, stable_version_id=versions[0].id)
        assert "endpoint/churn" in registry_store.holders(connection, versions[1].id)
    fleet.endpoints.set_traffic(ADMIN, "churn", {"rules": []})
    with fleet.database.begin() as connection:
        assert "endpoint/churn" not in registry_store.holders(connection, versions[1].id)
        assert "endpoint/churn" in registry_store.holders(connection, versions[0].id)


def test_only_who_may_roll_out_sets_it(fleet: Fleet, versions: list[Version]) -> None:
    viewer = principal(Role.VIEWER)
    with pytest.raises(NotAllowed):
        fleet.endpoints.set_traffic(viewer, "churn", {"concurrency": 1})


def test_a_rules_version_is_awaited_and_reached_without_weight(
    fleet: Fleet, versions: list[Version]
) -> None:
    with fleet.database.begin() as connection:
        routes = [Route(versions[0].id, FULL)]
        fleet.endpoints.set_routes(connection, "churn", routes, stable_version_id=versions[0].id)
    rules = [{"version": "3", "header": "x-a", "prefix": "b"}]
    changes = {"rules": rules, "timeout_ms": 2000, "per_try_timeout_ms": 300, "priority": "low"}
    place = fleet.endpoints.set_traffic(ADMIN, "churn", changes)
    assert place.version_ids == {versions[0].id, versions[2].id}
    by_id = {one.id: one for one in versions}
    homes = {one.index: "p" for one in versions}

    def plan(*ready: Version) -> GatewayConfig:
        residency = Residency(frozenset(("p", one.index) for one in ready), {})
        made = routing.plan([place], by_id, homes, residency, {}, (), GatewayConfig(0))
        return made.config

    assert plan(versions[0]).endpoints == ()
    (found,) = plan(versions[0], versions[2]).endpoints
    assert [(t.version_index, t.weight) for t in found.targets] == [
        (versions[0].index, FULL),
        (versions[2].index, 0),
    ]
    assert found.rules == (Rule(versions[2].index, "header", "b", "x-a", True),)
    assert (found.timeout_ms, found.per_try_timeout_ms, found.priority) == (2000, 300, "low")
