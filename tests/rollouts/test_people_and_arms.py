"""Approvals, groups, A/B/n tests and bandits over a real database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from test_lessons import AMY, DORA, many
from test_service import FAST, INFO, World, arm, failing, good

from modelfleet.core.authorization import SYSTEM, Grant, Principal, Role
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, Unavailable
from modelfleet.lineage import Node, add_edge
from modelfleet.registry import Entry, Environment, NewVersion
from modelfleet.rollouts import contest
from modelfleet.rollouts.advance import Admission
from modelfleet.rollouts.analysis import Arm, Tick
from modelfleet.rollouts.contest import Reward
from modelfleet.rollouts.plan import (
    FULL,
    Approve,
    ArmSpec,
    Bandit,
    Preview,
    Spec,
    Step,
    Strategy,
)
from modelfleet.rollouts.service import Member, RolloutService

APPROVED = replace(FAST, steps=(Step(approve=Approve()), Step(weight=5000)))


@pytest.fixture
def world(tmp_path: Path, database_place: Path | sa.URL) -> Iterator[World]:
    made = World(tmp_path, database_place)
    made.folder = tmp_path  # type: ignore[attr-defined]
    yield made
    made.database.close()


def register(world: World, model: str, number: str) -> None:
    blobs = FolderBlobStore(world.folder / "blobs")  # type: ignore[attr-defined]
    parts = {"bundle.json": INFO, "m": f"{model} {number}".encode()}
    entries = tuple(Entry(p, *blobs.put([data])) for p, data in sorted(parts.items()))
    new = NewVersion(entries, ("numpy==2.4.6",), "3.11", version=number)
    made = world.registry.register(SYSTEM, model, new)
    environment = Environment("e" * 64, "3.11", "linux", "numpy==2.4.6")
    world.registry.mark_ready(SYSTEM, made, environment, [], "source")


def waiting(world: World) -> str:
    (one,) = world.approvals.list(SYSTEM, state="waiting")
    return one.id


# People ----------------------------------------------------------------------------------------


def test_an_approval_step_waits_for_a_second_person(world: World) -> None:
    rollout = world.start("1.1.0", APPROVED, DORA)
    world.settle(3)
    assert world.state(rollout) == "awaiting_approval"
    assert world.serving() == {"1.0.0": FULL}
    dora = Principal("d", "dora", (Grant(Role.APPROVER, "growth"),))
    with pytest.raises(NotAllowed):
        world.approvals.answer(dora, waiting(world), approve=True)
    world.approvals.answer(AMY, waiting(world), approve=True)
    world.settle(3)
    assert world.serving() == {"1.0.0": 5000, "1.1.0": 5000}
    asked = world.service.get(SYSTEM, rollout).approvals
    assert [(one.state, sorted(one.digests)) for one in asked] == [
        ("approved", ["bundle of m@1.1.0", "evidence", "spec"])
    ]


def test_a_rejection_ends_the_attempt(world: World) -> None:
    rollout = world.start("1.1.0", APPROVED, DORA)
    world.settle(3)
    world.approvals.answer(AMY, waiting(world), approve=False, reason="not on a Friday")
    world.settle(3)
    found = world.service.get(SYSTEM, rollout).rollout
    assert found.state == "rolled_back"
    assert "amy rejected it: not on a Friday" in found.sentence


def test_expiry_is_inconclusive(world: World) -> None:
    spec = replace(APPROVED, steps=(Step(approve=Approve(expires_seconds=1e-6)), Step(weight=5000)))
    held = world.start("1.1.0", spec, DORA)
    world.settle(4)
    assert world.state(held) == "awaiting_approval"
    world.service.abort(DORA, held)
    world.settle(3)
    gone = world.start("1.1.0", replace(spec, on_inconclusive="rollback"), DORA)
    world.settle(4)
    assert world.state(gone) == "rolled_back"


@pytest.mark.parametrize(("yes", "state"), [(True, "succeeded"), (False, "rolled_back")])
def test_without_a_proof_a_person_is_asked(world: World, yes: bool, state: str) -> None:
    spec = replace(FAST, on_inconclusive="ask", inconclusive_after_seconds=0)
    rollout = world.start("1.1.0", spec, DORA)
    world.settle(4)
    assert world.state(rollout) == "stepping"
    world.approvals.answer(AMY, waiting(world), approve=yes)
    world.settle()
    assert world.state(rollout) == state
    assert world.approvals.list(SYSTEM, state="waiting") == []


def test_a_planned_pause_ends_when_somebody_resumes(world: World) -> None:
    rollout = world.start("1.1.0", replace(FAST, steps=(Step(weight=5000), Step(pause=True))))
    world.settle(3)
    world.ticks.closed = many(good)
    world.settle()
    assert world.state(rollout) == "paused"
    world.service.resume(SYSTEM, rollout)
    world.settle()
    assert world.state(rollout) == "succeeded"


def test_shadow_and_weights_in_one_rollout(world: World) -> None:
    steps = (Step(shadow=5000), Step(weight=5000))
    rollout = world.start("1.1.0", replace(FAST, steps=steps))
    world.settle(3)
    (place,) = world.endpoints.all()
    assert sorted((one.weight, one.shadow) for one in place.routes) == [(0, 5000), (FULL, 0)]
    world.ticks.closed = [replace(good(2), pairs=200)]
    world.settle(2)
    judged = {m.metric for m in world.service.get(SYSTEM, rollout).evidence[-1].verdict.metrics}
    assert judged == {"errors", "latency", "disagreements"}
    world.ticks.closed += many(good, 2)
    world.settle()
    judged = {m.metric for m in world.service.get(SYSTEM, rollout).evidence[-1].verdict.metrics}
    assert judged == {"errors", "latency", "predictions"}
    assert world.state(rollout) == "succeeded"


def test_promoting_by_hand_needs_the_right_and_is_audited(world: World) -> None:
    rollout = world.start("1.1.0", FAST, DORA)
    with pytest.raises(Conflict, match="not ready"):
        world.service.promote(DORA, rollout, "now")
    world.settle(3)
    with pytest.raises(NotAllowed):
        world.service.promote(AMY, rollout, "now")
    world.service.promote(DORA, rollout, "the market asks for it")
    world.settle()
    assert world.state(rollout) == "succeeded"
    said = [(m.actor, m.sentence) for m in world.service.get(SYSTEM, rollout).moves]
    assert ("dora", "dora promotes it: the market asks for it") in said


class Keeper:
    def __init__(self, *answers: Admission) -> None:
        self.answers = list(answers)

    def look(self, connection: sa.Connection, rollout: object) -> Admission:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(("state", "end"), [("passed", "stepping"), ("failed", "rolled_back")])
def test_gates_come_before_any_traffic(
    world: World, monkeypatch: pytest.MonkeyPatch, state: str, end: str
) -> None:
    monkeypatch.setattr("modelfleet.rollouts.advance._GATES_SECONDS", 0.0)
    spec = replace(FAST, gates=({"infrastructure": {}},))
    with pytest.raises(Unavailable):
        world.start("1.1.0", spec)
    answers = (Admission("waiting"), Admission(state, "Said.", "d" * 8))  # type: ignore[arg-type]
    world.service = RolloutService(
        world.database, world.registry, world.endpoints, world.ticks, gatekeeper=Keeper(*answers)
    )
    rollout = world.start("1.1.0", spec)
    world.settle(2)
    assert world.state(rollout) == "gating"
    assert world.serving() == {"1.0.0": FULL}
    world.settle(4)
    assert world.state(rollout) == end


# Groups ----------------------------------------------------------------------------------------


def group(world: World, spec: Spec = FAST, *, cycle: bool = False) -> list[str]:
    """`m` feeds `user`: `user@1.1.0` takes what `m` says."""
    world.registry.create_model(SYSTEM, "user", owner_team="growth")
    register(world, "user", "1.0.0")
    register(world, "user", "1.1.0")
    world.service.start(SYSTEM, "user", "user", "1.0.0", Spec(strategy=Strategy.IMMEDIATE))
    world.settle()
    with world.database.begin() as connection:
        add_edge(connection, Node("model", "m"), "feeds", Node("version", "user@1.1.0"))
        if cycle:
            add_edge(connection, Node("model", "user"), "feeds", Node("version", "m@1.1.0"))
    members = [Member("user", "1.1.0"), Member("m", "1.1.0")]
    return [one.id for one in world.service.start_group(DORA, members, spec)]


def weights(world: World) -> dict[str, list[int]]:
    return {one.name: sorted(route.weight for route in one.routes) for one in world.endpoints.all()}


class PairTicks:
    """Ticks of each pair by itself."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.by_canary: dict[int, list[Tick]] = {}

    def tick_at(self, moment_us: int) -> int:
        return 0

    def latency(self, version: int, before_us: int) -> tuple[int, ...]:
        return ()

    def closed_tick(self) -> int:
        return max((t.number for ticks in self.by_canary.values() for t in ticks), default=0)

    def ticks(self, stable: int, canary: int, after: int) -> Sequence[Tick]:
        return [t for t in self.by_canary.get(canary, ()) if t.number > after]


def with_pairs(world: World) -> PairTicks:
    ticks = PairTicks(world)
    world.service = RolloutService(world.database, world.registry, world.endpoints, ticks)
    return ticks


def index_of(world: World, model: str, version: str) -> int:
    return world.registry.get_version(SYSTEM, model, version).index


def test_a_group_steps_and_is_promoted_as_one(world: World) -> None:
    ticks = with_pairs(world)
    first, second = group(world)
    assert world.service.get(SYSTEM, first).rollout.endpoint == "m", "what is used comes first"
    world.settle(4)
    assert weights(world) == {"m": [5000, 5000], "user": [5000, 5000]}
    ticks.by_canary[index_of(world, "m", "1.1.0")] = many(good)
    world.settle(4)
    assert [world.state(one) for one in (first, second)] == ["stepping", "stepping"]
    assert "Waits for the others" in world.service.get(SYSTEM, first).rollout.waits
    ticks.by_canary[index_of(world, "user", "1.1.0")] = many(good, 61)
    world.advance()
    assert [world.state(one) for one in (first, second)] == ["baking", "baking"]
    world.settle()
    assert [world.state(one) for one in (first, second)] == ["succeeded", "succeeded"]


def test_harm_in_one_takes_all_back_users_first(world: World) -> None:
    ticks = with_pairs(world)
    first, second = group(world)
    world.settle(4)
    ticks.by_canary[index_of(world, "m", "1.1.0")] = many(failing)
    world.advance()
    assert [world.state(one) for one in (first, second)] == ["stepping", "rolling_back"]
    world.acknowledge()
    world.settle(4)
    assert [world.state(one) for one in (first, second)] == ["rolled_back", "rolled_back"]
    assert weights(world) == {"m": [FULL], "user": [FULL]}


def test_models_that_use_each_other_in_a_circle_are_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match="circle"):
        group(world, cycle=True)
    assert world.service.active() == [] or all(not r.group_id for r in world.service.active())


# Arms ------------------------------------------------------------------------------------------

AB = Spec(
    strategy=Strategy.AB,
    arms=(
        ArmSpec("1.1.0", 3000, (Preview(header="x-arm", equals="b"),)),
        ArmSpec("1.2.0", 3000),
    ),
    step_seconds=0,
    bake_seconds=0,
)


def split(number: int, share: int, errors: float) -> Tick:
    """Of 1000 requests; the stable version has what two arms of 30 % leave."""
    n = 1000 * share // FULL
    return Tick(number, arm(400, 0, 5), arm(n, int(n * errors), 5))


def test_an_arm_that_harms_is_taken_out_alone_and_the_proven_one_wins(world: World) -> None:
    register(world, "m", "1.2.0")
    ticks = with_pairs(world)
    rollout = world.start("1.1.0", AB)
    world.settle(3)
    assert world.serving() == {"1.0.0": 4000, "1.1.0": 3000, "1.2.0": 3000}
    (place,) = world.endpoints.all()
    assert [(one.header, one.version) for one in place.policy.rules] == [("x-arm", "1.1.0")]
    ticks.by_canary[index_of(world, "m", "1.1.0")] = [split(2, 3000, 0.15)] + [
        split(2 * k, 3000, 0.15) for k in range(2, 6)
    ]
    world.settle(3)
    assert world.serving() == {"1.0.0": 7000, "1.2.0": 3000}
    arms = world.service.get(SYSTEM, rollout).rollout.arms
    assert [bool(one.out) for one in arms] == [True, False]
    ticks.by_canary[index_of(world, "m", "1.2.0")] = [
        Tick(2 * k, arm(700, 0, 5), arm(300, 0, 5)) for k in range(10, 90)
    ]
    world.settle()
    found = world.service.get(SYSTEM, rollout).rollout
    assert (found.state, found.to_version) == ("succeeded", "1.2.0")
    assert world.serving() == {"1.2.0": FULL}


@pytest.mark.parametrize("on_end", ["promote", "keep"])
def test_the_best_proven_arm_is_promoted_or_none(world: World, on_end: str) -> None:
    register(world, "m", "1.2.0")
    ticks = with_pairs(world)
    world.start("1.1.0", replace(AB, on_end=on_end))
    world.settle(3)
    for number, version in enumerate(("1.1.0", "1.2.0")):
        ticks.by_canary[index_of(world, "m", version)] = [
            split(2 * k, 3000, 0.004 - 0.004 * number) for k in range(1, 120)
        ]
    world.settle()
    assert world.serving() == {("1.2.0" if on_end == "promote" else "1.0.0"): FULL}


def test_arms_need_something_to_be_compared_with(world: World) -> None:
    register(world, "m", "1.2.0")
    world.endpoints.delete(SYSTEM, "m")
    with pytest.raises(Conflict, match="compared"):
        world.start("1.1.0", AB)
    with pytest.raises(InvalidInput):
        Spec(strategy=Strategy.AB, arms=(ArmSpec("1", 6000), ArmSpec("2", 4000)))
    with pytest.raises(InvalidInput):
        Spec(arms=(ArmSpec("1", 6000),))


def test_a_bandit_moves_weights_to_the_better_arm(world: World) -> None:
    register(world, "m", "1.2.0")
    ticks = with_pairs(world)
    bandit = Bandit(every_seconds=1e-6, floor=500, probability=0.999999)
    spec = replace(AB, bandit=bandit, analysis=replace(AB.analysis, errors_max_increase=0.5))
    rollout = world.start("1.1.0", spec)
    world.settle(3)
    for version, errors in (("1.1.0", 0.10), ("1.2.0", 0.02)):
        ticks.by_canary[index_of(world, "m", version)] = [
            Tick(2 * k, arm(400, 20, 5), arm(300, int(300 * errors), 5)) for k in range(1, 3)
        ]
    world.settle(2)
    serving = world.serving()
    assert serving["1.2.0"] > 5000 > serving["1.1.0"] >= 500
    assert sum(serving.values()) == FULL
    assert world.state(rollout) == "stepping"


def test_thompson_is_reproducible_from_sums_and_seed() -> None:
    bandit = Bandit(seed=7, floor=500)
    rewards = [Reward(1000, 950), Reward(1000, 960), Reward(1000, 900)]
    one, two = contest.chances(bandit, rewards, 3), contest.chances(bandit, rewards, 3)
    assert (one == two).all()
    assert not (one == contest.chances(bandit, rewards, 4)).all()
    shares = contest.shared(bandit, one)
    assert sum(shares) == FULL
    assert min(shares) >= 500
    assert abs(one.sum() - 1) < 1e-9


def test_thompson_on_outcomes_prefers_the_larger_mean() -> None:
    rng = np.random.default_rng(0)
    bandit = Bandit(reward="outcome")
    rewards = []
    for mean in (0.0, 0.3):
        drawn = rng.normal(mean, 1, 400)
        rewards.append(Reward(400, 400, 400, float(drawn.sum()), float((drawn**2).sum())))
    best = contest.chances(bandit, rewards, 0)
    assert best[1] > 0.95
    nothing = contest.chances(bandit, [Reward(), Reward()], 0)
    assert abs(nothing[0] - 0.5) < 0.05


def test_a_bandit_finds_the_best_arm_in_most_histories() -> None:
    """95 % and 92 % of successes beside 90 %: the best gets the traffic and is named."""
    right = ended = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        bandit = Bandit(seed=seed, floor=500)
        sums = [Reward(), Reward(), Reward()]
        shares: Sequence[int] = (4000, 3000, 3000)
        for number in range(200):
            for k, (share, rate) in enumerate(zip(shares, (0.90, 0.95, 0.92), strict=True)):
                n = share // 20
                sums[k] = sums[k].plus(Arm(n, n - int(rng.binomial(n, rate))))
            best = contest.chances(bandit, sums, number)
            if best.max() >= 0.95 and number > 1:
                ended += 1
                right += int(best.argmax() == 1)
                break
            shares = contest.shared(bandit, best)
    assert ended >= 39
    assert right >= 0.8 * ended
