"""The table of acceptance: how often the judge is wrong, and how long it takes.

Each row reads at every tick. Medians may differ by a quarter from the published ones; a null
inside its margin is accused in at most 3 % of histories, one at its margin in at most alpha plus
two standard errors. Latency is counted in buckets that grow by 9 %, which costs power at ratios
as small as 1.15: there the published shares (of exact latencies) are not reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from rollout_support import Truth, first_tick
from scipy import stats

from modelfleet.rollouts.analysis import Analysis
from modelfleet.rollouts.judge import Finding, JudgeState, Verdict
from modelfleet.rollouts.sequential import TwoArm, split_log_e

LN20 = math.log(20)
Stop = Callable[[JudgeState, Verdict], bool]
ERRORS = Analysis(latency_max_ratio=None, predictions_max_distance=None)


def at_most(alpha: float, histories: int) -> float:
    return alpha + 2 * math.sqrt(alpha * (1 - alpha) / histories)


def errors(side: int, margin: float, rate_a: float, rate_b: float, count: int) -> list[float]:
    """First alarm of each history: up to 200 ticks of 900 + 100 requests."""
    rng = np.random.default_rng(20)
    found = []
    for _ in range(count):
        y_a, y_b = rng.binomial(900, rate_a, 200), rng.binomial(100, rate_b, 200)
        test, alarm = TwoArm(side, margin), math.inf
        for tick in range(200):
            test = test.update(900, int(y_a[tick]), 100, int(y_b[tick]))
            if test.highest >= LN20:
                alarm = tick + 1
                break
        found.append(alarm)
    return found


def latency(ratio: float, slower: float, which: str, count: int) -> list[float]:
    """Up to 120 ticks of 180 + 20 log-normal latencies."""
    analysis = Analysis(
        errors_max_increase=None, predictions_max_distance=None, latency_max_ratio=ratio
    )

    def stop(state: JudgeState, _: Verdict) -> bool:
        test: TwoArm = getattr(state.latency, which)
        return test.highest >= LN20

    stable, canary = Truth(180), Truth(20, latency_us=10_000 * slower)
    return [first_tick(seed, stable, canary, analysis, 120, stop) for seed in range(count)]


def share(alarms: list[float]) -> float:
    return float(np.isfinite(alarms).mean())


@pytest.mark.parametrize(
    ("margin", "rates", "median"),
    [(0.0, (0.001, 0.01), 6), (0.002, (0.01, 0.02), 21), (0.002, (0.01, 0.05), 3)],
)
def test_errors_harm(margin: float, rates: tuple[float, float], median: float) -> None:
    alarms = errors(1, margin, *rates, 150)
    assert share(alarms) >= 0.99
    assert np.median(alarms) == pytest.approx(median, rel=0.25)


def test_errors_at_the_margin_are_not_harm() -> None:
    assert share(errors(1, 0.002, 0.01, 0.012, 200)) <= at_most(0.05, 200)


@pytest.mark.parametrize(
    ("margin", "found", "median"), [(0.01, 1.0, 15), (0.005, 0.96, 57), (0.002, 0.29, None)]
)
def test_errors_proof(margin: float, found: float, median: float | None) -> None:
    alarms = errors(-1, margin, 0.01, 0.01, 200)
    assert share(alarms) == pytest.approx(found, abs=2 * math.sqrt(0.3 * 0.7 / 200))
    if median is not None:
        assert np.median(alarms) == pytest.approx(median, rel=0.25)


@pytest.mark.parametrize("margin", [0.005, 0.002])
def test_errors_at_the_margin_are_not_proven(margin: float) -> None:
    assert share(errors(-1, margin, 0.01, 0.01 + margin, 200)) <= at_most(0.05, 200)


@pytest.mark.parametrize(
    ("slower", "least", "median"), [(1.1, 0.85, 51), (1.3, 1.0, 11), (2.0, 1.0, 7)]
)
def test_slower_versions_are_found(slower: float, least: float, median: float) -> None:
    alarms = latency(1.0, slower, "harm", 100)
    assert share(alarms) >= least
    assert np.median(alarms) == pytest.approx(median, rel=0.25)


def test_equal_latencies_are_rarely_accused() -> None:
    assert share(latency(1.0, 1.0, "harm", 120)) <= 0.03


def test_latencies_within_a_margin_of_15_percent() -> None:
    assert share(latency(1.15, 1.0, "harm", 60)) == 0
    assert share(latency(1.15, 1.15, "harm", 100)) <= at_most(0.05, 100)
    assert share(latency(1.15, 1.15, "proof", 100)) <= at_most(0.05, 100)
    assert share(latency(1.15, 1.3, "harm", 60)) >= 0.7
    assert share(latency(1.15, 1.0, "proof", 60)) >= 0.25


@pytest.mark.parametrize("x0_us", [9_000, 9_400, 9_800, 10_200, 10_600])
def test_the_margin_holds_wherever_the_quantile_falls_between_bounds(x0_us: float) -> None:
    """Bounds rounded to opposite sides once made a margin of 1.15 one of 1.09."""
    analysis = Analysis(
        errors_max_increase=None, predictions_max_distance=None, latency_max_ratio=1.15
    )
    stable, canary = Truth(1000, latency_us=x0_us), Truth(1000, latency_us=1.15 * x0_us)

    def harm(state: JudgeState, _: Verdict) -> bool:
        return state.latency.harm.highest >= LN20

    alarms = [first_tick(seed, stable, canary, analysis, 100, harm) for seed in range(20)]
    assert share(alarms) <= 0.1


def test_peeked_mann_whitney_accuses_one_in_five() -> None:
    """The usual test on the same equal latencies, read every ten ticks."""
    rng = np.random.default_rng(4)
    accused = 0
    for _ in range(50):
        a = rng.lognormal(0, 0.5, (120, 180))
        b = rng.lognormal(0, 0.5, (120, 20))
        accused += any(
            stats.mannwhitneyu(b[:k].ravel(), a[:k].ravel(), alternative="greater").pvalue < 0.05
            for k in range(5, 121, 10)
        )
    assert accused / 50 > 0.1


@pytest.mark.parametrize(
    ("true", "least", "median"), [(0.105, 0.98, 70), (0.11, 1.0, 17), (0.2, 1.0, 1)]
)
def test_a_wrong_split_is_found(true: float, least: float, median: float) -> None:
    alarms = [split_alarm(np.random.default_rng(seed), true) for seed in range(100)]
    assert share(alarms) >= least
    assert np.median(alarms) == pytest.approx(median, rel=0.25)


def test_a_right_split_is_never_accused() -> None:
    assert share([split_alarm(np.random.default_rng(seed), 0.1) for seed in range(200)]) == 0


def split_alarm(rng: np.random.Generator, true: float) -> float:
    canary: NDArray[np.int64] = np.cumsum(rng.binomial(1000, true, 200))
    for tick, count in enumerate(canary.tolist(), 1):
        if split_log_e(count, 1000 * tick, 0.1) >= math.log(1000):
            return tick
    return math.inf


def metric(name: str, finding: Finding) -> Stop:
    return lambda _, verdict: any(
        one.metric == name and one.finding is finding for one in verdict.metrics
    )


ALL = Analysis()
LONG = [
    # what, truth of stable and canary, per second and arm, median seconds
    ("errors", Finding.PROOF, {"error_rate": 0.001}, {"error_rate": 0.001}, 20, 16),
    ("errors", Finding.PROOF, {"error_rate": 0.001}, {"error_rate": 0.001}, 50, 7),
    ("latency", Finding.PROOF, {}, {}, 50, 11),
    ("predictions", Finding.PROOF, {}, {}, 20, 54),
    ("predictions", Finding.PROOF, {}, {}, 50, 22),
    ("predictions", Finding.PROOF, {}, {"shift": 0.1}, 50, 70),
    ("predictions", Finding.HARM, {}, {"shift": 0.47}, 20, 24),
    ("predictions", Finding.HARM, {}, {"shift": 0.47}, 50, 9),
    ("errors", Finding.HARM, {"error_rate": 0.001}, {"error_rate": 0.05}, 20, 10),
    ("errors", Finding.HARM, {"error_rate": 0.001}, {"error_rate": 0.05}, 50, 5),
]


@pytest.mark.parametrize(
    ("name", "finding", "stable", "canary", "rate", "median"),
    LONG,
    ids=[f"{row[0]}-{row[1]}-{row[3]}-{row[4]}" for row in LONG],
)
def test_how_long_it_takes(
    name: str,
    finding: Finding,
    stable: dict[str, float],
    canary: dict[str, float],
    rate: float,
    median: float,
) -> None:
    """Three metrics, ticks of a second, Poisson traffic."""
    truths = [Truth(rate, poisson=True, **one) for one in (stable, canary)]  # type: ignore[arg-type]
    stop = metric(name, finding)
    found = [first_tick(seed, *truths, ALL, 600, stop) for seed in range(40)]
    assert np.median(found) == pytest.approx(median, rel=0.25, abs=1.5)


def test_a_small_canary_proves_nothing_quickly_and_half_the_traffic_does() -> None:
    stop: Stop = lambda _, verdict: verdict.finding is Finding.PROOF  # noqa: E731
    small = [
        first_tick(seed, Truth(36, poisson=True), Truth(4, poisson=True), ALL, 90, stop)
        for seed in range(20)
    ]
    half = [
        first_tick(seed, Truth(75, poisson=True), Truth(75, poisson=True), ALL, 90, stop)
        for seed in range(20)
    ]
    assert share(small) == 0
    assert np.median(half) == pytest.approx(15, rel=0.3)
