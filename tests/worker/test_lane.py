from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from modelfleet_worker.fair import NORMAL, WEIGHTS
from modelfleet_worker.lane import DeadlinePassed, Lane, Outcome, Overloaded
from modelfleet_worker.runtimes.base import Own
from modelfleet_worker.wire.signature import Array


class Ask:
    """A call that notes what happens to it."""

    def __init__(
        self,
        *values: float,
        deadline: float | None = None,
        width: int = 1,
        weight: float = NORMAL,
        limit: int = 0,
    ) -> None:
        self.caller = b""
        self.weight = weight
        self.limit = limit
        self.inputs: list[Array] = [np.array([[v] * width for v in values])]
        self.rows = len(values)
        self.deadline = deadline
        self.own: Own | None = None
        self.events: list[str] = []
        self.outcome: Outcome | None = None
        self.done = asyncio.Event()

    def started(self) -> None:
        self.events.append("started")

    def ended(self) -> None:
        self.events.append("ended")

    def answer(self, outcome: Outcome) -> None:
        self.events.append("answer")
        self.outcome = outcome
        self.done.set()

    async def values(self) -> list[float]:
        await asyncio.wait_for(self.done.wait(), 10)
        assert isinstance(self.outcome, list)
        return list(self.outcome[0].tolist())


class Model:
    """Sums rows once `gate` is open; notes the rows of each run; raises on negative numbers."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.runs: list[int] = []

    def run(self, inputs: Sequence[Array], rows: int, own: Own | None = None) -> list[Array]:
        """With parameters of its own a call gets as many times its sum."""
        self.gate.wait(10)
        self.runs.append(rows)
        if (inputs[0] < 0).any():
            raise ValueError("negative")
        factor = 1 if own is None or own.params is None else own.params["factor"]
        return [inputs[0].sum(axis=1) * factor]


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def inner() -> None:
            model = Model()
            lane = Lane(asyncio.get_running_loop(), "m", model.run, batchable=True, row_s=0.001)
            await test(model, lane)
            model.gate.set()
            lane.close()

        asyncio.run(inner())

    run.__name__ = test.__name__
    return run


@in_loop
async def test_what_waits_runs_as_one(model: Model, lane: Lane) -> None:
    first, rest = Ask(1), [Ask(k, k + 1) for k in range(10)]
    lane.submit(first)
    for ask in rest:
        lane.submit(ask)
    assert all(ask.events == [] for ask in rest)
    model.gate.set()
    assert await first.values() == [1]
    assert [await ask.values() for ask in rest] == [[k, k + 1] for k in range(10)]
    assert model.runs == [1, 20]
    assert rest[3].events == ["started", "ended", "answer"]
    assert not lane.busy


@in_loop
async def test_a_batch_has_at_most_64_rows(model: Model, lane: Lane) -> None:
    asks = [Ask(*range(30)) for _ in range(6)]
    for ask in asks:
        lane.submit(ask)
    lane.submit(Ask(*range(100)))
    model.gate.set()
    for ask in asks:
        assert await ask.values() == list(range(30))
    while lane.busy:
        await asyncio.sleep(0.01)
    assert model.runs == [30, 60, 60, 30, 100]


@in_loop
async def test_a_tuned_batch_is_as_large_as_it_was_tuned_to(model: Model, lane: Lane) -> None:
    lane.batch_rows = 3
    asks = [Ask(float(k)) for k in range(8)]
    for ask in asks:
        lane.submit(ask)
    model.gate.set()
    assert [(await ask.values())[0] for ask in asks] == [float(k) for k in range(8)]
    assert model.runs == [1, 3, 3, 1]


@in_loop
async def test_one_bad_call_does_not_fail_its_neighbours(model: Model, lane: Lane) -> None:
    asks = [Ask(0), Ask(1), Ask(-1), Ask(2)]
    for ask in asks:
        lane.submit(ask)
    model.gate.set()
    assert [await asks[k].values() for k in (0, 1, 3)] == [[0], [1], [2]]
    await asks[2].done.wait()
    assert isinstance(asks[2].outcome, ValueError)


@in_loop
async def test_other_widths_do_not_share_a_batch(model: Model, lane: Lane) -> None:
    asks = [Ask(0), Ask(1), Ask(2, width=3), Ask(3, width=3)]
    for ask in asks:
        lane.submit(ask)
    model.gate.set()
    assert [await ask.values() for ask in asks] == [[0], [1], [6], [9]]
    assert model.runs == [1, 1, 2]


@in_loop
async def test_wishes_of_its_own_share_no_batch(model: Model, lane: Lane) -> None:
    asks = [Ask(k + 1) for k in range(6)]
    asks[2].own = Own({"factor": 10})
    asks[3].own = Own({"factor": 100})
    for ask in asks:
        lane.submit(ask)
    model.gate.set()
    assert [await ask.values() for ask in asks] == [[1], [2], [30], [400], [5], [6]]
    assert model.runs == [1, 1, 1, 1, 2]


@in_loop
async def test_deadlines_pass_while_waiting_and_while_running(model: Model, lane: Lane) -> None:
    soon = time.monotonic() + 0.05
    running, waiting, patient = Ask(1, deadline=soon), Ask(2, deadline=soon), Ask(3)
    for ask in (running, waiting, patient):
        lane.submit(ask)
    lane.sweep(soon - 0.01)
    assert running.outcome is None
    lane.sweep(soon + 0.01)
    lane.sweep(soon + 0.02)
    assert isinstance(running.outcome, DeadlinePassed)
    assert isinstance(waiting.outcome, DeadlinePassed)
    assert running.events == ["started", "answer"]
    model.gate.set()
    assert await patient.values() == [3]
    assert running.events == ["started", "answer", "ended"]
    assert waiting.events == ["answer"]


@in_loop
async def test_what_cannot_be_in_time_is_refused_at_once(model: Model, lane: Lane) -> None:
    lane.submit(Ask(1))
    with pytest.raises(Overloaded, match="before the deadline"):
        lane.submit(Ask(2, deadline=time.monotonic()))
    lane.submit(Ask(2, deadline=time.monotonic() + 10))
    for _ in range(1023):
        lane.submit(Ask(3))
    with pytest.raises(Overloaded, match="too many"):
        lane.submit(Ask(4))


@in_loop
async def test_an_answer_that_fails_does_not_hang_the_model(model: Model, lane: Lane) -> None:
    class Closed(Ask):
        def answer(self, outcome: Outcome) -> None:
            raise RuntimeError("the transport is closed")

    first, closed, after = Ask(0), Closed(1), Ask(2)
    for ask in (first, closed, after):
        lane.submit(ask)
    model.gate.set()
    assert await after.values() == [2]
    last = Ask(5)
    lane.submit(last)
    assert await last.values() == [5]


@in_loop
async def test_closing_lets_the_waiting_finish(model: Model, lane: Lane) -> None:
    asks = [Ask(1), Ask(2)]
    for ask in asks:
        lane.submit(ask)
    lane.close()
    model.gate.set()
    assert [await ask.values() for ask in asks] == [[1], [2]]


@in_loop
async def test_a_limit_counts_what_runs_and_waits(model: Model, lane: Lane) -> None:
    lane.submit(Ask(1, limit=2))
    lane.submit(Ask(2, limit=2))
    with pytest.raises(Overloaded, match="takes 2 requests at a time"):
        lane.submit(Ask(3, limit=2))


@in_loop
async def test_what_matters_more_takes_the_place_of_what_matters_less(
    model: Model, lane: Lane
) -> None:
    lane.submit(Ask(1, limit=3))
    low, normal = Ask(2, weight=WEIGHTS[b"low"], limit=3), Ask(3, limit=3)
    lane.submit(low)
    lane.submit(normal)
    high = Ask(4, weight=WEIGHTS[b"high"], limit=3)
    lane.submit(high)
    assert isinstance(low.outcome, Overloaded)
    model.gate.set()
    assert await high.values() == [4]
    assert await normal.values() == [3]


@in_loop
async def test_what_is_too_late_is_not_run(model: Model, lane: Lane) -> None:
    lane.submit(Ask(1))
    late, in_time = Ask(2, deadline=time.monotonic() + 0.05), Ask(3)
    lane.submit(late)
    lane.submit(in_time)
    await asyncio.sleep(0.1)
    model.gate.set()
    assert await in_time.values() == [3]
    assert isinstance(late.outcome, DeadlinePassed)
    assert sum(model.runs) == 2


@in_loop
async def test_a_lane_counts_what_it_served_and_what_came_to_nothing(
    model: Model, lane: Lane
) -> None:
    served = [Ask(1), Ask(2), Ask(3)]
    for ask in served:
        lane.submit(ask)
    late = Ask(4, deadline=time.monotonic() + 0.2)
    lane.submit(late)
    with pytest.raises(Overloaded):
        lane.refuse_if_hopeless(time.monotonic() - 1)
    with pytest.raises(Overloaded):
        lane.submit(Ask(5, limit=1))
    low, high = Ask(6, weight=WEIGHTS[b"low"]), Ask(7, weight=WEIGHTS[b"high"], limit=4)
    lane.submit(low)
    lane.submit(high)  # in the place of `low`
    await asyncio.sleep(0.25)
    lane.sweep(time.monotonic())
    assert isinstance(late.outcome, DeadlinePassed)
    assert lane.tally.refused == 4
    assert lane.tally.served == 0
    assert lane.busy_s >= 0.25  # the run goes on
    model.gate.set()
    await high.values()
    while lane.busy:
        await asyncio.sleep(0.01)
    assert (lane.tally.served, lane.tally.refused) == (4, 4)
    assert lane.busy_s == lane.tally.busy_s >= 0.25


@in_loop
async def test_an_idle_lane_refuses_nothing(model: Model, lane: Lane) -> None:
    lane.refuse_if_hopeless(time.monotonic() - 1)
    assert (lane.tally.refused, lane.busy_s) == (0, 0.0)
