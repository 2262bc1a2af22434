"""The decision: what must hold whatever is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modelfleet.core.errors import InvalidInput
from modelfleet.rollouts.judge import Finding, Verdict
from modelfleet.rollouts.plan import FULL, Approve, Preview, Spec, Step, Strategy
from modelfleet.rollouts.step import (
    AT_A_STEP,
    ENDED,
    Answer,
    Desired,
    Observed,
    Standing,
    State,
    Traffic,
    decide,
    waits_for,
)

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
        Spec(on_inconclusive="ask", inconclusive_after_seconds=30),
        Spec(on_fail="alert"),
        Spec(steps=(Step(shadow=FULL), Step(weight=500)), gates=({"infrastructure": {}},)),
        Spec(steps=(Step(approve=Approve()), Step(weight=500))),
        Spec(steps=(Step(pause=True), Step(weight=500))),
        Spec(steps=(Step(preview=Preview(header="x-test", equals="1")), Step(weight=500))),
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
    blocked=st.sampled_from(["", "Frozen."]),
    gates=st.builds(Answer, st.sampled_from(list(Standing))),
    approval=st.builds(Answer, st.sampled_from(list(Standing))),
    asked=st.one_of(st.none(), st.builds(Answer, st.sampled_from(list(Standing)))),
    beyond_limit=st.sampled_from(["", "Over the limit."]),
    alerted=st.booleans(),
    resumed=st.booleans(),
    promoted=st.booleans(),
)


@given(specs, observations, st.sampled_from(list(Desired)))
def test_rules_that_always_hold(spec: Spec, now: Observed, desired: Desired) -> None:
    assume(spec.plan or now.state not in AT_A_STEP)
    move = decide(spec, now, desired)
    assert isinstance(waits_for(spec, now, desired, move), str)
    if now.state in ENDED:
        assert move is None
        return
    if move is None:
        return
    finding = now.verdict.finding if now.verdict else None
    judged = now.state in AT_A_STEP
    by_hand = desired is Desired.PROMOTE or (
        now.asked is not None and now.asked.standing is Standing.PASSED
    )
    if judged and move.traffic is Traffic.PROMOTED and not by_hand and now.has_stable:
        assert finding is Finding.PROOF
        assert now.applied
    if judged and finding is Finding.HARM and desired is not Desired.PROMOTE:
        assert move.state in (State.ROLLING_BACK, State.FROZEN) or move.tells
    if desired is Desired.ABORT and now.state is not State.ROLLING_BACK:
        assert move.state in (State.ROLLING_BACK, State.CANCELLED)
    if move.traffic is Traffic.STEP and judged:
        assert now.applied
    if move.is_forward:
        assert not now.blocked
    unmoved = now.state in (State.PENDING, State.GATING)
    if unmoved and move.traffic is not None:
        assert now.version_status == "ready" or now.state is State.GATING
        assert not spec.gates or now.gates.standing is Standing.PASSED
    if now.state is State.PENDING and now.version_status != "ready":
        assert move.state in (State.ROLLED_BACK, State.CANCELLED)
    if move.state is State.STEPPING and now.state is State.AWAITING_APPROVAL and not by_hand:
        assert now.approval.standing is Standing.PASSED


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
