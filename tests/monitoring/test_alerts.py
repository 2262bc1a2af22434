"""The life of an alert."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelfleet.monitoring.alerts import (
    Alert,
    AlertKey,
    AlertKind,
    AlertState,
    Observation,
    Policy,
    acknowledge,
    step,
)

KEY = AlertKey(AlertKind.DRIFT, "late-JFK", 3, "distance")


def run(seen: list[bool | None], policy: Policy) -> list[AlertState | None]:
    alert: Alert | None = None
    states: list[AlertState | None] = []
    for at, breached in enumerate(seen, 1):
        alert = step(alert, KEY, Observation(at, breached, f"window {at}"), policy)
        states.append(alert.state if alert else None)
    return states


def test_fires_at_once_and_resolves_after_clean_windows():
    policy = Policy(windows=1, clear_windows=2)
    firing, resolved = AlertState.FIRING, AlertState.RESOLVED
    assert run([False, True, None, False, True, False, None, False, True], policy) == [
        None, firing, firing, firing, firing, firing, firing, resolved, firing,
    ]  # fmt: skip


def test_waits_for_a_second_window_if_told_so():
    policy = Policy(windows=2)
    pending, firing = AlertState.PENDING, AlertState.FIRING
    assert run([True, False, True, True], policy) == [pending, None, pending, firing]


def test_acknowledged_alerts_stay_until_it_is_over():
    alert = step(None, KEY, Observation(1, True), Policy())
    assert alert is not None
    alert = acknowledge(alert, "ann", 5)
    again = step(alert, KEY, Observation(6, True, "worse"), Policy())
    assert again is not None
    assert (again.state, again.acknowledged_by, again.summary) == (
        AlertState.ACKNOWLEDGED,
        "ann",
        "worse",
    )
    over = step(again, KEY, Observation(7, False), Policy())
    assert over is not None
    assert (over.state, over.resolved_at) == (AlertState.RESOLVED, 7)


@given(st.lists(st.sampled_from([True, False, None]), max_size=30), st.integers(1, 3))
def test_a_window_judged_twice_counts_once(seen, windows):
    policy = Policy(windows, 2)
    once: Alert | None = None
    twice: Alert | None = None
    for at, breached in enumerate(seen, 1):
        observation = Observation(at, breached)
        once = step(once, KEY, observation, policy)
        twice = step(twice, KEY, observation, policy)
        if twice is not None and twice.is_open:
            twice = step(twice, KEY, observation, policy)
        assert once == twice
