from __future__ import annotations

import pytest

from modelfleet.core import audit
from modelfleet.core.authorization import Grant, Principal, Role
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, NotFound, Referenced
from modelfleet.lineage import Node
from modelfleet.registry import store as registry_store
from modelfleet.wiring import Fleet
from people import ADMIN, principal
from registrar import Registrar

SCIENTIST = principal(Role.DATA_SCIENTIST, "growth")


@pytest.fixture
def churn(registrar: Registrar) -> Registrar:
    registrar.model()
    for version in ("1.0.0", "1.2.0", "1.2.7", "2.0.0-rc.1", "2.0.0"):
        registrar.version(version=version)
    return registrar


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("1.2", "1.2.7"),
        ("^1.0", "1.2.7"),
        ("~1.2.0", "1.2.7"),
        (">=1.0,<1.2", "1.0.0"),
        (">=2.0.0-rc.1,<2.0.0", "2.0.0-rc.1"),
        ("1.2.0", "1.2.0"),
        ("1.x", "1.2.7"),
        ("2", "1.2.0"),  # a sequence number
        ("latest", "2.0.0"),
    ],
)
def test_references(fleet: Fleet, churn: Registrar, reference: str, expected: str) -> None:
    assert fleet.registry.get_version(ADMIN, "churn", reference).version == expected


@pytest.mark.parametrize("reference", ["3.0", "^9", "", "nope", "0", "1.2.8"])
def test_references_to_nothing(fleet: Fleet, churn: Registrar, reference: str) -> None:
    with pytest.raises(NotFound):
        fleet.registry.get_version(ADMIN, "churn", reference)


def test_a_protected_alias_is_moved_by_who_may_roll_out(fleet: Fleet, churn: Registrar) -> None:
    fleet.registry.set_alias(SCIENTIST, "churn", "champion", "1.0.0")
    with pytest.raises(NotAllowed):
        fleet.registry.set_alias(SCIENTIST, "churn", "champion", "1.0.0", protected=True)
    fleet.registry.set_alias(ADMIN, "churn", "champion", "1.0.0", protected=True)
    with pytest.raises(NotAllowed):
        fleet.registry.set_alias(SCIENTIST, "churn", "champion", "1.2.0")
    with pytest.raises(NotAllowed):
        fleet.registry.delete_alias(SCIENTIST, "churn", "champion")
    with pytest.raises(Referenced):
        fleet.registry.delete_version(ADMIN, "churn", "1.0.0")
    moved = fleet.registry.set_alias(ADMIN, "churn", "champion", "1.2.0")
    assert moved.aliases == ("champion",)
    with pytest.raises(Referenced):
        fleet.registry.delete_version(ADMIN, "churn", "1.2.0")
    event = audit.events(fleet.database)[0]
    assert (event.action, event.details["before"]) == ("set-alias", "1.0.0")


def test_aliases_that_are_not_protected_go_with_the_version(fleet: Fleet, churn: Registrar) -> None:
    fleet.registry.set_alias(ADMIN, "churn", "candidate", "1.0.0")
    fleet.registry.delete_version(ADMIN, "churn", "1.0.0")
    assert fleet.registry.get_model(ADMIN, "churn").aliases == {}
    assert audit.events(fleet.database)[0].details["aliases"] == ["candidate"]


def test_promotion(fleet: Fleet, churn: Registrar) -> None:
    promote = fleet.registry.promote
    assert promote(SCIENTIST, "churn", "1.0.0", "staging").stage == "staging"
    with pytest.raises(NotAllowed):  # prod is protected
        promote(SCIENTIST, "churn", "1.0.0", "prod")
    promote(ADMIN, "churn", "1.0.0", "prod")
    promote(ADMIN, "churn", "1.2.0", "prod")
    assert fleet.registry.get_version(ADMIN, "churn", "prod").version == "1.2.0"
    with pytest.raises(NotAllowed):  # nor may it be taken out of there
        promote(SCIENTIST, "churn", "1.0.0", "")
    promote(ADMIN, "churn", "1.2.7", "prod", replace=True)
    stages = {v.version: v.stage for v in fleet.registry.list_versions(ADMIN, "churn")}
    assert [v for v, stage in stages.items() if stage == "prod"] == ["1.2.7"]
    with pytest.raises(InvalidInput):
        promote(ADMIN, "churn", "1.2.7", "moon")


def test_stages_of_the_team(fleet: Fleet, churn: Registrar) -> None:
    assert [one.name for one in fleet.registry.list_stages()] == [
        "dev",
        "staging",
        "prod",
        "archived",
    ]
    with pytest.raises(NotAllowed):
        fleet.registry.set_stage(SCIENTIST, "qa", 2, False)
    fleet.registry.set_stage(ADMIN, "qa", 2, False)
    fleet.registry.promote(SCIENTIST, "churn", "1.0.0", "qa")
    with pytest.raises(Referenced):
        fleet.registry.delete_stage(ADMIN, "qa")
    fleet.registry.promote(SCIENTIST, "churn", "1.0.0", "")
    fleet.registry.delete_stage(ADMIN, "qa")
    with pytest.raises(NotFound):
        fleet.registry.delete_stage(ADMIN, "qa")
    with pytest.raises(InvalidInput):
        fleet.registry.set_stage(ADMIN, "a/b", 2, False)


def test_retirement_asks_who_still_uses_it(fleet: Fleet, churn: Registrar) -> None:
    found = fleet.registry.get_version(ADMIN, "churn", "1.2.7")
    with fleet.database.begin() as connection:
        registry_store.hold(connection, found.id, "endpoint/churn")
    fleet.registry.set_alias(ADMIN, "churn", "candidate", "1.2.7")
    uses = fleet.registry.users_of(ADMIN, "churn", "1.2.7")
    assert {(one.kind, one.name) for one in uses} == {
        ("endpoint", "churn"),
        ("alias", "candidate"),
    }
    deprecated = fleet.registry.set_lifecycle(SCIENTIST, "churn", "1.2.7", "deprecated", "use 2.0")
    assert (deprecated.lifecycle, deprecated.lifecycle_reason) == ("deprecated", "use 2.0")
    assert fleet.registry.get_version(ADMIN, "churn", "1.2").version == "1.2.7"
    with pytest.raises(Referenced):
        fleet.registry.set_lifecycle(ADMIN, "churn", "1.2.7", "retired")
    with fleet.database.begin() as connection:
        registry_store.let_go(connection, found.id, "endpoint/churn")
    fleet.registry.set_lifecycle(ADMIN, "churn", "1.2.7", "retired", "gone")
    assert fleet.registry.get_version(ADMIN, "churn", "1.2").version == "1.2.0"
    with pytest.raises(Conflict):
        fleet.registry.promote(ADMIN, "churn", "1.2.7", "dev")
    with pytest.raises(InvalidInput):
        fleet.registry.set_lifecycle(ADMIN, "churn", "1.2.7", "dead")


def test_tags_and_descriptions(fleet: Fleet, churn: Registrar) -> None:
    registry = fleet.registry
    registry.set_version_tag(ADMIN, "churn", "1", "k", "v")
    registry.set_version_tag(ADMIN, "churn", "1", "k", "w")
    registry.describe_version(ADMIN, "churn", "1", "the first")
    found = registry.get_version(ADMIN, "churn", "1")
    assert (dict(found.tags), found.description) == ({"k": "w"}, "the first")
    registry.delete_version_tag(ADMIN, "churn", "1", "k")
    assert registry.get_version(ADMIN, "churn", "1").tags == {}
    registry.set_model_tag(ADMIN, "churn", "a", "b")
    registry.delete_model_tag(ADMIN, "churn", "team")
    assert registry.get_model(ADMIN, "churn").tags["a"] == "b"


def test_a_rename_keeps_versions_and_their_lineage(fleet: Fleet, churn: Registrar) -> None:
    run = fleet.registry.get_version(ADMIN, "churn", "1.0.0").run_id
    fleet.registry.rename_model(ADMIN, "churn", "leavers")
    found = fleet.registry.get_version(ADMIN, "leavers", "1.0.0")
    assert found.run_id == run
    edges = fleet.lineage.upstream(Node("version", "leavers@1.0.0"))
    assert [edge.source.name for edge in edges if edge.source.kind == "run"] == [run]
    with pytest.raises(NotFound):
        fleet.registry.get_model(ADMIN, "churn")
    churn.model("other")
    with pytest.raises(Conflict):
        fleet.registry.rename_model(ADMIN, "leavers", "other")


def test_a_transfer_needs_rights_in_both_teams(fleet: Fleet, churn: Registrar) -> None:
    with pytest.raises(NotAllowed):
        fleet.registry.transfer_model(SCIENTIST, "churn", "risk")
    grants = (Grant(Role.DATA_SCIENTIST, "growth"), Grant(Role.DATA_SCIENTIST, "risk"))
    both = Principal("bo-id", "bo", grants)
    assert fleet.registry.transfer_model(both, "churn", "risk").owner_team == "risk"
    with pytest.raises(NotAllowed):
        fleet.registry.describe_version(SCIENTIST, "churn", "1.0.0", "mine")


def test_deleting_a_model_with_its_versions(fleet: Fleet, churn: Registrar) -> None:
    with pytest.raises(Referenced):
        fleet.registry.delete_model(ADMIN, "churn")
    found = fleet.registry.get_version(ADMIN, "churn", "1.2.7")
    with fleet.database.begin() as connection:
        registry_store.hold(connection, found.id, "endpoint/churn")
    with pytest.raises(Referenced):
        fleet.registry.delete_model(ADMIN, "churn", versions=True)
    with fleet.database.begin() as connection:
        registry_store.let_go(connection, found.id, "endpoint/churn")
    fleet.registry.delete_model(ADMIN, "churn", versions=True)
    assert fleet.registry.list_models(ADMIN) == []


def test_namespaces_know_nothing_of_each_other(fleet: Fleet, churn: Registrar) -> None:
    with pytest.raises(NotFound):
        fleet.registry.within("lab")
    lab = fleet.registry.within("lab", create=True)
    assert lab.list_models(ADMIN) == []
    lab.create_model(ADMIN, "churn", owner_team="growth")
    assert lab.list_versions(ADMIN) == []
    run = fleet.registry.get_version(ADMIN, "churn", "1.0.0").run_id
    with pytest.raises(NotFound):
        lab.get_run(ADMIN, run or "")
    assert fleet.registry.within("lab").get_model(ADMIN, "churn").versions == 0
    assert fleet.registry.get_model(ADMIN, "churn").versions == 5
    assert [one.name for one in lab.list_stages()] == ["dev", "staging", "prod", "archived"]
    assert audit.events(fleet.database)[0].resource == "lab/churn"
    for name in ("", "a/b", "..", "x" * 70):
        with pytest.raises(InvalidInput):
            fleet.registry.within(name, create=True)
