"""The tolerance test: quiet under tolerated shifts, loud beyond, exact in its parts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, ncx2, norm

from modelfleet.monitoring.fdr import benjamini_hochberg
from modelfleet.telemetry.drift import (
    Stream,
    fold_sparse,
    tolerance_tests,
    two_sample_statistic,
    upper_tail,
)

EDGES = norm.ppf(np.linspace(0, 1, 21)[1:-1])
SHIFT = 0.1
"""A shift by a tenth of a standard deviation is the default tolerance of .01."""


def shares(shift: float) -> np.ndarray:
    return np.diff(np.concatenate([[0.0], norm.cdf(EDGES - shift), [1.0]]))


def streams(rng, count: int, n: int, m: int, shift: float) -> list[Stream]:
    window = rng.multinomial(n, shares(shift), count)
    reference = rng.multinomial(m, shares(0.0), count)
    return [Stream(*pair) for pair in zip(window, reference, strict=True)]


def test_statistic_is_that_of_a_contingency_table():
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = rng.integers(1, 200, (2, 8))
        found = two_sample_statistic(table[:1].astype(float), table[1:].astype(float))
        assert found[0] == pytest.approx(chi2_contingency(table, correction=False).statistic)


def test_tail_agrees_with_scipy_one_by_one():
    rng = np.random.default_rng(1)
    statistic = rng.uniform(0, 500, 200)
    degrees = rng.integers(1, 50, 200).astype(float)
    noncentrality = np.where(rng.random(200) < 0.2, 0.0, rng.uniform(0, 200, 200))
    found = upper_tail(statistic, degrees, noncentrality)
    for row in range(200):
        if noncentrality[row] > 0:
            one = ncx2.sf(statistic[row], degrees[row], noncentrality[row])
            assert found[row] == pytest.approx(one, rel=1e-12)
        else:
            assert found[row] == pytest.approx(ncx2.sf(statistic[row], degrees[row], 1e-12))


def test_tail_stays_a_probability_where_numbers_get_large():
    found = upper_tail(np.array([1e5, 1e6, 10.0]), np.full(3, 19.0), np.array([1e2, 1e4, 1e6]))
    assert found[0] == 0.0
    assert ((found >= 0) & (found <= 1)).all()
    assert found[2] == pytest.approx(1.0)


@pytest.mark.parametrize("n", [200, 1000, 10_000])
def test_no_false_alarms_without_drift_or_under_the_tolerance(n):
    rng = np.random.default_rng(n)
    for shift in (0.0, SHIFT):
        result = tolerance_tests(streams(rng, 3000, n, 10_000, shift), 0.01)
        assert (result.p < 0.05).mean() <= 0.055
        assert benjamini_hochberg(result.p, 0.05).sum() <= 1


def test_drift_is_found():
    rng = np.random.default_rng(3)
    quiet = streams(rng, 2700, 10_000, 10_000, 0.0)
    moved = streams(rng, 300, 10_000, 10_000, 0.2)
    result = tolerance_tests([*quiet, *moved], 0.01)
    alarms = benjamini_hochberg(result.p, 0.05)
    assert alarms[2700:].mean() > 0.95
    assert alarms[:2700].sum() <= 1
    assert result.distance[2700:].mean() == pytest.approx(0.039, abs=0.004)
    assert result.distance[:2700].mean() < 0.002


def test_more_tolerance_never_makes_it_more_alarming():
    rng = np.random.default_rng(4)
    some = streams(rng, 200, 2000, 5000, 0.15)
    by_tolerance = [tolerance_tests(some, psi0).p for psi0 in (0.0, 0.005, 0.01, 0.05)]
    for tighter, looser in pairwise(by_tolerance):
        assert (looser >= tighter - 1e-12).all()
    each = tolerance_tests(some, np.full(200, 0.005)).p
    assert each == pytest.approx(by_tolerance[1])


def test_sparse_streams_are_folded_or_inconclusive():
    rng = np.random.default_rng(5)
    few = tolerance_tests(streams(rng, 50, 60, 10_000, 0.0), 0.01)
    assert few.conclusive.all()
    assert ((few.bins >= 2) & (few.bins <= 12)).all()
    nobody = tolerance_tests([Stream(np.zeros(20, int), np.full(20, 50))], 0.01)
    hardly = tolerance_tests([Stream(np.eye(20, dtype=int)[3] * 4, np.full(20, 50))], 0.01)
    constant = tolerance_tests([Stream(np.array([500, 0, 0]), np.array([900, 0, 0]))], 0.01)
    for result in (nobody, hardly, constant):
        assert not result.conclusive.any()
        assert np.isnan(result.distance).all()
    assert len(tolerance_tests([], 0.01).p) == 0


def test_rare_levels_do_not_alarm():
    rng = np.random.default_rng(6)
    shares = 1 / np.arange(1, 51)
    shares /= shares.sum()
    some = [
        Stream(rng.multinomial(100, shares), rng.multinomial(10_000, shares), ordered=False)
        for _ in range(2000)
    ]
    result = tolerance_tests(some, 0.01)
    assert (result.p < 0.05).mean() < 0.055


def test_a_new_level_is_drift():
    reference = np.array([5000, 4000, 1000, 0, 0])
    window = np.array([500, 400, 100, 300, 0])
    result = tolerance_tests([Stream(window, reference, ordered=False)], 0.01)
    assert result.p[0] < 1e-10


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 400)), min_size=1, max_size=15))
def test_folding_keeps_every_row_and_fills_every_bin(pairs):
    window = np.array([[pair[0] for pair in pairs]], dtype=float)
    reference = np.array([[pair[1] for pair in pairs]], dtype=float)
    folded_window, folded_reference, kept = fold_sparse(window, reference)
    n, m = window.sum(), reference.sum()
    if kept[0]:
        assert folded_window.sum() == n
        assert folded_reference.sum() == m
        both = (folded_window + folded_reference)[0, : kept[0]]
        assert (both * min(n, m) / (n + m) >= 5 - 1e-9).all()
    else:
        assert min(n, m) < 5 + 1e-9


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=40),
    st.floats(0.001, 0.5),
)
def test_benjamini_hochberg_by_brute_force(values, q):
    p = np.array(values, dtype=np.float64)
    tested = [value for value in values if value == value]
    best = None
    for i, value in enumerate(sorted(tested), 1):
        if value <= q * i / len(tested):
            best = value
    expected = [best is not None and value <= best for value in values]
    assert benjamini_hochberg(p, q).tolist() == expected
