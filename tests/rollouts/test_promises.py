"""What the tests on counts promise, enumerated and for any counts."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet.rollouts.sequential import OneArm, TwoArm, kolmogorov_band, split_log_e


def expectation(test: TwoArm, n_a: int, n_b: int, rate_a: float, rate_b: float) -> float:
    """E[exp(gain)] of one tick, enumerated."""
    total = 0.0
    for y_a, y_b in itertools.product(range(n_a + 1), range(n_b + 1)):
        chance = (
            math.comb(n_a, y_a)
            * rate_a**y_a
            * (1 - rate_a) ** (n_a - y_a)
            * math.comb(n_b, y_b)
            * rate_b**y_b
            * (1 - rate_b) ** (n_b - y_b)
        )
        after = test.update(n_a, y_a, n_b, y_b)
        total += chance * math.exp(after.log_e - test.log_e)
    return total


@pytest.mark.parametrize(("side", "margin"), [(1, 0.0), (1, 0.05), (-1, 0.05), (-1, 0.1)])
@pytest.mark.parametrize("seen", [(20, 1, 20, 6), (20, 6, 20, 1), (40, 4, 10, 1)])
def test_no_bet_wins_on_average_where_nothing_is_wrong(
    side: int, margin: float, seen: tuple[int, int, int, int]
) -> None:
    test = TwoArm(side, margin).update(*seen)
    for rate_a in (0.01, 0.05, 0.2, 0.5, 0.8):
        for beyond in (0.0, 0.03):
            rate_b = rate_a + margin - side * beyond
            if 0 <= rate_b <= 1:
                assert expectation(test, 9, 3, rate_a, rate_b) <= 1 + 1e-9


def test_bets_win_where_something_is_wrong() -> None:
    test = TwoArm(1, 0.0).update(90, 2, 30, 9)
    assert expectation(test, 9, 3, 0.02, 0.3) > 1.2


@pytest.mark.parametrize("side", [1, -1])
def test_one_arm_keeps_its_promise_too(side: int) -> None:
    test = OneArm(side, 0.1).update(50, 10 if side > 0 else 0)
    for rate in (0.02, 0.1, 0.3):
        total = sum(
            math.comb(8, y)
            * rate**y
            * (1 - rate) ** (8 - y)
            * math.exp(test.update(8, y).log_e - test.log_e)
            for y in range(9)
        )
        null = rate <= 0.1 if side > 0 else rate >= 0.1
        assert (total <= 1 + 1e-9) if null else (total > 1)


COUNTS = st.integers(0, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([1, -1]),
    st.sampled_from([0.0, 0.001, 0.01, 0.5, 0.99]),
    st.lists(st.tuples(COUNTS, COUNTS), max_size=12),
)
def test_any_counts_give_finite_evidence_that_never_shrinks(
    side: int, margin: float, ticks: list[tuple[tuple[int, int], tuple[int, int]]]
) -> None:
    test, one, highest = TwoArm(side, margin), OneArm(side, margin), 0.0
    for a, b in ticks:
        test, one = test.update(*a, *b), one.update(*b)
        assert math.isfinite(test.log_e)
        assert math.isfinite(one.log_e)
        assert test.highest >= highest
        highest = test.highest
    assert test.total_a == pytest.approx(0.5 + sum(a[0] for a, _ in ticks))
    assert test.errors_b == pytest.approx(0.01 + sum(b[1] for _, b in ticks))


def test_an_empty_tick_or_arm_is_no_evidence() -> None:
    test = TwoArm(1, 0.0).update(100, 1, 100, 50)
    assert test.update(0, 0, 0, 0) is test
    assert test.update(0, 0, 10, 10).log_e == test.log_e
    assert OneArm(1, 0.1).update(0, 0) == OneArm(1, 0.1)


def test_nothing_seen_is_no_evidence_of_the_other_two() -> None:
    assert kolmogorov_band(0, 0.05) == math.inf
    assert split_log_e(0, 0, 0.1) == split_log_e(5, 10, 0.0) == split_log_e(5, 10, 1.0) == 0.0
