"""Closed, open, half-open: what each call does to a circuit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelfleet.serving.pipelines.definition import BreakerRule
from modelfleet.serving.pipelines.executor.breaker import Breaker

RULE = BreakerRule(window=4, minimum=2, share=0.5, open_ms=1000)


def admitted(breaker: Breaker, now: float) -> int:
    ticket = breaker.admit(now)
    assert ticket is not None
    return ticket


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(RULE)
    for _ in range(2):
        breaker.failed(admitted(breaker, at), at)
    assert breaker.state(at) == "open"
    return breaker


def test_it_opens_on_the_share_of_failures_and_not_before_the_minimum() -> None:
    breaker = Breaker(RULE)
    breaker.failed(admitted(breaker, 0), 0)
    assert breaker.state(0) == "closed"
    for _ in range(3):
        breaker.succeeded(admitted(breaker, 0))
    breaker.failed(admitted(breaker, 0), 0)  # the first failure has left the window
    assert breaker.state(0) == "closed"
    breaker.failed(admitted(breaker, 0), 0)
    assert breaker.state(0) == "open"


def test_open_lets_nobody_through_until_one_may_probe() -> None:
    breaker = opened()
    assert breaker.admit(0.999) is None
    probe = admitted(breaker, 1.0)
    assert breaker.state(1.0) == "half-open"
    assert breaker.admit(1.0) is None  # one probe at a time
    breaker.failed(probe, 1.5)
    assert breaker.admit(2.4) is None
    breaker.succeeded(admitted(breaker, 2.5))
    assert breaker.state(2.5) == "closed"
    breaker.failed(admitted(breaker, 2.5), 2.5)
    assert breaker.state(2.5) == "closed"  # what was before is forgotten


def test_a_probe_that_was_given_up_makes_room_for_another() -> None:
    breaker = opened()
    breaker.released(admitted(breaker, 1.0))
    breaker.succeeded(admitted(breaker, 1.1))
    assert breaker.state(1.1) == "closed"


def test_a_late_answer_says_nothing_about_the_model_of_now() -> None:
    breaker = Breaker(RULE)
    late = [admitted(breaker, 0) for _ in range(4)]
    for _ in range(2):
        breaker.failed(admitted(breaker, 0), 0)
    breaker.succeeded(late[0])
    assert breaker.state(0.5) == "open"
    probe = admitted(breaker, 1.0)
    breaker.failed(late[1], 1.0)
    breaker.released(late[2])
    assert breaker.admit(1.0) is None  # the probe is still under way
    breaker.succeeded(probe)
    breaker.failed(late[3], 1.1)
    assert breaker.state(1.1) == "closed"


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 0.7)), max_size=60))
def test_it_never_stays_open_for_ever(history: list[tuple[bool, float]]) -> None:
    breaker, now = Breaker(RULE), 0.0
    for good, pause in history:
        now += pause
        ticket = breaker.admit(now)
        if ticket is None:
            assert breaker.state(now) == "open"
        elif good:
            breaker.succeeded(ticket)
            assert breaker.state(now) == "closed"
        else:
            breaker.failed(ticket, now)
    assert breaker.admit(now + 1.001) is not None
