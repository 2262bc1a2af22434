"""The decision: what must hold whatever is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modelfleet.core.errors import InvalidInput
from modelfleet.rollouts.judge import Finding, Verdict
from modelfleet.rollouts.plan import Spec, Strategy
from modelfleet.rollouts.step import ENDED, Desired, Observed, State, Traffic, decide

CANARY = Spec(weights=(500, 5000), step_seconds=10, bake_seconds=20)


def verdict(finding: Finding, samples: int = 1000) -> Verdict:
    return Verdict(finding, (), samples, samples, f"It is {finding}.")


def seen(**values: object) -> Observed:
    plain = Observed(
        state=State.STEPPING,
        step=0,
        step_seconds=60,
        waited_seconds=60,
        has_stable=True,
        version_status="ready",
        version_reason="",
        load_error="",
        applied=True,
        verdict=verdict(Finding.OPEN),
    )
    return replace(plain, **values)  # type: ignore[arg-type]


specs = st.sampled_from(
    [
        CANARY,
        Spec(strategy=Strategy.BLUE_GREEN),
        Spec(strategy=Strategy.IMMEDIATE),
        Spec(strategy=Strategy.SHADOW),
        Spec(on_fail="freeze"),
        Spec(on_inconclusive="rollback", inconclusive_after_seconds=30),
    ]
)
observations = st.builds(
    seen,
    state=st.sampled_from(list(State)),
    step=st.just(0),
    step_seconds=st.floats(0, 100),
    waited_seconds=st.floats(0, 100),
    has_stable=st.booleans(),
    version_status=st.sampled_from(["pending", "ready", "failed"]),
    load_error=st.sampled_from(["", "no such file"]),
    applied=st.booleans(),
    verdict=st.one_of(st.none(), st.builds(verdict, st.sampled_from(list(Finding)))),
    bake_requests=st.integers(0, 200),
    bake_errors=st.integers(0, 100),
)


@given(specs, observations, st.sampled_from(list(Desired)))
def test_rules_that_always_hold(spec: Spec, now: Observed, desired: Desired) -> None:
    assume(spec.steps or now.state not in (State.STEPPING, State.PAUSED))
    move = decide(spec, now, desired)
    if now.state in ENDED:
        assert move is None
        return
    if move is None:
        return
    finding = now.verdict.finding if now.verdict else None
    judged = now.state in (State.STEPPING, State.PAUSED)
    if judged and move.traffic is Traffic.PROMOTED:
        assert finding is Finding.PROOF
        assert now.applied
    if judged and finding is Finding.HARM:
        assert move.state in (State.ROLLING_BACK, State.FROZEN)
    if desired is Desired.ABORT and now.state is not State.ROLLING_BACK:
        assert move.state in (State.ROLLING_BACK, State.ROLLED_BACK)
    if move.traffic is Traffic.STEP and judged:
        assert now.applied
    if now.state is State.PENDING and now.version_status != "ready":
        assert move.state is State.ROLLED_BACK


def test_a_canary_goes_step_by_step_to_promotion() -> None:
    assert decide(CANARY, seen(state=State.PENDING), Desired.RUN).traffic is Traffic.STEP  # type: ignore[union-attr]
    first = decide(CANARY, seen(), Desired.RUN)
    assert first is not None
    assert (first.state, first.step) == (State.STEPPING, 1)
    assert decide(CANARY, seen(step=1), Desired.RUN) is None
    last = decide(CANARY, seen(step=1, verdict=verdict(Finding.PROOF)), Desired.RUN)
    assert last is not None
    assert (last.state, last.traffic) == (State.BAKING, Traffic.PROMOTED)
    assert decide(CANARY, seen(state=State.BAKING, step_seconds=5), Desired.RUN) is None
    ended = decide(CANARY, seen(state=State.BAKING, step_seconds=21), Desired.RUN)
    assert ended is not None
    assert ended.state is State.SUCCEEDED


def test_too_few_samples_or_too_little_time_hold_a_step() -> None:
    assert decide(CANARY, seen(verdict=verdict(Finding.PROOF, 10)), Desired.RUN) is None
    assert decide(CANARY, seen(step_seconds=3), Desired.RUN) is None
    assert decide(CANARY, seen(applied=False), Desired.RUN) is None


def test_pausing_holds_but_harm_still_acts() -> None:
    paused = decide(CANARY, seen(), Desired.PAUSE)
    assert paused is not None
    assert paused.state is State.PAUSED
    still = seen(state=State.PAUSED, verdict=verdict(Finding.PROOF))
    assert decide(CANARY, still, Desired.PAUSE) is None
    hurt = decide(CANARY, seen(state=State.PAUSED, verdict=verdict(Finding.HARM)), Desired.PAUSE)
    assert hurt is not None
    assert hurt.state is State.ROLLING_BACK
    resumed = decide(CANARY, seen(state=State.PAUSED), Desired.RUN)
    assert resumed is not None
    assert resumed.state is State.STEPPING


def test_the_end_of_a_rollback_says_why() -> None:
    back = seen(state=State.ROLLING_BACK, reason="Worse in errors.")
    move = decide(CANARY, back, Desired.RUN)
    assert move is not None
    assert move.sentence == "Worse in errors. All traffic is back on the stable version."
    assert decide(CANARY, replace(back, applied=False), Desired.RUN) is None


def test_blue_green_is_judged_in_its_bake() -> None:
    spec = Spec(strategy=Strategy.BLUE_GREEN, bake_seconds=60)
    bad = seen(state=State.BAKING, verdict=None, bake_requests=100, bake_errors=30)
    move = decide(spec, bad, Desired.RUN)
    assert move is not None
    assert (move.state, move.traffic) == (State.ROLLING_BACK, Traffic.STABLE)


@pytest.mark.parametrize(
    "values",
    [
        {"weights": ()},
        {"weights": (5000, 500)},
        {"weights": (10_000,)},
        {"on_fail": "shrug"},
        {"on_inconclusive": "pass"},
        {"step_seconds": -1},
        {"shadow_fraction": 0},
    ],
)
def test_nonsense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Spec(**values)  # type: ignore[arg-type]
