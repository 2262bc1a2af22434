"""Endpoints: names, routes, and what they hold."""

from __future__ import annotations

import pytest

from modelfleet.core import audit
from modelfleet.core.authorization import Role
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from modelfleet.lineage import Node
from modelfleet.registry import Version
from modelfleet.registry import store as registry_store
from modelfleet.serving.endpoints import FULL, Endpoint, Route
from modelfleet.wiring import Fleet
from people import ADMIN, NOBODY, principal
from registrar import Registrar


@pytest.fixture
def place(fleet: Fleet, registrar: Registrar) -> Endpoint:
    registrar.model()
    return fleet.endpoints.create(ADMIN, "churn", "churn")


@pytest.fixture
def versions(place: Endpoint, registrar: Registrar) -> list[Version]:
    return [registrar.ready() for _ in range(3)]


def put(fleet: Fleet, place: Endpoint, stable: str | None, *routes: Route) -> int:
    with fleet.database.begin() as connection:
        return fleet.endpoints.set_routes(connection, place.id, routes, stable_version_id=stable)


def held(fleet: Fleet, versions: list[Version]) -> list[bool]:
    with fleet.database.read() as connection:
        return ["endpoint/churn" in registry_store.holders(connection, one.id) for one in versions]


def test_a_name_is_given_once_and_to_a_model(fleet: Fleet, place: Endpoint) -> None:
    assert (place.model, place.owner_team, place.revision, place.routes) == (
        "churn",
        "growth",
        0,
        (),
    )
    with pytest.raises(Conflict):
        fleet.endpoints.create(ADMIN, "churn", "churn")
    with pytest.raises(NotFound):
        fleet.endpoints.create(ADMIN, "other", "nothing")
    for name in ("", "a/b", "-a", "x" * 121, "a b"):
        with pytest.raises(InvalidInput):
            fleet.endpoints.create(ADMIN, name, "churn")
    edges = fleet.lineage.around(Node("endpoint", "churn"))
    assert [(e.source.name, e.relation) for e in edges] == [("churn", "served-by")]


def test_references_follow_the_routes(
    fleet: Fleet, place: Endpoint, versions: list[Version]
) -> None:
    one, two, three = (v.id for v in versions)
    assert put(fleet, place, one, Route(one, FULL)) == 1
    assert held(fleet, versions) == [True, False, False]
    assert put(fleet, place, one, Route(one, 9000), Route(two, 1000)) == 2
    assert held(fleet, versions) == [True, True, False]
    assert put(fleet, place, one, Route(one, FULL)) == 3
    assert held(fleet, versions) == [True, False, False]
    assert put(fleet, place, two, Route(two, FULL)) == 4
    assert held(fleet, versions) == [True, True, False]  # the one before is kept for a rollback
    assert put(fleet, place, three, Route(three, FULL)) == 5
    assert held(fleet, versions) == [False, True, True]
    found = fleet.endpoints.get(ADMIN, "churn")
    assert (found.stable_version_id, found.previous_version_id) == (three, two)


def test_the_same_routes_are_no_change(
    fleet: Fleet, place: Endpoint, versions: list[Version]
) -> None:
    one, two = versions[0].id, versions[1].id
    routes = [Route(one, 5000), Route(two, 5000, 100)]
    assert put(fleet, place, one, *routes) == put(fleet, place, one, *reversed(routes)) == 1
    assert put(fleet, place, two, *routes) == 2  # another stable one is a change


def test_no_routes_at_all_let_go_of_everything_but_the_last(
    fleet: Fleet, place: Endpoint, versions: list[Version]
) -> None:
    one = versions[0].id
    put(fleet, place, one, Route(one, FULL))
    put(fleet, place, None)
    found = fleet.endpoints.get(ADMIN, "churn")
    assert (found.routes, found.stable_version_id, found.previous_version_id) == ((), None, one)


@pytest.mark.parametrize(
    "weights",
    [[(5000, 0)], [(5000, 0), (5001, 0)], [(10_001, 0), (-1, 0)], [(10_000, 10_001)]],
)
def test_weights_add_up(
    fleet: Fleet, place: Endpoint, versions: list[Version], weights: list[tuple[int, int]]
) -> None:
    routes = [
        Route(one.id, weight, shadow)
        for one, (weight, shadow) in zip(versions, weights, strict=False)
    ]
    with pytest.raises(InvalidInput):
        put(fleet, place, versions[0].id, *routes)
    assert fleet.endpoints.get(ADMIN, "churn").revision == 0
    assert held(fleet, versions) == [False] * 3


def test_a_version_has_one_route(fleet: Fleet, place: Endpoint, versions: list[Version]) -> None:
    one = versions[0].id
    with pytest.raises(InvalidInput):
        put(fleet, place, one, Route(one, 5000), Route(one, 5000))


def test_what_the_gateway_runs_is_noted(
    fleet: Fleet, place: Endpoint, versions: list[Version]
) -> None:
    put(fleet, place, versions[0].id, Route(versions[0].id, FULL))
    assert fleet.endpoints.get(ADMIN, "churn").applied_revision == 0
    fleet.endpoints.mark_applied({place.id: 1})
    fleet.endpoints.mark_applied({})
    assert fleet.endpoints.get(ADMIN, "churn").applied_revision == 1


def test_a_deleted_endpoint_holds_nothing(
    fleet: Fleet, place: Endpoint, versions: list[Version]
) -> None:
    put(fleet, place, versions[0].id, Route(versions[0].id, FULL))
    fleet.endpoints.delete(ADMIN, "churn")
    assert held(fleet, versions) == [False] * 3
    assert fleet.lineage.around(Node("endpoint", "churn")) == []
    with pytest.raises(NotFound):
        fleet.endpoints.get(ADMIN, "churn")
    assert audit.events(fleet.database)[0].action == "delete-endpoint"
    fleet.registry.delete_version(ADMIN, "churn", "1")


def test_who_may(fleet: Fleet, place: Endpoint) -> None:
    stranger, viewer = principal(Role.VIEWER, "risk"), principal(Role.VIEWER, "growth")
    assert fleet.endpoints.list(stranger) == fleet.endpoints.list(NOBODY) == []
    assert [one.name for one in fleet.endpoints.list(viewer)] == ["churn"]
    for forbidden in (
        lambda: fleet.endpoints.get(stranger, "churn"),
        lambda: fleet.endpoints.create(principal(Role.DATA_SCIENTIST), "x", "churn"),
        lambda: fleet.endpoints.create(principal(Role.DEPLOYER, "risk"), "x", "churn"),
        lambda: fleet.endpoints.delete(principal(Role.DEPLOYER), "churn"),
    ):
        with pytest.raises(NotAllowed):
            forbidden()
    fleet.endpoints.create(principal(Role.DEPLOYER, "growth"), "x", "churn")
