"""What others learnt the hard way: each test is named after the complaint that it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from test_service import FAST, World, arm, failing, good

from modelfleet.core.authorization import SYSTEM, Grant, Principal, Role
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed
from modelfleet.rollouts import judge
from modelfleet.rollouts.analysis import Analysis, Arm, Tick
from modelfleet.rollouts.judge import Finding
from modelfleet.rollouts.plan import Bandit, Limits, Preview, Spec, Step, Strategy
from modelfleet.rollouts.tables import rollout
from modelfleet.rollouts.windows import Window
from modelfleet.serving.endpoints import FULL
from modelfleet.serving.traffic import Sticky
from modelfleet.telemetry.latency import BUCKETS

DORA = Principal("d", "dora", (Grant(Role.DEPLOYER, "growth"),))
AMY = Principal("a", "amy", (Grant(Role.APPROVER, "growth"),))


@pytest.fixture
def world(tmp_path: Path, database_place: Path | sa.URL) -> Iterator[World]:
    made = World(tmp_path, database_place)
    yield made
    made.database.close()


def many(kind: object, first: int = 1, count: int = 60) -> list[Tick]:
    return [kind(2 * k) for k in range(first, first + count)]  # type: ignore[operator]


def test_argo_3120_a_retry_starts_a_new_attempt(world: World) -> None:
    """Abort and retry got stuck at 75 %: here it is another rollout, at its first step."""
    first = world.start("1.1.0", Spec(weights=(2500, 7500), step_seconds=0, bake_seconds=0), DORA)
    world.settle(3)
    world.ticks.closed = [Tick(2 * k, arm(300, 0, 5), arm(100, 0, 5)) for k in range(1, 4)]
    world.settle(3)
    assert world.serving() == {"1.0.0": 2500, "1.1.0": 7500}
    world.service.abort(DORA, first)
    world.settle(3)
    world.ticks.closed = []
    again = world.service.retry(DORA, first)
    assert (again.attempt, again.retry_of, again.step) == (2, first, 0)
    world.settle(3)
    assert world.serving() == {"1.0.0": 7500, "1.1.0": 2500}
    (row,) = world.service.active()
    assert row.judge == judge.begin(row.spec.analysis)
    for k in range(10, 200):
        n = world.serving().get("1.1.0", 0) * 400 // FULL
        world.ticks.closed.append(Tick(2 * k, arm(400 - n, 0, 5), arm(n, 0, 5)))
        world.settle(1)
    assert world.state(again.id) == "succeeded"


def test_argo_3015_and_3850_inconclusive_never_promotes(world: World) -> None:
    spec = replace(FAST, on_inconclusive="rollback", inconclusive_after_seconds=0)
    rollout = world.start("1.1.0", spec)
    world.settle(8)
    assert world.state(rollout) == "rolled_back"
    assert "Nothing was proven" in world.service.get(SYSTEM, rollout).rollout.sentence
    with pytest.raises(InvalidInput):
        Spec(on_inconclusive="pass")


def test_argo_1774_a_bad_stable_does_not_block_a_good_canary(world: World) -> None:
    """Both break the absolute limit: the relative tests decide, and a person is told."""
    spec = replace(FAST, limits=Limits(errors=0.05))
    rollout = world.start("1.1.0", spec)
    world.settle(3)
    for k in range(1, 200):
        world.ticks.closed.append(Tick(2 * k, arm(200, 24, 5), arm(200, 20, 5)))
        if k % 2 == 0:
            world.settle(1)
    world.settle()
    assert world.state(rollout) == "succeeded", world.service.get(SYSTEM, rollout).moves
    said = [one.sentence for one in world.service.get(SYSTEM, rollout).moves]
    assert any("the stable version itself" in one for one in said)


def test_argo_777_a_rollback_keeps_the_canary_until_stable_has_all_traffic(world: World) -> None:
    """It is over only when the gateway runs the old routes; until then both are held."""
    rollout = world.start("1.1.0", FAST)
    world.settle(3)
    world.service.abort(SYSTEM, rollout)
    for _ in range(3):
        world.advance()
    assert world.state(rollout) == "rolling_back"
    (row,) = world.service.active()
    assert len(row.version_ids) == 2
    world.acknowledge()
    world.advance()
    assert world.state(rollout) == "rolled_back"


def test_argo_1411_and_1107_one_analysis_lasts_all_steps(world: World) -> None:
    """The tests go on through the steps and end with the attempt."""
    spec = replace(FAST, weights=(1000, 2000, 5000), analysis=Analysis(min_samples=1))
    rollout = world.start("1.1.0", spec)
    world.settle(3)
    seen = 0.0
    for k in range(1, 4):
        world.ticks.closed.append(Tick(2 * k, arm(200, 0, 5), arm(200, 8, 5)))
        world.settle(2)
        (row,) = world.service.active()
        assert row.judge.errors_harm.total_b > seen
        seen = row.judge.errors_harm.total_b
    assert world.service.get(SYSTEM, rollout).rollout.step == 2


def test_flagger_456_and_1777_headers_reach_a_version_before_any_weight(world: World) -> None:
    preview = Step(preview=Preview(header="x-beta", equals="yes"), seconds=0)
    spec = replace(FAST, steps=(preview, Step(pause=True), Step(weight=5000)))
    rollout = world.start("1.1.0", spec)
    world.settle(4)
    assert world.state(rollout) == "paused"
    (place,) = world.endpoints.all()
    assert world.serving() == {"1.0.0": FULL}
    assert [(one.header, one.equals, one.version) for one in place.policy.rules] == [
        ("x-beta", "yes", "1.1.0")
    ]
    assert place.traffic.rules == ()
    world.service.resume(SYSTEM, rollout)
    world.settle(3)
    (place,) = world.endpoints.all()
    assert place.policy.rules == ()
    assert world.serving() == {"1.0.0": 5000, "1.1.0": 5000}


def test_flagger_1186_nothing_advances_in_a_freeze_and_rollbacks_may(world: World) -> None:
    freezes = world.freezes
    freezes.create(AMY, "sale", Window(begins="2020-01-01T00:00:00Z", reason="the sale"),
                   endpoint="m")  # fmt: skip
    rollout = world.start("1.1.0", FAST, DORA)
    world.settle(4)
    found = world.service.get(SYSTEM, rollout).rollout
    assert found.state == "pending"
    assert "the sale" in found.waits
    with pytest.raises(NotAllowed):
        world.service.override(DORA, rollout, "it can't wait")
    with pytest.raises(InvalidInput, match="reason"):
        world.service.override(AMY, rollout, " ")
    world.service.override(AMY, rollout, "it can't wait")
    world.settle(3)
    assert world.state(rollout) == "stepping"
    world.ticks.closed = many(failing)
    world.settle()
    assert world.state(rollout) == "rolled_back"


def test_flagger_1186_a_rollback_does_not_wait_for_the_end_of_a_freeze(world: World) -> None:
    rollout = world.start("1.1.0", FAST, DORA)
    world.settle(3)
    world.freezes.create(SYSTEM, "sale", Window(ends="2100-01-01T00:00:00Z", reason="the sale"))
    with pytest.raises(Conflict, match="sale"):
        world.service.promote(DORA, rollout, "now")
    world.ticks.closed = many(failing)
    world.settle()
    assert world.state(rollout) == "rolled_back"


def test_flagger_1752_a_promotion_swaps_a_pointer(world: World) -> None:
    """One row says what is stable, and it changes with the routes, in one transaction."""
    rollout = world.start("1.1.0", FAST)
    world.settle(3)
    world.ticks.closed = many(good)
    world.advance()
    (place,) = world.endpoints.all()
    (row,) = world.service.active()
    assert row.state == "baking"
    assert place.stable_version_id == row.to_version_id
    assert [(one.version_id, one.weight) for one in place.routes] == [(row.to_version_id, FULL)]
    world.settle()
    assert world.state(rollout) == "succeeded"


@pytest.mark.parametrize(("n", "bad"), [(10, 3), (100, 30)])
def test_kayenta_780_a_few_samples_do_not_pass(world: World, n: int, bad: int) -> None:
    """7 good of 10 against 100 of 100: not proven, and with more of it harm."""
    spec = replace(FAST, analysis=Analysis(latency_max_ratio=None, predictions_max_distance=None))
    rollout = world.start("1.1.0", spec)
    world.settle(3)
    world.ticks.closed = [Tick(2, arm(100, 0, 5), arm(n, bad, 5))]
    world.settle(3)
    assert world.state(rollout) == ("stepping" if n == 10 else "rolled_back")


def test_kayenta_426_and_799_nothing_measured_is_inconclusive(world: World) -> None:
    """No requests, no scores: no number is made up, and nothing passes."""
    rollout = world.start("1.1.0", FAST)
    world.settle(3)
    world.ticks.closed = [Tick(2 * k, arm(200, 0, 5), Arm()) for k in range(1, 60)]
    world.settle()
    assert world.state(rollout) == "stepping"
    last = world.service.get(SYSTEM, rollout).evidence[-1].verdict
    assert last.finding is Finding.OPEN


def test_kayenta_521_evidence_says_why(world: World) -> None:
    rollout = world.start("1.1.0", FAST)
    world.settle(3)
    world.ticks.closed = many(failing)
    world.settle()
    details = world.service.get(SYSTEM, rollout)
    assert "Worse in errors: canary fails 15.00 %" in details.rollout.sentence
    assert details.evidence[0].tick == 2
    assert all(one.verdict.sentence for one in details.evidence)


def test_kserve_4074_and_5335_steps_follow_by_themselves(world: World) -> None:
    spec = Spec(weights=(500, 2500, 5000), step_seconds=0, bake_seconds=0)
    rollout = world.start("1.1.0", spec)
    for k in range(1, 160):
        n = world.serving().get("1.1.0", 0) * 400 // FULL
        world.ticks.closed.append(Tick(2 * k, arm(400 - n, 0, 5), arm(n, 0, 5)))
        world.settle(1)
    assert world.state(rollout) == "succeeded"


def test_sagemaker_without_an_alarm_something_is_judged_all_the_same() -> None:
    assert Spec().analysis.metrics(mirrored=False) == ("errors", "latency", "predictions")
    with pytest.raises(InvalidInput, match="without a metric"):
        Spec(
            analysis=Analysis(
                errors_max_increase=None, latency_max_ratio=None, predictions_max_distance=None
            )
        )


def test_trap_1_busy_clients_that_count_once_are_not_spent_on_a_warm_up(world: World) -> None:
    """All of them came within two ticks: what is slow must be known before."""
    spec = replace(FAST, sticky=Sticky("header", "x-user-id"))
    world.ticks.before = (0,) * 70 + (400, 20) + (0,) * (BUCKETS - 72)
    rollout = world.start("1.1.0", spec)
    world.settle(3)
    world.ticks.closed = [Tick(number, arm(750, 0, 5), arm(750, 0, 5)) for number in (2, 4)]
    world.settle()
    assert world.state(rollout) == "succeeded"


def test_trap_1_a_sticky_rollout_says_so_and_leaves_no_trace(world: World) -> None:
    """Sticky keys correlate requests: what the rollout sets is its own, and is taken back."""
    own = Sticky("cookie", "session")
    world.endpoints.set_traffic(SYSTEM, "m", {"sticky": {"by": "cookie", "name": "session"}})
    spec = replace(FAST, sticky=Sticky("header", "x-user-id"))
    rollout = world.start("1.1.0", spec)
    world.settle(3)
    (place,) = world.endpoints.all()
    assert place.policy.sticky == Sticky("header", "x-user-id")
    assert place.traffic.sticky == own
    world.ticks.closed = many(good)
    world.settle()
    assert world.state(rollout) == "succeeded"
    (place,) = world.endpoints.all()
    assert place.policy.sticky == own


def test_blue_green_goes_back_on_an_absolute_limit_of_its_bake(world: World) -> None:
    """Nothing runs beside it any more: 10 % of errors are below the hard limit, not below 5 %."""
    spec = Spec(strategy=Strategy.BLUE_GREEN, bake_seconds=3600, limits=Limits(errors=0.05))
    rollout = world.start("1.1.0", spec)
    world.settle(3)
    assert world.serving() == {"1.1.0": FULL}
    (row,) = world.service.active()
    assert len(row.version_ids) == 2, "the old one is kept warm"
    world.ticks.closed = [Tick(2 * k, Arm(), arm(200, 20, 5)) for k in range(1, 40)]
    world.settle()
    assert world.state(rollout) == "rolled_back"
    assert "over the limit of 5 %" in world.service.get(SYSTEM, rollout).rollout.sentence
    assert world.serving() == {"1.0.0": FULL}


def test_on_fail_alert_tells_once_and_moves_nothing(world: World) -> None:
    rollout = world.start("1.1.0", replace(FAST, on_fail="alert"), DORA)
    world.settle(3)
    world.ticks.closed = many(failing)
    world.settle()
    details = world.service.get(SYSTEM, rollout)
    assert details.rollout.state == "stepping"
    assert sum("Nothing moves on" in one.sentence for one in details.moves) == 1
    assert world.serving() == {"1.0.0": 5000, "1.1.0": 5000}
    world.service.abort(DORA, rollout)
    world.settle()
    assert world.state(rollout) == "rolled_back"


@pytest.mark.parametrize("verb", ["promote", "abort"])
def test_from_frozen_a_person_promotes_or_aborts(world: World, verb: str) -> None:
    rollout = world.start("1.1.0", replace(FAST, on_fail="freeze"), DORA)
    world.settle(3)
    world.ticks.closed = many(failing)
    world.settle()
    assert world.state(rollout) == "frozen"
    with pytest.raises(Conflict):
        world.service.resume(DORA, rollout)
    if verb == "promote":
        with pytest.raises(InvalidInput, match="reason"):
            world.service.promote(DORA, rollout, "")
        world.service.promote(DORA, rollout, "these errors are the clients'")
    else:
        world.service.abort(DORA, rollout)
    world.settle()
    assert world.state(rollout) == ("succeeded" if verb == "promote" else "rolled_back")


def test_superseding_is_explicit_and_takes_the_traffic_back(world: World) -> None:
    first = world.start("1.1.0", FAST, DORA)
    world.settle(3)
    with pytest.raises(Conflict, match="already"):
        world.start("1.1.0", FAST, DORA)
    second = world.service.start(DORA, "m", "m", "1.1.0", FAST, supersede=True)
    assert world.state(first) == "superseded"
    assert world.serving() == {"1.0.0": FULL}
    world.settle(3)
    assert world.serving() == {"1.0.0": 5000, "1.1.0": 5000}
    assert world.state(second.id) == "stepping"


def test_the_database_itself_refuses_two_rollouts_of_an_endpoint(world: World) -> None:
    world.start("1.1.0", FAST)
    with pytest.raises(sa.exc.IntegrityError), world.database.begin() as connection:
        (row,) = connection.execute(sa.select(rollout).where(
            rollout.c.ended_at.is_(None)
        )).mappings()  # fmt: skip
        connection.execute(sa.insert(rollout).values({**row, "id": "other"}))


@pytest.mark.parametrize(
    "values",
    [
        {"not_before": "tomorrow"},
        {"windows": (Window(ends="2020-01-01T00:00:00Z"),)},
        {"freeze": (Window(begins="2020-01-01T00:00:00Z"),)},
        {
            "windows": (Window(cron="0 9 * * *", seconds=3600),),
            "freeze": (Window(cron="0 0 * * *", seconds=86_400),),
        },
    ],
    ids=["no time", "over", "frozen for ever", "frozen whenever it may"],
)
def test_impossible_schedules_are_refused(world: World, values: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        world.start("1.1.0", replace(FAST, **values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"cron": "0 0 30 2 *", "seconds": 60},
        {"cron": "whenever", "seconds": 60},
        {"cron": "0 9 * * *"},
        {"cron": "0 9 * * *", "seconds": 60, "zone": "Mars/Olympus"},
        {"begins": "2027-01-02T00:00:00Z", "ends": "2027-01-01T00:00:00Z"},
        {},
    ],
    ids=str,
)
def test_windows_that_never_come_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Window(**given)  # type: ignore[arg-type]


def test_a_bandit_has_a_floor_that_fits() -> None:
    with pytest.raises(InvalidInput):
        Bandit(floor=6000)
