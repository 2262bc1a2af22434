"""Rollouts over a real database, with the gateway and the collector played by the test.

Faults are played, too: the process dies between any two calls, acknowledgements are late, ticks
come late or twice. What must hold: a version gets all traffic only on proof, harm always leads
back, every tick counts once, and every history ends.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from modelfleet.core.authorization import SYSTEM, Grant, Principal, Role
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, NotAllowed, Referenced
from modelfleet.core.jobs import LocalJobRunner
from modelfleet.core.layout import Layout
from modelfleet.identity.approvals import Approvals
from modelfleet.registry import BundleStore, Entry, Environment, NewVersion, RegistryService
from modelfleet.rollouts.freezes import FreezeService
from modelfleet.rollouts.judge import Arm, Tick
from modelfleet.rollouts.plan import Spec, Strategy
from modelfleet.rollouts.service import RolloutService
from modelfleet.serving.endpoints import FULL, EndpointService
from modelfleet.telemetry.latency import BUCKETS

INFO = (
    b'{"format":1,"runtime":"sklearn","artifact":"m","signature":{"inputs":[{"name":"x",'
    b'"datatype":"FP64","shape":[-1,2]}],"outputs":[{"name":"y","datatype":"FP64","shape":[-1]}]}}'
)
FAST = Spec(weights=(5000,), step_seconds=0, bake_seconds=0)


@dataclass
class Ticks:
    """A collector that the test fills."""

    closed: list[Tick] = field(default_factory=list)
    before: tuple[int, ...] = ()

    def tick_at(self, moment_us: int) -> int:
        return 0

    def latency(self, version: int, before_us: int) -> tuple[int, ...]:
        return self.before

    def closed_tick(self) -> int:
        return max((one.number for one in self.closed), default=0)

    def ticks(self, stable: int, canary: int, after: int) -> Sequence[Tick]:
        return [tick for tick in self.closed if tick.number > after]


class World:
    """One model with two ready versions, the first of which serves."""

    def __init__(self, folder: Path, place: Path | sa.URL) -> None:
        self.database = Database(place)
        blobs = FolderBlobStore(folder / "blobs")
        bundles = BundleStore(Layout(folder), blobs)
        self.registry = RegistryService(self.database, bundles, LocalJobRunner(self.database, {}))
        self.endpoints = EndpointService(self.database, 1000)
        self.freezes = FreezeService(self.database, self.endpoints)
        self.approvals = Approvals(self.database)
        self.ticks = Ticks()
        self.service = self.reborn()
        self.registry.create_model(SYSTEM, "m", owner_team="growth")
        for number in ("1.0.0", "1.1.0"):
            parts = {"bundle.json": INFO, "m": number.encode()}
            entries = tuple(
                Entry(path, *blobs.put([content])) for path, content in sorted(parts.items())
            )
            new = NewVersion(entries, ("numpy==2.4.6",), "3.11", version=number)
            made = self.registry.register(SYSTEM, "m", new)
            environment = Environment("e" * 64, "3.11", "linux", "numpy==2.4.6")
            self.registry.mark_ready(SYSTEM, made, environment, [], "source")
        self.start("1.0.0", Spec(strategy=Strategy.IMMEDIATE))
        self.settle()

    def reborn(self) -> RolloutService:
        """The service of a new process: nothing but the database is left."""
        return RolloutService(self.database, self.registry, self.endpoints, self.ticks)

    def start(self, version: str, spec: Spec, actor: Principal = SYSTEM) -> str:
        return self.service.start(actor, "m", "m", version, spec).id

    def acknowledge(self) -> None:
        self.endpoints.mark_applied({one.id: one.revision for one in self.endpoints.all()})

    def advance(self) -> None:
        self.service.advance({})

    def settle(self, rounds: int = 8) -> None:
        for _ in range(rounds):
            self.advance()
            self.acknowledge()

    def state(self, rollout: str) -> str:
        return self.service.get(SYSTEM, rollout).rollout.state

    def serving(self) -> dict[str, int]:
        """Weight by semantic version."""
        (endpoint,) = self.endpoints.all()
        versions = self.registry.versions_by_id([r.version_id for r in endpoint.routes])
        return {versions[r.version_id].version: r.weight for r in endpoint.routes}


def arm(requests: int, errors: int, peak: int) -> Arm:
    latency, scores = [0] * BUCKETS, [0] * 22
    answered = requests - errors
    latency[75], latency[80] = answered // 16, answered // 25
    latency[70] = answered - latency[75] - latency[80]
    scores[peak] = requests - errors
    return Arm(requests, errors, tuple(latency), tuple(scores))


def good(number: int) -> Tick:
    return Tick(number, arm(200, 0, 5), arm(200, 0, 5))


def failing(number: int) -> Tick:
    return Tick(number, arm(200, 0, 5), arm(200, 30, 5))


def shifted(number: int) -> Tick:
    return Tick(number, arm(200, 0, 5), arm(200, 0, 15))


@pytest.fixture
def world(tmp_path: Path, database_place: Path | sa.URL) -> Iterator[World]:
    made = World(tmp_path, database_place)
    yield made
    made.database.close()


def test_proof_promotes(world: World) -> None:
    rollout = world.start("1.1.0", FAST)
    world.settle(3)
    assert world.serving() == {"1.0.0": 5000, "1.1.0": 5000}
    world.ticks.closed = [good(2 * k) for k in range(1, 60)]
    world.settle()
    assert world.state(rollout) == "succeeded"
    assert world.serving() == {"1.1.0": FULL}


@pytest.mark.parametrize("harm", [failing, shifted])
def test_harm_rolls_back(world: World, harm: object) -> None:
    rollout = world.start("1.1.0", FAST)
    world.settle(3)
    world.ticks.closed = [harm(2 * k) for k in range(1, 60)]  # type: ignore[operator]
    world.settle()
    assert world.state(rollout) == "rolled_back"
    assert world.serving() == {"1.0.0": FULL}
    assert "Worse in" in world.service.get(SYSTEM, rollout).rollout.sentence


def test_nothing_moves_without_evidence(world: World) -> None:
    rollout = world.start("1.1.0", FAST)
    world.settle(20)
    assert world.state(rollout) == "stepping"


def test_each_tick_counts_once_whoever_reads_it(world: World) -> None:
    rollout = world.start("1.1.0", FAST)
    world.settle(3)
    world.ticks.closed = [good(2 * k) for k in range(1, 4)]
    for _ in range(5):
        world.service = world.reborn()
        world.advance()
    evidence = world.service.get(SYSTEM, rollout).evidence
    assert [one.tick for one in evidence] == [2, 4, 6]
    assert evidence[-1].verdict.samples_canary == 600


def test_pause_resume_abort(world: World) -> None:
    rollout = world.start("1.1.0", FAST)
    world.settle(3)
    world.service.pause(SYSTEM, rollout)
    world.ticks.closed = [good(2 * k) for k in range(1, 60)]
    world.settle()
    assert world.state(rollout) == "paused"
    world.service.abort(SYSTEM, rollout)
    world.settle()
    assert world.state(rollout) == "rolled_back"
    assert world.serving() == {"1.0.0": FULL}
    with pytest.raises(Conflict):
        world.service.resume(SYSTEM, rollout)


def test_a_shadow_never_gets_live_traffic(world: World) -> None:
    spec = Spec(strategy=Strategy.SHADOW, step_seconds=0)
    rollout = world.start("1.1.0", spec)
    world.settle(3)
    assert world.serving() == {"1.0.0": FULL, "1.1.0": 0}
    pairs = [
        Tick(2 * k, arm(200, 0, 5), arm(200, 0, 5), pairs=200, disagreements=2)
        for k in range(1, 60)
    ]
    world.ticks.closed = pairs
    world.settle()
    assert world.state(rollout) == "succeeded"
    assert world.serving() == {"1.0.0": FULL}


def test_a_second_rollout_is_refused_and_a_used_version_stays(world: World) -> None:
    world.start("1.1.0", FAST)
    with pytest.raises(Conflict):
        world.start("1.1.0", FAST)
    for number in ("1.0.0", "1.1.0"):
        with pytest.raises(Referenced):
            world.registry.delete_version(SYSTEM, "m", number)


def test_a_first_deployment_that_fails_leaves_nothing_behind(world: World) -> None:
    world.endpoints.delete(SYSTEM, "m")
    rollout = world.start("1.1.0", FAST)
    world.advance()
    (row,) = world.service.active()
    versions = world.registry.versions_by_id([row.to_version_id])
    index = versions[row.to_version_id].index
    world.service.advance({index: "no such file"})
    world.settle()
    assert world.state(rollout) == "rolled_back"
    assert world.serving() == {}


def test_roles_decide(world: World) -> None:
    viewer = Principal("v", "vera", (Grant(Role.VIEWER),))
    other = Principal("d", "dan", (Grant(Role.DEPLOYER, "risk"),))
    for actor in (viewer, other):
        with pytest.raises(NotAllowed):
            world.start("1.1.0", FAST, actor)
    rollout = world.start("1.1.0", FAST, Principal("d", "dora", (Grant(Role.DEPLOYER, "growth"),)))
    with pytest.raises(NotAllowed):
        world.service.abort(viewer, rollout)


@pytest.mark.parametrize("seed", range(25))
def test_faulty_histories_end_as_they_should(world: World, seed: int) -> None:
    """Random faults between any two moves; good, failing or shifted canaries."""
    dice = random.Random(seed)
    kind = dice.choice([good, failing, shifted])
    rollout = world.start("1.1.0", FAST)
    number = 0
    for _ in range(600):
        before = world.state(rollout)
        if before in ("succeeded", "rolled_back"):
            break
        match dice.randrange(4):
            case 0:
                world.service = world.reborn()
            case 1:
                world.acknowledge()
            case 2:
                number += dice.choice([1, 2, 2, 2])
                world.ticks.closed.append(kind(number))
                if dice.random() < 0.2:
                    world.ticks.closed.append(world.ticks.closed[0])
            case _:
                world.advance()
        weights = world.serving()
        assert sum(weights.values()) == FULL
        if weights.get("1.1.0") == FULL:
            assert kind is good
    expected = "succeeded" if kind is good else "rolled_back"
    assert world.state(rollout) == expected
    ticks = [one.tick for one in world.service.get(SYSTEM, rollout, 10_000).evidence]
    assert ticks == sorted(set(ticks))
    world.acknowledge()
    assert world.serving() == {("1.1.0" if kind is good else "1.0.0"): FULL}
