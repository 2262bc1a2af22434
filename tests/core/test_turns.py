"""First come, first served."""

from __future__ import annotations

import threading
import time

from modelfleet.core.turns import Turns


def until(what: object, count: int) -> None:
    end = time.monotonic() + 10
    while len(what) < count:  # type: ignore[arg-type]
        assert time.monotonic() < end
        time.sleep(0.001)


def test_turns_come_in_the_order_of_asking() -> None:
    turns, order = Turns(), []
    assert turns.acquire(0)

    def ask(number: int) -> None:
        assert turns.acquire(10)
        order.append(number)
        turns.release()

    threads = []
    for number in range(20):
        threads.append(threading.Thread(target=ask, args=(number,)))
        threads[-1].start()
        until(turns._waiting, number + 1)
    turns.release()
    for thread in threads:
        thread.join(10)
    assert order == list(range(20))
    assert turns.acquire(0)


def test_who_waits_too_long_leaves_and_takes_nobodys_turn() -> None:
    turns = Turns()
    assert turns.acquire(0)
    assert not turns.acquire(0.02)
    assert not turns._waiting
    turns.release()
    assert turns.acquire(0)


def test_one_at_a_time_whatever_happens() -> None:
    turns, inside, most, done = Turns(), [0], [0], [0]

    def work(number: int) -> None:
        for step in range(100):
            if turns.acquire(0.0005 if (number + step) % 3 else 5):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0001)
                inside[0] -= 1
                done[0] += 1
                turns.release()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1]
    assert done[0] > 100
    assert turns.acquire(0)  # none got lost
