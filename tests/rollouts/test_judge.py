"""The judge's own bookkeeping: ticks once each, turning ticks, hard limit, bins, split."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest

from modelfleet.core.errors import InvalidInput
from modelfleet.rollouts.analysis import Analysis, Arm, Tick
from modelfleet.rollouts.judge import (
    Finding,
    JudgeState,
    Verdict,
    begin,
    next_step,
    update,
    verdict,
)
from modelfleet.rollouts.plan import Spec, Strategy
from modelfleet.telemetry.latency import BUCKETS

ONLY_ERRORS = Analysis(latency_max_ratio=None, predictions_max_distance=None)
ONLY_SCORES = Analysis(errors_max_increase=None, latency_max_ratio=None)


def arm(requests: int, errors: int = 0, scores: tuple[int, ...] = ()) -> Arm:
    return Arm(requests, errors, (), scores)


def play(analysis: Analysis, *ticks: Tick) -> JudgeState:
    state = begin(analysis)
    for tick in ticks:
        state = update(state, analysis, tick)
    return state


def say(state: JudgeState, analysis: Analysis, weight: float = 0.5) -> Verdict:
    return verdict(state, analysis, steps=1, weight=weight, mirrored=False)


def test_a_tick_counts_once_and_late_ones_are_ticks_of_their_own() -> None:
    even, late = Tick(4, arm(100), arm(100, 3)), Tick(5, arm(1), arm(2, 1))
    once = play(ONLY_ERRORS, even, late)
    assert play(ONLY_ERRORS, even, even, late, even, late) == once
    assert once.hard == (102, 4)
    assert once.errors_harm.total_b == 102.5


def test_the_state_survives_its_row() -> None:
    latency = (0,) * 70 + (90, 10) + (0,) * (BUCKETS - 72)
    one = Arm(100, 0, latency, (50, 50))
    state = play(Analysis(), *(Tick(2 * k, one, one) for k in range(8)))
    assert state.latency.threshold_us is not None
    back = msgspec.convert(msgspec.json.decode(msgspec.json.encode(state)), JudgeState)
    assert back == state


def test_a_turning_tick_is_no_good_for_split_and_scores() -> None:
    tick = Tick(2, arm(90, 0, (90, 0)), arm(10, 1, (0, 9)), turning=True)
    state = play(Analysis(), tick)
    assert state.step_samples == (0, 0)
    assert state.scores_stable == state.scores_canary == ()
    assert state.hard == (10, 1)
    assert state.errors_harm.total_b == 10.5


def test_a_wrong_split_makes_everything_inconclusive_over_all_steps() -> None:
    wrong = [Tick(2 * k, arm(400), arm(600)) for k in range(1, 30)]
    state = play(ONLY_ERRORS, *wrong)
    assert say(state, ONLY_ERRORS).finding is Finding.OPEN
    assert "split" in say(state, ONLY_ERRORS).sentence
    state = next_step(state, 0.5)
    assert state.step_samples == (0, 0)
    right = update(state, ONLY_ERRORS, Tick(100, arm(250), arm(750)))
    assert "split" in say(right, ONLY_ERRORS, 0.75).sentence
    broken = update(right, ONLY_ERRORS, Tick(102, arm(0), arm(60, 40)))
    assert say(broken, ONLY_ERRORS, 0.75).finding is Finding.HARM


def test_a_long_good_time_does_not_hide_a_bad_moment() -> None:
    state = play(ONLY_ERRORS, *(Tick(2 * k, arm(0), arm(1000)) for k in range(1, 50)))
    assert state.broken is None
    state = update(state, ONLY_ERRORS, Tick(200, arm(0), arm(100, 60)))
    assert state.broken == (100, 60)
    after = update(state, ONLY_ERRORS, Tick(202, arm(0), arm(5000)))
    assert after.broken == (100, 60)
    assert say(after, ONLY_ERRORS).finding is Finding.HARM
    assert next_step(after, 0.5).broken is None


def test_the_hard_limit_waits_for_fifty_requests_and_gathers_them() -> None:
    few = play(ONLY_ERRORS, *(Tick(2 * k, arm(0), arm(7, 7)) for k in range(1, 8)))
    assert few.broken is None
    assert update(few, ONLY_ERRORS, Tick(20, arm(0), arm(1, 1))).broken == (50, 50)


def test_a_stable_version_that_breaks_too_is_no_reason_against_the_canary() -> None:
    state = play(ONLY_ERRORS, *(Tick(2 * k, arm(100, 50), arm(100, 50)) for k in range(1, 9)))
    assert state.broken is None
    assert say(state, ONLY_ERRORS).finding is Finding.OPEN


def test_scores_in_other_bins_are_left_out() -> None:
    good = [Tick(2 * k, arm(100, 0, (50, 50)), arm(100, 0, (50, 50))) for k in range(1, 4)]
    odd = Tick(8, arm(100, 0, (50, 50)), arm(100, 0, (30, 30, 40)))
    state = play(ONLY_SCORES, *good, odd)
    assert state.scores_canary == (150, 150)
    first = play(ONLY_SCORES, odd, Tick(10, good[0].stable, good[0].canary))
    assert first.scores_stable == (50, 50)


def test_metrics_that_are_left_out_are_not_judged() -> None:
    tick = Tick(2, arm(100, 0, (100,)), arm(100, 0, (100,)))
    assert [m.metric for m in say(play(ONLY_ERRORS, tick), ONLY_ERRORS).metrics] == ["errors"]
    assert [m.metric for m in say(play(ONLY_SCORES, tick), ONLY_SCORES).metrics] == ["predictions"]
    shadow = verdict(begin(Analysis()), Analysis(), steps=1, weight=0, mirrored=True)
    assert [m.metric for m in shadow.metrics] == ["errors", "latency", "disagreements"]
    assert shadow.metrics[0].harm_needed == pytest.approx(math.log(3 / 0.05))
    assert shadow.metrics[0].proof_needed == pytest.approx(math.log(1 / 0.05))


@pytest.mark.parametrize(
    "values",
    [
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"errors_max_increase": -0.1},
        {"errors_max_increase": 1.0},
        {"latency_max_ratio": 0.0},
        {"latency_max_ratio": math.inf},
        {"latency_quantile": 1.0},
        {"latency_floor_ms": -1.0},
        {"predictions_max_distance": math.nan},
        {"disagreements_max": 2.0},
        {"min_samples": -1},
    ],
    ids=str,
)
def test_limits_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        Analysis(**values)  # type: ignore[arg-type]


def test_what_could_never_be_proven_is_refused() -> None:
    nothing = Analysis(
        errors_max_increase=None,
        latency_max_ratio=None,
        predictions_max_distance=None,
        disagreements_max=0.05,
    )
    with pytest.raises(InvalidInput, match="canary"):
        Spec(analysis=nothing)
    assert Spec(strategy=Strategy.SHADOW, analysis=nothing).plan[0].shadow == 10_000
    pairless = Analysis(errors_max_increase=None, latency_max_ratio=None, disagreements_max=None)
    with pytest.raises(InvalidInput, match="shadow"):
        Spec(strategy=Strategy.SHADOW, analysis=pairless)
    assert Spec(strategy=Strategy.BLUE_GREEN, analysis=pairless).plan == ()
    for endless in (math.inf, math.nan):
        with pytest.raises(InvalidInput):
            Spec(bake_seconds=endless)


def test_a_share_can_not_be_worse_by_all_of_it() -> None:
    for loss in ("error_rate", "precision", "recall"):
        with pytest.raises(InvalidInput, match="below 1"):
            Analysis(outcomes=loss, outcomes_max_increase=1.0)
    assert Analysis(outcomes="absolute_error", outcomes_max_increase=3.0)


def test_labels_that_nobody_waits_for_prove_nothing_alone() -> None:
    alone = Analysis(
        errors_max_increase=None,
        latency_max_ratio=None,
        predictions_max_distance=None,
        outcomes="error_rate",
        outcomes_required=False,
    )
    with pytest.raises(InvalidInput, match="never be proven"):
        Spec(analysis=alone)
    assert Spec(analysis=replace(alone, outcomes_required=True)).analysis.outcomes == "error_rate"
