"""The loop over a real registry and database, with Envoy and workers played by the test."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
import sqlalchemy as sa

from modelfleet.core.authorization import SYSTEM
from modelfleet.core.errors import Unavailable
from modelfleet.reconcile import Reconciler
from modelfleet.reconcile.traffic import Serving, TrafficController
from modelfleet.registry import BundleStore, Version
from modelfleet.rollouts.advance import Advancer
from modelfleet.rollouts.moving import Mover
from modelfleet.rollouts.plan import Spec, Strategy
from modelfleet.serving.endpoints import FULL
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.gateway import GatewayConfig, GatewayFiles
from modelfleet.serving.pipelines.publisher import Publisher
from modelfleet.serving.pools import read_pools
from modelfleet.serving.quarantine import quarantine
from modelfleet.serving.tuning import Choice
from modelfleet.wiring import Fleet
from modelfleet_worker.wire.control import ControlBlock, State
from people import ADMIN
from registrar import Registrar

if TYPE_CHECKING:
    from pathlib import Path


NOW = Spec(strategy=Strategy.IMMEDIATE)


@dataclass
class Envoy:
    """Takes what is written, unless it is down or refuses."""

    running: int = 0
    config: GatewayConfig = field(default_factory=lambda: GatewayConfig(0))
    up: bool = True
    writes: int = 0
    broken: bool = False

    def write(self, config: GatewayConfig) -> None:
        self.writes += 1
        if self.broken:
            raise Unavailable("refused")
        if self.up:
            self.config, self.running = config, config.revision

    def acknowledged(self) -> int:
        return self.running if self.up else 0

    def tidy(self) -> bool:
        return True

    def take_over(self) -> None:
        pass


class Machine:
    """A fleet with its reconciler, an Envoy and workers."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.envoy = Envoy()
        self.blocks: dict[Path, ControlBlock] = {}
        self.failing: set[int] = set()
        self.reconciler = self.reborn()

    def reborn(self) -> Reconciler:
        """The control plane of a new process."""
        fleet = self.fleet
        serving = Serving(
            fleet.registry,
            BundleStore(fleet.layout, fleet.blobs),
            fleet.endpoints,
            fleet.identity,
            EnvironmentBuilder(fleet.layout),
            cast(GatewayFiles, self.envoy),
            fleet.quarantine,
            fleet.layout.home / "python",
            Publisher(fleet.layout, fleet.database, fleet.registry),
            fleet.tuning,
        )
        self.reconciler = Reconciler(
            fleet.layout,
            fleet.registry,
            fleet.endpoints,
            fleet.rollouts,
            TrafficController(fleet.settings, serving),
            [],
            0.01,
        )
        return self.reconciler

    def workers(self) -> None:
        """Every worker does what its file says."""
        layout = self.fleet.layout
        for pool, spec in read_pools(layout).items():
            for replica in range(spec.replicas):
                path = layout.control_block(pool, replica)
                if path not in self.blocks:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self.blocks[path] = ControlBlock.create(path)
                    self.blocks[path].begin(1)
                    self.blocks[path].set_state(State.READY)
                failed = [v.index for v in spec.versions if v.index in self.failing]
                self.blocks[path].heartbeat()
                self.blocks[path].acknowledge(spec.revision, failed)

    def settle(self, rounds: int = 6) -> None:
        for _ in range(rounds):
            self.reconciler.round()
            self.workers()

    def deploy(self, version: Version, spec: Spec = NOW) -> str:
        return self.fleet.rollouts.start(SYSTEM, "churn", "churn", str(version.sequence), spec).id

    def state(self, rollout: str) -> str:
        return self.fleet.rollouts.get(SYSTEM, rollout).rollout.state

    def served(self) -> Mapping[int, tuple[str, int]]:
        """By version index: pool and weight that Envoy runs."""
        return {
            t.version_index: (t.pool, t.weight)
            for one in self.envoy.config.endpoints
            for t in one.targets
        }


@pytest.fixture
def machine(fleet: Fleet, registrar: Registrar) -> Iterator[Machine]:
    registrar.model()
    made = Machine(fleet)
    yield made
    for block in made.blocks.values():
        block.close()


def test_a_first_version_is_served_when_its_workers_have_it(
    machine: Machine, registrar: Registrar
) -> None:
    version = registrar.ready()
    rollout = machine.deploy(version)
    machine.reconciler.round()
    machine.reconciler.round()
    assert machine.served() == {}
    assert machine.state(rollout) == "baking"
    machine.workers()
    machine.settle()
    assert machine.state(rollout) == "succeeded"
    assert machine.served() == {version.index: ("onnx", FULL)}


@pytest.mark.parametrize(
    ("speed", "light"),
    [
        ({"compiled_1_us": 5.0, "compiled_64_us": 40.0}, True),
        ({"compiled_1_us": 20.5, "compiled_64_us": 40.0}, False),
        ({"compiled_1_us": 5.0, "compiled_64_us": 900.0}, False),
        ({}, False),
    ],
)
def test_a_model_is_light_by_the_evidence_of_its_conversion(
    machine: Machine,
    registrar: Registrar,
    monkeypatch: pytest.MonkeyPatch,
    speed: dict[str, float],
    light: bool,
) -> None:
    measured = {"source_1_us": 300.0, "source_64_us": 900.0, **speed}
    version = registrar.ready(evidence={"converted": True, "speed": measured})
    machine.deploy(version)
    machine.settle()
    assert [t.light for one in machine.envoy.config.endpoints for t in one.targets] == [light]
    # Whoever tunes it to a lane says that its calls are long.
    lane = {version.id: Choice(64, inline=False)}
    monkeypatch.setattr(machine.fleet.tuning, "applied", lambda: lane)
    machine.settle()
    assert [t.light for one in machine.envoy.config.endpoints for t in one.targets] == [False]


def test_a_variant_that_was_made_otherwise_is_not_light(
    machine: Machine, registrar: Registrar
) -> None:
    machine.deploy(registrar.ready(evidence={"converted": "by hand"}))
    machine.settle()
    assert [t.light for one in machine.envoy.config.endpoints for t in one.targets] == [False]


def test_rounds_without_news_change_nothing(machine: Machine, registrar: Registrar) -> None:
    machine.deploy(registrar.ready())
    machine.settle()
    writes, revision = machine.envoy.writes, machine.envoy.running
    files = {p: p.stat().st_mtime_ns for p in machine.fleet.layout.desired.iterdir()}
    machine.settle()
    assert (machine.envoy.writes, machine.envoy.running) == (writes, revision)
    assert {p: p.stat().st_mtime_ns for p in machine.fleet.layout.desired.iterdir()} == files


def test_a_control_plane_that_takes_over_knows_what_the_other_one_did(
    machine: Machine, registrar: Registrar
) -> None:
    first = machine.reconciler
    machine.deploy(registrar.ready())
    machine.settle()
    other = machine.reborn()  # it is there, and knows of that
    machine.settle()
    machine.reconciler = first
    for _ in range(3):
        version = registrar.ready()
        machine.deploy(version)
        machine.settle()
    revision, writes = machine.envoy.running, machine.envoy.writes
    served = machine.served()
    assert set(served) == {version.index}
    other._take_over("other")
    machine.reconciler = other
    newest = registrar.ready()
    for _ in range(3):
        other.round()
        assert machine.served() == served
        assert (machine.envoy.running, machine.envoy.writes) == (revision, writes)
    machine.deploy(newest)
    machine.settle()
    assert set(machine.served()) == {newest.index}
    assert machine.envoy.running > revision


def test_a_new_process_goes_on_where_the_old_one_died(
    machine: Machine, registrar: Registrar
) -> None:
    version = registrar.ready()
    rollout = machine.deploy(version)
    for _ in range(12):
        machine.reborn().round()
        machine.workers()
    assert machine.state(rollout) == "succeeded"
    revision = machine.envoy.running
    machine.reborn().round()
    assert machine.envoy.running == revision
    assert machine.served() == {version.index: ("onnx", FULL)}


def test_blue_green_moves_traffic_after_the_new_one_is_resident(
    machine: Machine, registrar: Registrar
) -> None:
    one = registrar.ready()
    machine.deploy(one)
    machine.settle()
    two = registrar.ready()
    machine.deploy(two, Spec(strategy=Strategy.BLUE_GREEN, bake_seconds=3600))
    for _ in range(3):
        machine.reconciler.round()
    assert machine.served() == {one.index: ("onnx", FULL)}
    machine.settle()
    assert machine.served() == {two.index: ("onnx", FULL)}
    pools = read_pools(machine.fleet.layout)
    assert {v.index for v in pools["onnx"].versions} == {one.index, two.index}  # warm in the bake


def test_a_canary_runs_in_a_pool_of_its_own_and_is_watched(
    machine: Machine, registrar: Registrar
) -> None:
    one = registrar.ready()
    machine.deploy(one)
    machine.settle()
    two = registrar.ready()
    rollout = machine.deploy(two, Spec(weights=(2500,)))
    machine.settle()
    assert machine.served() == {
        one.index: ("onnx", 7500),
        two.index: ("onnx-canary", 2500),
    }
    watch = json.loads(machine.fleet.layout.watch.read_bytes())
    assert watch["versions"] == [one.index, two.index]
    assert watch["edges"] == {str(two.index): one.index}
    machine.fleet.rollouts.abort(SYSTEM, rollout)
    machine.settle()
    assert machine.state(rollout) == "rolled_back"
    assert machine.served() == {one.index: ("onnx", FULL)}
    assert set(read_pools(machine.fleet.layout)) == {"onnx"}
    assert json.loads(machine.fleet.layout.watch.read_bytes())["versions"] == []


def test_models_that_do_not_share_have_workers_of_their_own(
    machine: Machine, registrar: Registrar
) -> None:
    one = registrar.ready()
    machine.deploy(one)
    machine.settle()
    registry = machine.fleet.registry
    registry.update_model(ADMIN, one.model, isolation="team", criticality="critical")
    machine.settle()
    (team,) = machine.served().values()
    registry.update_model(ADMIN, one.model, isolation="model")
    machine.settle()
    (alone,) = machine.served().values()
    assert len({"onnx", team[0], alone[0]}) == 3
    (pool,) = read_pools(machine.fleet.layout).values()
    assert (pool.pool, pool.versions[0].pinned) == (alone[0], True)


def test_a_quarantined_version_is_told_to_the_workers(
    machine: Machine, registrar: Registrar
) -> None:
    one = registrar.ready()
    machine.deploy(one)
    machine.settle()
    with machine.fleet.database.begin() as connection:
        connection.execute(
            sa.insert(quarantine).values(version_index=one.index, reason="it crashes", since=1)
        )
    machine.settle()
    (pool,) = read_pools(machine.fleet.layout).values()
    assert pool.versions[0].quarantined == "it crashes"


def test_a_version_that_no_worker_can_load_is_rolled_back(
    machine: Machine, registrar: Registrar
) -> None:
    one = registrar.ready()
    machine.deploy(one)
    machine.settle()
    two = registrar.ready()
    machine.failing.add(two.index)
    rollout = machine.deploy(two, Spec(weights=(2500,)))
    machine.settle()
    assert machine.state(rollout) == "rolled_back"
    assert "can't load" in machine.fleet.rollouts.get(SYSTEM, rollout).rollout.sentence
    assert machine.served() == {one.index: ("onnx", FULL)}


def test_a_pending_version_waits_and_a_failed_one_ends_it(
    machine: Machine, registrar: Registrar
) -> None:
    pending = registrar.version()
    rollout = machine.deploy(pending)
    machine.settle()
    assert machine.state(rollout) == "pending"
    machine.fleet.registry.mark_failed(SYSTEM, pending, "does not load")
    machine.settle()
    assert machine.state(rollout) == "rolled_back"
    assert machine.served() == {}


def test_while_envoy_is_away_nothing_it_may_run_is_taken_down(
    machine: Machine, registrar: Registrar
) -> None:
    one = registrar.ready()
    machine.deploy(one)
    machine.settle()
    machine.envoy.up = False
    machine.deploy(registrar.ready())
    machine.settle()
    machine.settle()
    pools = read_pools(machine.fleet.layout)
    assert one.index in {v.index for v in pools["onnx"].versions}
    machine.envoy.up = True
    machine.settle()
    assert one.index not in machine.served()
    assert len(read_pools(machine.fleet.layout)["onnx"].versions) == 1


def test_a_refused_configuration_stops_nobody_else(machine: Machine, registrar: Registrar) -> None:
    machine.envoy.broken = True
    rollout = machine.deploy(registrar.ready())
    machine.settle()
    assert machine.state(rollout) == "baking"
    machine.envoy.broken = False
    machine.settle()
    assert machine.state(rollout) == "succeeded"


def test_a_deleted_endpoint_ends_its_rollout(machine: Machine, registrar: Registrar) -> None:
    machine.deploy(registrar.ready())
    machine.settle()
    two = registrar.ready()
    rollout = machine.deploy(two, Spec(weights=(2500,)))
    machine.settle()
    machine.fleet.endpoints.delete(ADMIN, "churn")
    machine.settle()
    assert machine.state(rollout) == "rolled_back"
    assert machine.served() == {}
    machine.fleet.registry.delete_version(ADMIN, "churn", str(two.sequence))


def test_a_revoked_key_reaches_the_gateway(machine: Machine, registrar: Registrar) -> None:
    identity = machine.fleet.identity
    identity.create_principal(ADMIN, "bob", "person")
    _, info = identity.create_key(ADMIN, "bob", seconds=60)
    identity.revoke_key(ADMIN, info.id)
    machine.settle()
    assert machine.envoy.config.revoked == (info.id,)


@pytest.mark.parametrize("part", ["_consider", "make"])
def test_trouble_with_one_rollout_is_not_the_others(
    machine: Machine, registrar: Registrar, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    registrar.model("fraud")
    fraud = registrar.ready("fraud")
    bad = machine.deploy(registrar.ready())
    good = machine.fleet.rollouts.start(SYSTEM, "fraud", "fraud", "1", NOW).id
    real = getattr(Mover, part) if part == "make" else getattr(Advancer, part)

    def odd(self: object, *rest: object, **named: object) -> object:
        if any(getattr(one, "id", "") == bad for one in rest):
            raise RuntimeError("odd row")
        return real(self, *rest, **named)

    monkeypatch.setattr(Mover if part == "make" else Advancer, part, odd)
    machine.settle()
    assert machine.state(good) == "succeeded"
    assert machine.served() == {fraud.index: ("onnx", FULL)}


def test_a_version_without_a_place_is_not_the_others_trouble(
    machine: Machine, registrar: Registrar, monkeypatch: pytest.MonkeyPatch
) -> None:
    registrar.model("fraud")
    bad, good = registrar.ready(), registrar.ready("fraud")
    machine.deploy(bad)
    rollout = machine.fleet.rollouts.start(SYSTEM, "fraud", "fraud", "1", NOW).id
    registry = type(machine.fleet.registry)
    real = registry.serving_variant

    def serving_variant(self: object, version: Version) -> object:
        if version.id == bad.id:
            raise Unavailable("no index today")
        return real(self, version)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "serving_variant", serving_variant)
    machine.settle()
    assert machine.state(rollout) == "succeeded"
    assert good.index in machine.served()


def test_the_thread_survives_what_its_parts_throw(machine: Machine, registrar: Registrar) -> None:
    calls = []

    def fail() -> None:
        calls.append("fail")
        raise RuntimeError("monitor")

    machine.reconciler._others = [fail, lambda: calls.append("other")]
    rollout = machine.deploy(registrar.ready())
    machine.reconciler.start()
    end = time.monotonic() + 20
    while machine.state(rollout) != "succeeded" and time.monotonic() < end:
        machine.workers()
        time.sleep(0.02)
    machine.reconciler.stop()
    assert machine.state(rollout) == "succeeded"
    assert {"fail", "other"} <= set(calls)
    assert machine.reconciler.last_round > 0


def test_a_change_does_not_wait_for_the_next_round(machine: Machine, registrar: Registrar) -> None:
    machine.reconciler._interval = 3600.0
    machine.reconciler.start()
    try:
        _until(lambda: machine.reconciler.last_round > 0)
        rollout = machine.deploy(registrar.ready())
        before = machine.reconciler.last_round
        time.sleep(0.2)
        assert machine.reconciler.last_round == before
        for _ in range(5):
            before = machine.reconciler.last_round
            machine.workers()
            machine.reconciler.wake()
            _until(lambda: machine.reconciler.last_round > before)  # noqa: B023
        assert machine.state(rollout) == "succeeded"
    finally:
        began = time.monotonic()
        machine.reconciler.stop()
    assert time.monotonic() - began < 60


def _until(so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not so():
        assert time.monotonic() < end
        time.sleep(0.01)
