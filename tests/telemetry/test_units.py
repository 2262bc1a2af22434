"""Pure parts: buckets, bins, states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet.telemetry import latency
from modelfleet.telemetry.binning import Binner
from modelfleet.telemetry.latency import BOUNDS_US, BUCKETS
from modelfleet.telemetry.states import State
from modelfleet_worker.wire.profile import build_profile

numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


def test_latency_bounds_are_those_of_the_contract():
    assert BOUNDS_US[0] == 1.0
    assert BOUNDS_US[-2] < 60e6 <= BOUNDS_US[-1]
    assert np.allclose(BOUNDS_US[1:] / BOUNDS_US[:-1], 2 ** (1 / 8))
    assert len(BOUNDS_US) + 1 == BUCKETS
    edges = np.array([0, 1000, 1001, int(61e9), int(62e9)])
    assert latency.bucket(edges).tolist() == [0, 0, 1, BUCKETS - 2, BUCKETS - 1]


def test_quantiles_come_within_a_bucket_of_the_truth():
    sample = np.random.default_rng(0).lognormal(8, 1, 5000)
    counts = np.bincount(latency.bucket(sample * 1000), minlength=BUCKETS)
    for q in (0.01, 0.5, 0.95, 0.99):
        assert latency.quantile_us(counts, q) == pytest.approx(np.quantile(sample, q), rel=0.09)
    assert np.isnan(latency.quantile_us(np.zeros(BUCKETS, np.int64), 0.5))
    assert latency.mean_us(counts) == pytest.approx(sample.mean(), rel=0.02)


def test_classic_buckets_are_exact():
    sample = np.random.default_rng(1).lognormal(8, 2, 5000)
    counts = np.bincount(latency.bucket(sample * 1000), minlength=BUCKETS)
    exact = [(sample <= bound * 1e6).sum() for bound in latency.CLASSIC_SECONDS]
    assert latency.classic_cumulative(counts) == exact


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(numbers, st.sampled_from([0.0, 1.0, 2.5, 9.0]), numbers), max_size=90),
    st.integers(0, 5),
)
def test_binner_counts_like_the_profile(rows, seed):
    rng = np.random.default_rng(seed)
    reference = [
        rng.normal(size=500),
        rng.choice([0.0, 1.0, 2.5], 500),
        np.full(500, np.nan),
    ]
    profile = build_profile(["number", "level", "empty"], reference)
    columns = [np.array([row[k] for row in rows], dtype=np.float64) for k in range(3)]
    expected = np.concatenate([np.asarray(part) for part in profile.count(columns)])
    assert Binner(profile).count(columns).tolist() == expected.tolist()


def test_binner_counts_texts_and_missing_values():
    texts = np.array(["a", "b", "b", None], dtype=object)
    profile = build_profile(["t", "n"], [texts, np.array([1, 2, 3, 4])])
    columns = [
        np.array(["b", "x", None], dtype=object),
        np.array([2, 7, None], dtype=object),
    ]
    expected = np.concatenate([np.asarray(part) for part in profile.count(columns)])
    assert Binner(profile).count(columns).tolist() == expected.tolist()


def random_state(seed: int) -> State:
    rng = np.random.default_rng(seed)
    state = State.empty((4, 6, 3))
    state.counts[:] = rng.integers(0, 100, len(state.counts))
    state.requests, state.rows, state.errors = (int(one) for one in rng.integers(0, 1000, 3))
    state.codes = {200: 1 + int(rng.integers(9)), int(rng.integers(400, 600)): 3}
    state.scored, state.score_sum, state.score_squares = 4, 2.0, 8.0
    return state


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6), st.randoms())
def test_merging_is_addition_in_any_order(seeds, order):
    shuffled = list(seeds)
    order.shuffle(shuffled)
    sums = []
    for some in (seeds, shuffled):
        total = State.empty((4, 6, 3))
        for seed in some:
            total.merge(random_state(seed))
        sums.append(total)
    first, second = sums
    assert (first.counts == second.counts).all()
    assert first.codes == second.codes
    assert first.requests == second.requests == sum(random_state(s).requests for s in seeds)
    for seed in seeds:
        first.merge(random_state(seed).negated())
    assert not first.counts.any()
    assert (first.requests, first.rows, first.errors) == (0, 0, 0)


def test_states_survive_encoding_and_refuse_other_bins():
    state = random_state(5)
    again = State.decode(state.encode())
    assert (again.counts == state.counts).all()
    assert (again.sizes, again.codes, again.requests) == (state.sizes, state.codes, state.requests)
    assert [len(counts) for counts in again.features] == [4, 6]
    assert len(again.score) == 3
    with pytest.raises(ValueError, match="can't be merged"):
        state.merge(State.empty((4, 6, 2)))
