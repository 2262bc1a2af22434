"""The tests of the judge against their published vectors, and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelfleet.rollouts.sequential import OneArm, TwoArm, kolmogorov_band, split_log_e

TICKS = [(900, 9, 100, 1), (900, 9, 100, 5), (900, 9, 100, 6)]


@pytest.mark.parametrize(
    ("margin", "expected"), [(0.0, [0.0, 0.016016, 3.943769]), (0.002, [0.0, 0.0, 3.282306])]
)
def test_harm_vector(margin: float, expected: list[float]) -> None:
    test, found = TwoArm(1, margin), []
    for tick in TICKS:
        test = test.update(*tick)
        found.append(round(test.log_e, 6))
    assert found == expected


def test_band_vector() -> None:
    found = [round(kolmogorov_band(10**k, 0.05), 4) for k in (3, 4, 5)]
    assert found == [0.0866, 0.0277, 0.0088]


def test_split_vector() -> None:
    assert split_log_e(100, 1000, 0.1) == pytest.approx(-1.206605, abs=1e-6)
    assert split_log_e(150, 1000, 0.1) == pytest.approx(9.867117, abs=1e-6)


@pytest.mark.parametrize(("margin", "side"), [(0.0, 1), (0.002, 1), (0.01, -1)])
def test_a_bet_gains_nothing_on_average_under_the_null(margin: float, side: int) -> None:
    """Enumerate a block of 9 + 3 requests at the border of the null: expectation at most 1."""
    bettor = TwoArm(side, margin, errors_a=2.0, total_a=50.0, errors_b=1.0 + side, total_b=30.0)
    for rate in (0.01, 0.05, 0.2):
        expectation = 0.0
        for y_a in range(10):
            for y_b in range(4):
                gain = bettor.update(9, y_a, 3, y_b).log_e
                chance = _binomial(9, y_a, rate) * _binomial(3, y_b, rate + margin)
                expectation += chance * math.exp(gain)
        assert expectation <= 1.0 + 1e-6


def _binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def _alarms(
    rate_a: float, rate_b: float, margin: float, side: int, histories: int, ticks: int
) -> list[int | None]:
    """For each history the tick of the first alarm at 5 %, reading every tick (900 + 100)."""
    random = np.random.default_rng(11)
    found: list[int | None] = []
    for _ in range(histories):
        errors_a = random.binomial(900, rate_a, ticks)
        errors_b = random.binomial(100, rate_b, ticks)
        test, alarm = TwoArm(side, margin), None
        for tick in range(ticks):
            test = test.update(900, int(errors_a[tick]), 100, int(errors_b[tick]))
            if test.highest >= math.log(20):
                alarm = tick + 1
                break
        found.append(alarm)
    return found


def _share(alarms: list[int | None]) -> float:
    return sum(alarm is not None for alarm in alarms) / len(alarms)


def test_identical_versions_are_rarely_accused_however_often_one_looks() -> None:
    assert _share(_alarms(0.01, 0.01, 0.0, 1, 300, 200)) <= 0.03
    assert _share(_alarms(0.001, 0.001, 0.0, 1, 300, 200)) <= 0.03


def test_a_peeked_z_test_accuses_a_third_of_them() -> None:
    """What the same reading does with the usual test: the reason for ours."""
    random = np.random.default_rng(11)
    accused = 0
    for _ in range(300):
        a = np.cumsum(random.binomial(900, 0.01, 200))
        b = np.cumsum(random.binomial(100, 0.01, 200))
        n_a, n_b = 900 * np.arange(1, 201), 100 * np.arange(1, 201)
        pooled = (a + b) / (n_a + n_b)
        spread = np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
        z = (b / n_b - a / n_a) / np.maximum(spread, 1e-12)
        accused += bool((z > 1.645).any())
    assert accused / 300 > 0.25


@pytest.mark.parametrize(
    ("worse", "median"), [((0.01, 0.02), 13), ((0.01, 0.05), 3), ((0.05, 0.06), 46.5)]
)
def test_a_worse_version_is_found_as_fast_as_promised(
    worse: tuple[float, float], median: float
) -> None:
    alarms = _alarms(*worse, 0.0, 1, 200, 200)
    assert _share(alarms) >= 0.99
    assert np.median([a for a in alarms if a]) == pytest.approx(median, rel=0.25, abs=1)


def test_proof_comes_for_equals_and_rarely_at_the_margin() -> None:
    proven = _alarms(0.01, 0.01, 0.01, -1, 200, 200)
    assert _share(proven) == 1.0
    assert np.median([a for a in proven if a]) == pytest.approx(15, rel=0.25)
    assert _share(_alarms(0.01, 0.02, 0.01, -1, 300, 200)) <= 0.05 + 2 * math.sqrt(
        0.05 * 0.95 / 300
    )


def test_one_arm_against_a_limit() -> None:
    random = np.random.default_rng(3)
    false_harm = false_proof = 0
    for _ in range(300):
        harm, proof = OneArm(1, 0.05), OneArm(-1, 0.05)
        for errors in random.binomial(50, 0.05, 150):
            harm, proof = harm.update(50, int(errors)), proof.update(50, int(errors))
        false_harm += harm.highest >= math.log(20)
        false_proof += proof.highest >= math.log(20)
    assert max(false_harm, false_proof) / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)
    proof = OneArm(-1, 0.05)
    for _ in range(20):
        proof = proof.update(50, 0)
    assert proof.highest >= math.log(20)


def test_a_drifting_rate_with_moving_weights_fools_nobody() -> None:
    """Both arms alike at each moment, the rate rises while the canary's weight does."""
    random = np.random.default_rng(5)
    accused = 0
    for _ in range(200):
        test = TwoArm(1, 0.0)
        for tick in range(120):
            rate, weight = 0.01 + 0.0005 * tick, (0.05, 0.25, 0.5, 0.75)[tick // 30]
            n_b = int(1000 * weight)
            y_a, y_b = random.binomial(1000 - n_b, rate), random.binomial(n_b, rate)
            test = test.update(1000 - n_b, int(y_a), n_b, int(y_b))
        accused += test.highest >= math.log(20)
    assert accused / 200 <= 0.03
