"""Pools and routes as pure plans, and both together through random lives of a fleet."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from modelfleet.registry import Version
from modelfleet.serving import pools, routing
from modelfleet.serving.endpoints import FULL, Endpoint, Route
from modelfleet.serving.gateway import EndpointRoutes, GatewayConfig, PoolAddress, Shadow, Target
from modelfleet.serving.pools import Demand, PoolSpec, Residency, VersionSpec


def spec(index: int) -> VersionSpec:
    return VersionSpec(
        index=index, model="m", version=f"1.{index}.0", sequence=index, digest="d", path=f"/{index}"
    )


def demand(index: int, environment: str | None = None, promoted: bool = True) -> Demand:
    python = "own" if environment is None else f"/{environment}/python"
    return Demand(spec(index), environment, python, promoted)


def plan(
    demands: list[Demand],
    held: set[tuple[str, int]] | None = None,
    before: dict[str, PoolSpec] | None = None,
    first: int = 1,
) -> dict[str, PoolSpec]:
    return pools.plan(
        demands, held or set(), before or {}, replicas=2, memory_mb=100, first_revision=first
    )


def members(planned: dict[str, PoolSpec]) -> dict[str, list[int]]:
    return {pool: [v.index for v in one.versions] for pool, one in planned.items()}


def version(index: int) -> Version:
    return cast(
        Version,
        SimpleNamespace(id=f"v{index}", index=index, version=f"1.{index}.0", sequence=index),
    )


def endpoint(name: str, *routes: Route, revision: int = 1) -> Endpoint:
    return Endpoint(name, name, "m", "t", None, None, 1000, revision, 0, routes, "")


# Pools -----------------------------------------------------------------------------------------


def test_one_pool_per_environment_and_one_beside_it_for_canaries() -> None:
    demands = [
        demand(1),
        demand(2, promoted=False),
        demand(3, "e" * 64),
        demand(4, "e" * 64, promoted=False),
        demand(5, "f" * 64),
    ]
    planned = plan(demands)
    assert members(planned) == {
        "onnx": [1],
        "onnx-canary": [2],
        "env-" + "e" * 12: [3],
        "env-" + "e" * 12 + "-canary": [4],
        "env-" + "f" * 12: [5],
    }
    assert planned["onnx"].python == "own"
    assert planned["env-" + "f" * 12].python == "/" + "f" * 64 + "/python"
    assert all(len(pool) <= 40 for pool in planned)


def test_a_pool_changes_its_revision_only_with_its_content() -> None:
    first = plan([demand(2), demand(1)])
    assert first["onnx"].revision == 1
    assert plan([demand(1), demand(2)], before=first) == first
    grown = plan([demand(1), demand(2), demand(3)], before=first)
    assert grown["onnx"].revision == 2
    shrunk = plan([demand(1)], before=grown)
    assert shrunk["onnx"].revision == 3
    more = pools.plan([demand(1)], set(), shrunk, replicas=3, memory_mb=100)
    assert (more["onnx"].revision, more["onnx"].replicas) == (4, 3)


def test_a_version_stays_where_it_is_routed_until_it_is_routed_elsewhere() -> None:
    before = plan([demand(1), demand(2, promoted=False)])
    moving = plan([demand(1), demand(2)], {("onnx", 1), ("onnx-canary", 2)}, before)
    assert members(moving) == {"onnx": [1, 2], "onnx-canary": [2]}
    assert moving["onnx-canary"].revision == before["onnx-canary"].revision
    moved = plan([demand(1), demand(2)], {("onnx", 1), ("onnx", 2)}, moving)
    assert members(moved) == {"onnx": [1, 2]}


def test_what_nobody_wants_stays_while_requests_may_come() -> None:
    before = plan([demand(1), demand(2)])
    assert members(plan([demand(1)], {("onnx", 1), ("onnx", 2)}, before)) == {"onnx": [1, 2]}
    assert members(plan([demand(1)], {("onnx", 1)}, before)) == {"onnx": [1]}
    assert plan([], set(), before) == {}


def test_everything_is_held_until_the_gateway_acknowledged() -> None:
    before = plan([demand(1), demand(2, promoted=False)])
    config = GatewayConfig(
        3,
        (EndpointRoutes("m", (Target(1, "1.1.0", 1, "onnx", FULL),), (Shadow(2, "onnx", 5),)),),
    )
    assert routing.held(config, True, before) == {("onnx", 1), ("onnx", 2)}
    assert routing.held(config, False, before) == {("onnx", 1), ("onnx-canary", 2)}


def test_a_pool_made_anew_is_not_taken_for_the_old_one() -> None:
    old = plan([demand(1)], first=100)
    changed = plan([demand(1), demand(2)], before=old, first=200)
    assert (old["onnx"].revision, changed["onnx"].revision) == (100, 101)
    gone = plan([], before=changed)
    assert plan([demand(3)], before=gone, first=300)["onnx"].revision == 300


# Routes ----------------------------------------------------------------------------------------

SOCKETS = {"onnx": ("/s/onnx-0", "/s/onnx-1"), "onnx-canary": ("/s/canary-0",)}


def route(
    places: list[Endpoint],
    ready: set[tuple[str, int]],
    before: GatewayConfig | None = None,
    homes: dict[int, str] | None = None,
    revoked: tuple[str, ...] = (),
) -> routing.Plan:
    versions = {f"v{k}": version(k) for k in range(1, 9)}
    return routing.plan(
        places,
        versions,
        homes or {1: "onnx", 2: "onnx-canary"},
        Residency(frozenset(ready), {}),
        SOCKETS,
        revoked,
        before or GatewayConfig(0),
    )


def test_routes_are_written_when_all_their_versions_are_resident() -> None:
    place = endpoint("m", Route("v1", 9000), Route("v2", 1000, 500), revision=4)
    early = route([place], {("onnx", 1)})
    assert early.config == GatewayConfig(0)
    assert early.applied == {}
    made = route([place], {("onnx", 1), ("onnx-canary", 2)})
    assert made.applied == {"m": 4}
    assert made.config.revision == 1
    assert made.config.endpoints == (
        EndpointRoutes(
            "m",
            (Target(1, "1.1.0", 1, "onnx", 9000), Target(2, "1.2.0", 2, "onnx-canary", 1000)),
            (Shadow(2, "onnx-canary", 500),),
            timeout_ms=1000,
        ),
    )
    assert made.config.pools == tuple(PoolAddress(p, SOCKETS[p]) for p in ("onnx", "onnx-canary"))


def test_until_then_the_routes_before_stay() -> None:
    first = route([endpoint("m", Route("v1", FULL))], {("onnx", 1)})
    place = endpoint("m", Route("v1", 5000), Route("v2", 5000), revision=2)
    waiting = route([place], {("onnx", 1)}, first.config)
    assert waiting.config == first.config
    assert waiting.applied == {}
    elsewhere = route([place], {("onnx", 1), ("onnx", 2)}, first.config)
    assert elsewhere.config == first.config  # resident, but not where it should be


def test_a_worker_that_starts_anew_takes_no_routes_away() -> None:
    place = endpoint("m", Route("v1", FULL))
    first = route([place], {("onnx", 1)})
    assert route([place], set(), first.config).config == first.config
    assert route([place], set(), first.config).applied == {"m": 1}


def test_the_revision_grows_by_one_when_anything_differs() -> None:
    place = endpoint("m", Route("v1", FULL))
    first = route([place], {("onnx", 1)})
    again = route([place], {("onnx", 1)}, first.config)
    assert again.config is first.config or again.config == first.config
    revoked = route([place], {("onnx", 1)}, first.config, revoked=("k1",))
    assert (revoked.config.revision, revoked.config.revoked) == (2, ("k1",))
    gone = route([], {("onnx", 1)}, revoked.config, revoked=("k1",))
    assert (gone.config.revision, gone.config.endpoints, gone.config.pools) == (3, (), ())


def test_an_endpoint_without_routes_is_known_but_goes_nowhere() -> None:
    made = route([endpoint("m", revision=7)], set())
    assert made.config.endpoints == (EndpointRoutes("m", (), timeout_ms=1000),)
    assert made.applied == {"m": 7}


def test_a_pinned_version_is_reachable_once_it_is_resident_and_holds_nothing_up() -> None:
    place = endpoint("m", Route("v1", FULL))

    def pinned(ready: set[tuple[str, int]], *others: EndpointRoutes) -> GatewayConfig:
        versions = {f"v{k}": version(k) for k in (1, 2)}
        homes = {1: "onnx", 2: "onnx"}
        residency = Residency(frozenset(ready), {})
        pins = {"m": ("v1", "v2", "v9")}
        plan = routing.plan(
            [place],
            versions,
            homes,
            residency,
            SOCKETS,
            (),
            GatewayConfig(0),
            pins=pins,
            others=others,
        )
        return plan.config

    early = pinned({("onnx", 1)})
    assert [t.version_index for t in early.endpoints[0].targets] == [1]
    made = pinned({("onnx", 1), ("onnx", 2)})
    assert [(t.version_index, t.weight) for t in made.endpoints[0].targets] == [(1, FULL), (2, 0)]
    pipeline = EndpointRoutes("p", (Target(3, "1", 1, "onnx-canary", FULL),), retries_503=False)
    both = pinned({("onnx", 1)}, pipeline)
    assert both.endpoints[1] == pipeline
    assert {one.pool for one in both.pools} == {"onnx", "onnx-canary"}


# Both together ---------------------------------------------------------------------------------


class Life:
    """Workers and an Envoy that follow late, an endpoint owner with changing wishes."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.wanted: dict[str, Endpoint] = {}
        self.pins: dict[str, tuple[str, ...]] = {}
        self.on_disk: dict[str, PoolSpec] = {}
        self.loaded: dict[str, set[int]] = {}
        self.seen: dict[str, int] = {}
        self.written = GatewayConfig(0)
        self.running = GatewayConfig(0)
        self.revisions = [0]
        self.clock = 0
        self.environments = {k: self.dice.choice([None, "e" * 64]) for k in range(1, 9)}

    def wish(self) -> None:
        name = self.dice.choice("abc")
        if self.dice.random() < 0.3:
            pinned = self.dice.sample(range(1, 9), self.dice.randint(0, 2))
            self.pins[name] = tuple(f"v{k}" for k in pinned)
        before = self.wanted.get(name)
        revision = before.revision + 1 if before else 1
        if self.dice.random() < 0.15:
            self.wanted.pop(name, None)
            return
        chosen = self.dice.sample(range(1, 9), self.dice.randint(0, 2))
        weights = {0: [], 1: [FULL], 2: [5000, 5000]}[len(chosen)]
        shadow = self.dice.choice([0, 100])
        routes = [Route(f"v{k}", w, shadow) for k, w in zip(chosen, weights, strict=True)]
        stable = f"v{chosen[0]}" if chosen else None
        self.wanted[name] = replace(
            endpoint(name, *routes, revision=revision), stable_version_id=stable
        )

    def reconcile(self) -> None:
        ids = {int(r.version_id[1:]) for one in self.wanted.values() for r in one.routes}
        ids |= {int(v[1:]) for pinned in self.pins.values() for v in pinned}
        promoted = {one.stable_version_id for one in self.wanted.values()}
        demands = [demand(k, self.environments[k], f"v{k}" in promoted) for k in sorted(ids)]
        acknowledged = self.running.revision == self.written.revision
        held = routing.held(self.written, acknowledged, self.on_disk)
        self.clock += 1000
        self.on_disk = plan(demands, cast(set[tuple[str, int]], held), self.on_disk, self.clock)
        ready = {
            (pool, v.index)
            for pool, one in self.on_disk.items()
            if self.seen.get(pool) == one.revision
            for v in one.versions
        }
        made = routing.plan(
            list(self.wanted.values()),
            {f"v{k}": version(k) for k in ids},
            {d.version.index: d.home for d in demands},
            Residency(frozenset(ready), {}),
            {pool: (f"/s/{pool}",) for pool in self.on_disk},
            (),
            self.written,
            pins=self.pins,
        )
        self.revisions.append(made.config.revision)
        assert (made.config == self.written) == (made.config.revision == self.written.revision)
        self.written = made.config

    def workers(self) -> None:
        for pool in set(self.loaded) - set(self.on_disk):
            del self.loaded[pool], self.seen[pool]
        for pool, one in self.on_disk.items():
            if self.dice.random() < 0.5:
                self.loaded[pool] = {v.index for v in one.versions}
                self.seen[pool] = one.revision

    def envoy(self) -> None:
        if self.dice.random() < 0.4:
            self.running = self.written

    def check(self) -> None:
        pools_of_envoy = {one.pool for one in self.running.pools}
        for one in self.running.endpoints:
            pairs = [(t.pool, t.version_index) for t in one.targets]
            pairs += [(s.pool, s.version_index) for s in one.shadows]
            for pool, index in pairs:
                assert index in self.loaded.get(pool, set()), (pool, index)
                assert pool in pools_of_envoy

    def settle(self) -> None:
        for _ in range(6):
            self.reconcile()
            for pool, one in self.on_disk.items():
                self.loaded[pool] = {v.index for v in one.versions}
                self.seen[pool] = one.revision
            self.check()
            self.running = self.written
            self.workers()
            self.check()


@pytest.mark.parametrize("shard", range(4))
def test_nothing_is_ever_routed_to_where_it_is_not(shard: int) -> None:
    for seed in range(shard * 100, shard * 100 + 100):
        life = Life(seed)
        for _ in range(60):
            step = life.dice.choice([life.wish, life.reconcile, life.workers, life.envoy])
            step()
            life.check()
        assert life.revisions == sorted(life.revisions)
        life.settle()
        served = {
            one.name: {t.version_index: t.weight for t in one.targets if t.weight}
            for one in life.running.endpoints
        }
        wanted = {
            name: {int(r.version_id[1:]): r.weight for r in one.routes}
            for name, one in life.wanted.items()
        }
        assert served == wanted
        for one in life.running.endpoints:
            reachable = {f"v{target.version_index}" for target in one.targets}
            assert reachable >= set(life.pins.get(one.name, ()))
        calm = life.written
        life.reconcile()
        assert life.written == calm
