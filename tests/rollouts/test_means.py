"""Metrics that are means: changed scores, labels that come later, differences of pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelfleet.core.errors import InvalidInput
from modelfleet.rollouts import judge
from modelfleet.rollouts.analysis import Analysis, Arm, Tick
from modelfleet.rollouts.judge import Finding, JudgeState, MetricVerdict
from modelfleet.rollouts.sequential import BURN_IN, Mean, Sums

ONLY = {"errors_max_increase": None, "latency_max_ratio": None, "predictions_max_distance": None}


def only(**limits: object) -> Analysis:
    return Analysis(**(ONLY | {"disagreements_max": None} | limits))  # type: ignore[arg-type]


def found(state: JudgeState, analysis: Analysis, *, mirrored: bool = False, arms: int = 1):
    verdict = judge.verdict(state, analysis, steps=1, weight=0.0, mirrored=mirrored, arms=arms)
    return verdict, {one.metric: one for one in verdict.metrics}


@pytest.mark.parametrize(
    ("n", "both", "one"), [(100, 0.471879, 0.458226), (2000, 0.067869, 0.062142)]
)
def test_the_published_widths(n: int, both: float, one: float) -> None:
    mean = Mean(weight=n, variance=n, rows_a=n, rows_b=n, scale=1.0)
    assert mean.half(0.05, two_sided=True) == pytest.approx(both, abs=1e-6)
    assert mean.half(0.05) == pytest.approx(one, abs=1e-6)


def sums(values: np.ndarray) -> Sums:
    return Sums(len(values), float(values.sum()), float(values @ values))


def test_a_tick_adds_what_the_formula_says() -> None:
    a, b = np.array([1.0, 2.0, 3.0, 6.0]), np.array([4.0, 8.0])
    mean = Mean().difference(sums(a), sums(b))
    h = 4 * 2 / 6
    spread = a.var(ddof=1) / 4 + b.var(ddof=1) / 2
    assert mean.weight == pytest.approx(h)
    assert mean.estimate == pytest.approx(b.mean() - a.mean())
    assert mean.variance == pytest.approx(h * h * spread)
    assert mean.half(0.05) == math.inf  # the burn-in
    assert Mean().difference(sums(a), sums(b[:1])) == Mean()


def test_the_scale_is_frozen_at_the_end_of_the_burn_in() -> None:
    rng, mean = np.random.default_rng(1), Mean()
    while mean.rows_b < BURN_IN:
        mean = mean.difference(sums(rng.normal(size=20)), sums(rng.normal(size=20)))
    scale = mean.scale
    assert scale > 0
    for _ in range(10):
        mean = mean.difference(sums(rng.normal(size=20)), sums(5 * rng.normal(size=20)))
    assert mean.scale == scale


def score_ticks(shift: float, ticks: int = 60, seed: int = 0) -> list[Tick]:
    rng = np.random.default_rng(seed)
    return [
        Tick(
            2 * k,
            Arm(90, score_sums=sums(rng.beta(2, 5, 90))),
            Arm(30, score_sums=sums(rng.beta(2, 5, 30) + shift)),
        )
        for k in range(1, ticks + 1)
    ]


@pytest.mark.parametrize(
    ("shift", "finding"), [(0.2, Finding.HARM), (-0.2, Finding.HARM), (0.0, Finding.PROOF)]
)
def test_mean_scores_may_change_within_the_margin(shift: float, finding: Finding) -> None:
    analysis = only(scores_max_change=0.05)
    state = judge.begin(analysis)
    for tick in score_ticks(shift):
        state = judge.update(state, analysis, tick)
    verdict, metrics = found(state, analysis)
    assert verdict.finding is finding
    assert metrics["scores"].scale == "bound"
    assert f"{shift:+.1f}"[:2] in metrics["scores"].sentence or shift == 0


def labels(rate_a: float, rate_b: float, analysis: Analysis, ticks: int = 60) -> JudgeState:
    rng, state = np.random.default_rng(3), judge.begin(analysis)
    for k in range(1, ticks + 1):
        arms = []
        for n, rate in ((200, rate_a), (100, rate_b)):
            right = n - int(rng.binomial(n, rate))
            arms.append(Arm(outcomes=n, outcome_sum=right, outcome_squares=right))
        state = judge.update(state, analysis, Tick(2 * k, *arms))
    return state


def test_labels_show_a_version_that_is_wrong_more_often() -> None:
    analysis = only(outcomes="error_rate", outcomes_max_increase=0.02)
    verdict, metrics = found(labels(0.1, 0.2, analysis), analysis)
    assert verdict.finding is Finding.HARM
    assert "6000 and 12000 labels" in metrics["outcomes"].sentence
    assert judge.late_harm(labels(0.1, 0.2, analysis), analysis)
    equal = labels(0.1, 0.1, analysis)
    assert found(equal, analysis)[0].finding is Finding.PROOF
    assert judge.late_harm(equal, analysis) == ""


def test_absolute_errors_are_means() -> None:
    analysis = only(outcomes="absolute_error", outcomes_max_increase=0.5)

    def after(worse: float) -> MetricVerdict:
        rng, state = np.random.default_rng(5), judge.begin(analysis)
        for k in range(1, 80):
            arms = []
            for shift in (0.0, worse):
                errors = np.abs(rng.normal(size=60)) + shift
                total, squares = -float(errors.sum()), float(errors @ errors)
                arms.append(Arm(outcomes=60, outcome_sum=total, outcome_squares=squares))
            state = judge.update(state, analysis, Tick(2 * k, *arms))
        return found(state, analysis)[1]["outcomes"]

    assert after(1.0).finding is Finding.HARM
    assert after(0.0).finding is Finding.PROOF
    assert after(-1.0).finding is Finding.PROOF  # smaller errors are no harm


def test_labels_that_nobody_waits_for_hold_nothing_up() -> None:
    analysis = Analysis(
        latency_max_ratio=None,
        predictions_max_distance=None,
        outcomes="error_rate",
        outcomes_required=False,
    )
    state = judge.begin(analysis)
    for k in range(1, 100):
        state = judge.update(state, analysis, Tick(2 * k, Arm(100), Arm(100)))
    verdict, metrics = found(state, analysis)
    assert verdict.finding is Finding.PROOF
    assert metrics["outcomes"].finding is Finding.OPEN


def pair_state(difference: float, analysis: Analysis) -> JudgeState:
    rng, state = np.random.default_rng(7), judge.begin(analysis)
    for k in range(1, 40):
        values = np.full(20, difference) if difference == 0 else rng.exponential(difference, 20)
        tick = Tick(2 * k, Arm(20), Arm(20), pairs=20, differences=sums(values), stable_us=2e4)
        state = judge.update(state, analysis, tick)
    return state


@pytest.mark.parametrize(
    ("difference", "finding"), [(0.0, Finding.PROOF), (0.01, Finding.PROOF), (0.2, Finding.HARM)]
)
def test_shadows_may_differ_by_so_much_on_average(difference: float, finding: Finding) -> None:
    analysis = only(differences_max=0.05)
    assert found(pair_state(difference, analysis), analysis, mirrored=True)[0].finding is finding


def test_more_arms_need_more_evidence() -> None:
    analysis = Analysis()
    state = judge.begin(analysis)
    one, four = (found(state, analysis, arms=arms)[1]["errors"] for arms in (1, 4))
    assert four.harm_needed == pytest.approx(one.harm_needed + math.log(4))
    assert four.proof_needed == pytest.approx(one.proof_needed + math.log(4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"outcomes": "happiness"},
        {"outcomes_delay_seconds": -1.0},
        {"scores_max_change": -0.1},
        {"differences_max": math.inf},
        {"hard_errors": 0.0},
    ],
)
def test_what_can_not_be_judged_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Analysis(**wrong)  # type: ignore[arg-type]
