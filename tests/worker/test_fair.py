"""Weighted fair queueing over callers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from modelfleet_worker.fair import WEIGHTS, FairQueue

HIGH, NORMAL, LOW = (WEIGHTS[name] for name in (b"high", b"normal", b"low"))


@dataclass(eq=False)
class Call:
    caller: bytes
    weight: float = NORMAL
    rows: int = 1


def drain(queue: FairQueue[Call]) -> list[bytes]:
    return [queue.pop().caller for _ in range(len(queue))]


def test_one_caller_is_served_in_order() -> None:
    queue: FairQueue[Call] = FairQueue()
    calls = [Call(b"a", rows=rows) for rows in (3, 1, 2)]
    for call in calls:
        queue.push(call)
    assert [queue.pop() for _ in calls] == calls


def test_who_floods_waits_behind_himself() -> None:
    queue: FairQueue[Call] = FairQueue()
    for _ in range(100):
        queue.push(Call(b"flood"))
    queue.push(Call(b"quiet"))
    assert b"quiet" in drain(queue)[:3]


def test_large_requests_count_as_many() -> None:
    queue: FairQueue[Call] = FairQueue()
    for _ in range(20):
        queue.push(Call(b"large", rows=10))
        queue.push(Call(b"small", rows=1))
    assert Counter(drain(queue)[:22])[b"small"] == 20


def test_priorities_get_shares_and_nobody_starves() -> None:
    queue: FairQueue[Call] = FairQueue()
    for _ in range(200):
        for name, weight in ((b"high", HIGH), (b"normal", NORMAL), (b"low", LOW)):
            queue.push(Call(name, weight))
    served = Counter(drain(queue)[:210])
    assert served[b"high"] > 3 * served[b"normal"] > 9 * served[b"low"] > 0


def test_what_matters_least_is_shed() -> None:
    queue: FairQueue[Call] = FairQueue()
    low = [Call(b"l", LOW), Call(b"l", LOW)]
    for call in (*low, Call(b"n")):
        queue.push(call)
    assert queue.last_below(NORMAL) is low[1]
    assert queue.last_below(LOW) is None
    assert queue.remove(lambda call: call is low[1]) == [low[1]]
    assert len(queue) == 2


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(1, 64)), max_size=60))
def test_nothing_is_lost_and_callers_keep_their_order(asked: list[tuple[bytes, int]]) -> None:
    queue: FairQueue[Call] = FairQueue()
    calls = [Call(caller, rows=rows) for caller, rows in asked]
    for call in calls:
        queue.push(call)
    served = [queue.pop() for _ in range(len(queue))]
    assert sorted(map(id, served)) == sorted(map(id, calls))
    for caller in (b"a", b"b", b"c"):
        assert [c for c in served if c.caller == caller] == [c for c in calls if c.caller == caller]
