"""Verbs of pipelines over the real registry, and what reaches executors and gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from modelfleet.core import audit
from modelfleet.core.authorization import Role
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, NotFound, Referenced
from modelfleet.core.keys import SigningKey
from modelfleet.lineage import Node
from modelfleet.registry import Version
from modelfleet.registry import store as registry_store
from modelfleet.serving.endpoints import FULL, Route
from modelfleet.serving.gateway import GatewayConfig
from modelfleet.serving.pipelines.plan import POOL, load
from modelfleet.serving.pipelines.publisher import PlatformKey, Publisher
from modelfleet.telemetry.database import open_writer
from modelfleet.telemetry.layouts import Versions
from modelfleet.wiring import Fleet
from modelfleet_worker.wire.control import ControlBlock, State
from people import ADMIN, NOBODY, principal
from registrar import Registrar

Document = dict[str, Any]


def document(**more: object) -> Document:
    return {
        "name": "scoring",
        "team": "growth",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}],
        "steps": [{"name": "a", "model": "churn", "inputs": {"x": "input.x"}, **more}],
        "outputs": {"score": "a.prediction"},
    }


def serve(fleet: Fleet, version: Version) -> None:
    with fleet.database.begin() as connection:
        place = fleet.endpoints.find(connection, "churn")
        fleet.endpoints.set_routes(
            connection, place.id, [Route(version.id, FULL)], stable_version_id=version.id
        )


@pytest.fixture
def versions(fleet: Fleet, registrar: Registrar) -> list[Version]:
    """Two of `churn`; the first serves."""
    registrar.model()
    fleet.endpoints.create(ADMIN, "churn", "churn")
    found = [registrar.ready() for _ in range(2)]
    serve(fleet, found[0])
    return found


def test_a_definition_becomes_a_revision_and_the_same_again_does_not(
    fleet: Fleet, versions: list[Version]
) -> None:
    made = fleet.pipelines.define(ADMIN, document())
    assert (made.revision, made.applied_revision, made.created_by) == (1, 0, "ada")
    assert fleet.pipelines.define(ADMIN, document()) == made
    changed = fleet.pipelines.define(ADMIN, document(timeout_ms=100))
    assert changed.revision == 2
    assert changed.index != made.index
    assert [one.name for one in fleet.pipelines.list(ADMIN)] == ["scoring"]
    told = [e.details for e in audit.events(fleet.database) if e.action == "define-pipeline"]
    assert [one["revision"] for one in told] == [2, 1]
    assert told[0]["steps"] == {"a": "churn"}


def test_signatures_are_those_of_the_version_that_serves(
    fleet: Fleet, versions: list[Version], registrar: Registrar
) -> None:
    with pytest.raises(InvalidInput, match="Step a: there is no endpoint nothing"):
        fleet.pipelines.define(ADMIN, document(model="nothing"))
    wider = registrar.ready(features=3)
    with pytest.raises(InvalidInput, match=r"Step a, input x: FP64 \[-1, 3\] is wanted"):
        fleet.pipelines.define(ADMIN, document(version=wider.version))
    with pytest.raises(InvalidInput, match="Step a: "):
        fleet.pipelines.define(ADMIN, document(version="9.9.9"))
    serve(fleet, wider)
    with pytest.raises(InvalidInput, match=r"Step a, input x: FP64 \[-1, 3\] is wanted"):
        fleet.pipelines.define(ADMIN, document())
    registrar.model("silent", "growth")
    fleet.endpoints.create(ADMIN, "silent", "silent")
    with pytest.raises(InvalidInput, match="Step a: the endpoint silent serves no version"):
        fleet.pipelines.define(ADMIN, document(model="silent"))
    assert fleet.pipelines.list(ADMIN) == []


def test_a_model_that_changed_is_told(
    fleet: Fleet, versions: list[Version], registrar: Registrar
) -> None:
    fleet.pipelines.define(ADMIN, document())
    assert fleet.pipelines.get(ADMIN, "scoring").problem == ""
    serve(fleet, registrar.ready(features=3))
    assert "Step a, input x: FP64 [-1, 3]" in fleet.pipelines.get(ADMIN, "scoring").problem


def test_who_may(fleet: Fleet, versions: list[Version]) -> None:
    for stranger in (NOBODY, principal(Role.VIEWER), principal(Role.DEPLOYER, "risk")):
        with pytest.raises(NotAllowed):
            fleet.pipelines.define(stranger, document())
    other_team = {**document(), "team": "risk"}
    with pytest.raises(NotAllowed, match="endpoint/churn"):  # whose model it would call
        fleet.pipelines.define(principal(Role.DEPLOYER, "risk"), other_team)
    fleet.pipelines.define(principal(Role.DEPLOYER, "growth"), document())
    with pytest.raises(NotAllowed):
        fleet.pipelines.define(principal(Role.DEPLOYER, "risk"), other_team)
    for verb in (fleet.pipelines.get, fleet.pipelines.plan, fleet.pipelines.statistics):
        with pytest.raises(NotAllowed):
            verb(principal(Role.VIEWER, "risk"), "scoring")
        verb(principal(Role.VIEWER, "growth"), "scoring")
    assert fleet.pipelines.list(principal(Role.VIEWER, "risk")) == []
    with pytest.raises(NotAllowed):
        fleet.pipelines.delete(principal(Role.DEPLOYER, "growth"), "scoring")
    fleet.pipelines.delete(principal(Role.APPROVER, "growth"), "scoring")
    with pytest.raises(NotFound):
        fleet.pipelines.get(ADMIN, "scoring")


def test_names_are_shared_and_what_is_used_stays(fleet: Fleet, versions: list[Version]) -> None:
    with pytest.raises(Conflict, match="already an endpoint churn"):
        fleet.pipelines.define(ADMIN, {**document(), "name": "churn"})
    fleet.pipelines.define(ADMIN, document(version=versions[1].version))
    with pytest.raises(Conflict, match="already a pipeline scoring"):
        fleet.endpoints.create(ADMIN, "scoring", "churn")
    with pytest.raises(Referenced, match="The pipeline scoring calls the endpoint churn"):
        fleet.endpoints.delete(ADMIN, "churn")
    with pytest.raises(Referenced):
        fleet.registry.delete_version(ADMIN, "churn", versions[1].version)
    fleet.pipelines.delete(ADMIN, "scoring")
    with fleet.database.read() as connection:
        assert registry_store.holders(connection, versions[1].id) == []
    assert fleet.lineage.around(Node("pipeline", "scoring")) == []
    fleet.endpoints.delete(ADMIN, "churn")


class Executors:
    """Both, as far as their control blocks say."""

    def __init__(self, fleet: Fleet, stack: ExitStack) -> None:
        self.blocks = [
            stack.enter_context(ControlBlock.create(fleet.layout.control_block(POOL, replica)))
            for replica in range(2)
        ]
        for replica, block in enumerate(self.blocks):
            block.begin(replica + 1)
            block.set_state(State.READY)


@pytest.fixture
def executors(fleet: Fleet) -> Iterator[Executors]:
    with ExitStack() as stack:
        yield Executors(fleet, stack)


@pytest.fixture
def publisher(fleet: Fleet) -> Publisher:
    PlatformKey(fleet.layout.pipelines_key, fleet.identity, SigningKey(fleet.layout)).keep(True)
    return Publisher(fleet.layout, fleet.database, fleet.registry)


def test_it_is_routed_when_every_executor_holds_it(
    fleet: Fleet, versions: list[Version], publisher: Publisher, executors: Executors
) -> None:
    before = GatewayConfig(0)
    assert publisher.round(fleet.endpoints.all(), before).endpoints == ()
    assert not publisher.is_needed
    fleet.pipelines.define(ADMIN, document())
    publisher.round(fleet.endpoints.all(), before)
    published = load(fleet.layout)
    assert [plan.name for plan in published.pipelines] == ["scoring"]
    executors.blocks[0].acknowledge(published.revision)
    assert publisher.round(fleet.endpoints.all(), before).endpoints == ()
    executors.blocks[1].acknowledge(published.revision)
    (routes,) = publisher.round(fleet.endpoints.all(), before).endpoints
    assert (routes.name, routes.targets[0].pool, routes.retries_503) == ("scoring", POOL, False)
    running = GatewayConfig(1, (routes,))
    publisher.mark_applied(running)
    assert fleet.pipelines.get(ADMIN, "scoring").applied_revision == 1
    fleet.pipelines.define(ADMIN, document(timeout_ms=7))  # nobody holds it yet
    assert publisher.round(fleet.endpoints.all(), running).endpoints == (routes,)
    for block in executors.blocks:
        block.acknowledge(published.revision + 1)
    (newer,) = publisher.round(fleet.endpoints.all(), running).endpoints
    assert newer.targets[0].sequence == 2
    fleet.pipelines.delete(ADMIN, "scoring")
    assert publisher.round(fleet.endpoints.all(), running).endpoints == ()
    assert load(fleet.layout).pipelines == ()


def test_another_control_plane_publishes_nothing_new(
    fleet: Fleet, versions: list[Version], publisher: Publisher
) -> None:
    fleet.pipelines.define(ADMIN, document())
    publisher.round(fleet.endpoints.all(), GatewayConfig(0))
    content = fleet.layout.pipelines.read_bytes()
    again = Publisher(fleet.layout, fleet.database, fleet.registry)
    again.round(fleet.endpoints.all(), GatewayConfig(0))
    assert fleet.layout.pipelines.read_bytes() == content
    fleet.layout.pipelines.write_bytes(b"not JSON")
    mended = Publisher(fleet.layout, fleet.database, fleet.registry)
    mended.round(fleet.endpoints.all(), GatewayConfig(0))
    assert [plan.name for plan in load(fleet.layout).pipelines] == ["scoring"]


def test_versions_to_pin_or_to_fall_back_to_are_kept_callable(
    fleet: Fleet, versions: list[Version], publisher: Publisher
) -> None:
    fleet.pipelines.define(ADMIN, document(fallback={"previous": True}))
    assert publisher.round(fleet.endpoints.all(), GatewayConfig(0)).pins == {}
    serve(fleet, versions[1])
    added = publisher.round(fleet.endpoints.all(), GatewayConfig(0))
    assert added.pins == {"churn": (versions[0].id,)}
    (plan,) = load(fleet.layout).pipelines
    assert plan.steps[0].previous == versions[0].version


def test_readers_of_records_learn_the_signature(
    fleet: Fleet, versions: list[Version], publisher: Publisher
) -> None:
    made = fleet.pipelines.define(ADMIN, document())
    publisher.round(fleet.endpoints.all(), GatewayConfig(0))
    connection = open_writer(fleet.layout.evidence_database)
    fleet.layout.desired.mkdir(parents=True, exist_ok=True)
    known = Versions(fleet.layout.desired, connection, fleet.layout.pipeline_layouts)
    known.refresh()
    found = known.get(made.index)
    connection.close()
    assert (found.model, found.version) == ("scoring", "1")
    assert found.signature is not None
    assert [one.name for one in found.signature.outputs] == ["score"]


def test_the_key_is_made_once_and_anew_when_it_was_revoked(fleet: Fleet) -> None:
    path = fleet.layout.pipelines_key
    key = PlatformKey(path, fleet.identity, SigningKey(fleet.layout))
    key.keep(False)
    assert not path.exists()
    key.keep(True)
    first = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey(fleet.layout).verify(first).models == ("*",)
    assert fleet.identity.authenticate(first).name == "pipelines"
    key.keep(True)
    assert path.read_text() == first
    fleet.identity.revoke_key(ADMIN, SigningKey(fleet.layout).verify(first).id)
    key.keep(True)
    assert path.read_text() != first
