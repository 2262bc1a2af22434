"""Fair shares: from what workers tell to what the gateway is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from modelfleet.core.layout import Layout
from modelfleet.serving.gateway import EndpointRoutes, GatewayFiles, Rule, Target
from modelfleet.serving.shedding import Reading, Shedding, fair_share
from modelfleet_worker.wire.control import ControlBlock, Load, State


def fair(asked: list[float], capacity: float) -> float:
    """The share F with sum(min(d, F)) = capacity, by bisection."""
    low, high = 0.0, max(asked)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if served(asked, middle) < capacity else (low, middle)
    return high


def served(asked: list[float], share: float | None) -> float:
    return sum(one if share is None else min(one, share) for one in asked)


def at(asked: list[float], share: float | None, capacity: float) -> Reading:
    """What workers tell when callers ask so much."""
    came = served(asked, share)
    good = min(came, capacity)
    return Reading(good, came - good, good / capacity)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(1.0, 5_000.0), min_size=1, max_size=60),
    st.floats(50.0, 2_000.0),
)
def test_shares_become_fair_and_are_never_much_less(asked: list[float], capacity: float) -> None:
    assume(sum(asked) > 1.06 * capacity and capacity / len(asked) > 2.0)
    right = fair(asked, capacity)
    share: float | None = None
    for _ in range(40):
        share = fair_share(share, at(asked, share, capacity))
        assert share is not None
        assert share >= 0.95 * right
    assert served(asked, share) >= 0.89 * capacity
    assert served(asked, share) <= 1.06 * capacity


def test_five_times_too_much_is_a_fair_share_within_two_looks() -> None:
    share = fair_share(None, at([5000.0], None, 1000.0))
    for _ in range(2):
        assert share is not None
        share = fair_share(share, at([5000.0], share, 1000.0))
    assert share is not None
    assert 900 < share < 1060


def test_it_grows_when_there_is_room_and_goes_when_nobody_needs_it() -> None:
    assert fair_share(100.0, Reading(100.0, 0.0, 0.5)) == pytest.approx(194.0)
    assert fair_share(100.0, Reading(20.0, 0.0, 0.1)) is None
    assert fair_share(100.0, Reading(0.0, 0.0, 0.0)) is None
    assert fair_share(100.0, Reading(100.0, 2.0, 0.95)) == 100.0  # as it should be


def test_what_a_share_can_not_mend_starts_none() -> None:
    assert fair_share(None, Reading(100.0, 0.0, 1.0)) is None  # busy, and nobody refused
    assert fair_share(None, Reading(0.0, 500.0, 1.0)) is None  # it hangs
    assert fair_share(None, Reading(100.0, 500.0, 0.4)) is None  # deadlines are too short
    assert fair_share(80.0, Reading(0.0, 500.0, 1.0)) == 80.0
    assert fair_share(80.0, Reading(100.0, 500.0, 0.5)) == pytest.approx(155.2)  # time is left


class Pool:
    """Two workers that tell what they are told to."""

    def __init__(self, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        layout.control.mkdir(parents=True)
        layout.gateway.mkdir(parents=True)
        self.blocks = [ControlBlock.create(layout.control_block("p", n)) for n in range(2)]
        self.clock = 1_000_000_000_000
        monkeypatch.setattr("modelfleet_worker.wire.control.time.monotonic_ns", lambda: self.clock)
        monkeypatch.setattr("modelfleet.serving.shedding.time.monotonic", self.seconds)
        for number, block in enumerate(self.blocks):
            block.begin(number + 1)
            block.set_state(State.READY)
        self.gateway = GatewayFiles(layout)
        self.endpoints: tuple[EndpointRoutes, ...] = ()
        self.shedding = Shedding(layout.control, lambda: self.endpoints, self.gateway)
        self._told = [Load(7, 50_000, 10, 10**12)] * 2
        self.say([0, 1])
        self.shedding.look()

    def seconds(self) -> float:
        return self.clock / 1e9

    def say(self, which: list[int]) -> None:
        self.clock += 1_000_000_000
        for number in which:
            self.blocks[number].heartbeat()
            self.blocks[number].tell_loads([self._told[number]])

    def second(
        self, served: int, refused: int, busy: float, which: tuple[int, ...] = (0, 1)
    ) -> dict[str, float]:
        """A second passes in each of these workers; the shares then."""
        for number in which:
            one = self._told[number]
            self._told[number] = Load(
                7, one.served + served, one.refused + refused, one.busy_ns + int(busy * 1e9)
            )
        self.say(list(which))
        self.shedding.look()
        return {one.endpoint: round(one.per_second) for one in self.gateway.shares()}


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    made = Pool(Layout(tmp_path), monkeypatch)
    made.endpoints = (EndpointRoutes("busy", (Target(7, "1.0.0", 1, "p", 10_000),)),)
    return made


def test_shares_follow_what_all_workers_tell(pool: Pool) -> None:
    assert pool.second(50, 0, 0.5) == {}
    assert pool.second(100, 300, 1.0) == {"busy": 194}
    assert pool.second(100, 0, 0.95) == {"busy": 194}
    assert pool.second(60, 0, 0.9) == {"busy": 194}
    assert pool.second(60, 0, 0.6) == {}
    assert pool.second(100, 300, 1.0) == {"busy": 194}
    assert pool.second(100, 300, 1.0) == {"busy": 194}  # from before the change, partly
    assert pool.second(97, 97, 1.0) == {"busy": 94}
    pool.endpoints = ()
    assert pool.second(100, 300, 1.0) == {}


def test_nothing_starts_while_one_worker_has_room(pool: Pool) -> None:
    pool.blocks[1].tell_loads([])
    assert pool.second(100, 300, 1.0, (0,)) == {}
    assert pool.second(100, 300, 1.0) == {}  # the other one just began to tell
    assert pool.second(100, 300, 1.0) == {"busy": 194}
    pool.blocks[0].begin(9)  # a new process: it has nothing to tell yet
    pool.blocks[0].set_state(State.READY)
    assert pool.second(100, 300, 1.0, (1,)) == {"busy": 194}


def test_the_dead_and_the_silent_are_not_waited_for(pool: Pool) -> None:
    assert pool.second(100, 300, 1.0) == {"busy": 194}
    for _ in range(5):
        found = pool.second(100, 300, 1.0, (0,))
    assert found["busy"] < 100


def test_two_versions_or_rules_are_left_to_workers(pool: Pool) -> None:
    two = (Target(7, "1.0.0", 1, "p", 5_000), Target(8, "2.0.0", 2, "p", 5_000))
    pool.endpoints = (EndpointRoutes("busy", two),)
    assert pool.second(100, 300, 1.0) == {}
    pinned = (Target(7, "1.0.0", 1, "p", 10_000), Target(8, "2.0.0", 2, "p", 0))
    pool.endpoints = (EndpointRoutes("busy", pinned, rules=(Rule(8, "caller", "x"),)),)
    assert pool.second(100, 300, 1.0) == {}
    pool.endpoints = (EndpointRoutes("busy", pinned),)
    assert pool.second(100, 300, 1.0) == {"busy": 194}


def test_small_changes_are_not_told(pool: Pool) -> None:
    assert pool.second(100, 300, 1.0) == {"busy": 194}
    written = (pool.gateway._folder / "shed.json").read_bytes()
    for served in (94, 99, 96, 95, 98):
        pool.second(served, 1, 0.92)
    assert (pool.gateway._folder / "shed.json").read_bytes() == written


def test_an_overload_begins_once_and_is_over_when_it_stays_away(pool: Pool) -> None:
    with capture_logs() as said:
        pool.second(100, 300, 1.0)
        (begun,) = pool.gateway.shares()
        assert begun.since_us > 0
        pool.second(97, 0, 0.97)
        assert pool.second(60, 0, 0.6) == {}
        assert pool.second(100, 300, 1.0) == {"busy": 194}  # the same overload, at its edge
        assert pool.gateway.shares()[0].since_us == begun.since_us
        pool.second(97, 0, 0.97)
        assert pool.second(60, 0, 0.6) == {}
        for _ in range(29):
            pool.second(10, 0, 0.1)
        assert [one["event"] for one in said] == ["overload"]
        for _ in range(3):
            pool.second(10, 0, 0.1)
        pool.second(100, 300, 1.0)
    assert [one["event"] for one in said] == ["overload", "the overload is over", "overload"]
    assert {one["endpoint"] for one in said} == {"busy"}
    assert pool.gateway.shares()[0].since_us > begun.since_us


def test_an_overload_outlives_the_control_plane(pool: Pool, tmp_path: Path) -> None:
    pool.second(100, 300, 1.0)
    (begun,) = pool.gateway.shares()
    with capture_logs() as said:
        pool.shedding = Shedding(Layout(tmp_path).control, lambda: pool.endpoints, pool.gateway)
        for _ in range(2):
            pool.second(97, 300, 1.0)
    assert pool.gateway.shares()[0].since_us == begun.since_us
    assert said == []
