from __future__ import annotations

import numpy as np
import pytest

from modelfleet_worker.wire import profile
from modelfleet_worker.wire.bundle import BundleCorrupt
from modelfleet_worker.wire.profile import LevelBins, NumericBins, build_profile


def test_numeric_bins_are_reference_quantiles() -> None:
    values = np.random.default_rng(1).normal(size=10_000)
    found = build_profile(["v"], values[:, None], score=values)
    bins = found.features[0]
    assert isinstance(bins, NumericBins)
    assert len(bins.edges) == 19
    assert bins.counts == [500] * 20 + [0]
    assert found.score is not None
    assert found.score.counts == bins.counts
    assert found.rows == 10_000


def test_bins_follow_searchsorted_right_and_nan_has_its_own() -> None:
    bins = NumericBins("v", [1.0, 2.0], [])
    values = np.array([0.5, 1.0, 1.5, 2.0, np.inf, -np.inf, np.nan])
    assert bins.bin(values).tolist() == [0, 1, 1, 2, 2, 0, 3]
    assert bins.count(values).tolist() == [2, 2, 2, 1]


def test_ties_give_unique_edges() -> None:
    values = np.concatenate([np.zeros(900), np.arange(100.0)])
    bins = build_profile(["v"], values[:, None]).features[0]
    assert isinstance(bins, NumericBins)
    assert bins.edges == sorted(set(bins.edges))
    assert sum(bins.counts) == 1000


def test_few_distinct_numbers_become_levels() -> None:
    values = np.array([3, 1, 1, 2, np.nan])
    bins = build_profile(["v"], values[:, None]).features[0]
    assert isinstance(bins, LevelBins)
    assert bins.levels == [1, 2, 3]
    assert bins.counts == [2, 1, 1, 0, 1]
    assert bins.count(np.array([1, 2.5, 99, np.nan, -1, 3])).tolist() == [1, 0, 1, 3, 1]


@pytest.mark.parametrize(("distinct", "kind"), [(40, LevelBins), (41, NumericBins)])
def test_forty_distinct_values_are_the_border(distinct: int, kind: type) -> None:
    values = np.arange(400) % distinct
    assert isinstance(build_profile(["v"], [values]).features[0], kind)


def test_strings_with_unseen_and_null() -> None:
    values = np.array(["AA", b"B6", "AA", None], dtype=object)
    bins = build_profile(["v"], [values]).features[0]
    assert isinstance(bins, LevelBins)
    assert bins.levels == ["AA", "B6"]
    assert bins.counts == [2, 1, 0, 1]
    again = np.array([b"AA", "ZZ", None, float("nan")], dtype=object)
    assert bins.count(again).tolist() == [1, 0, 1, 2]


def test_long_tails_of_strings_count_as_unseen() -> None:
    values = np.array([f"t{k}" for k in range(300)] + ["often"] * 5, dtype=object)
    bins = build_profile(["v"], [values]).features[0]
    assert isinstance(bins, LevelBins)
    assert len(bins.levels) == 200
    assert "often" in bins.levels
    assert bins.counts[200] == 101


def test_round_trip_and_counting_of_a_matrix() -> None:
    rng = np.random.default_rng(2)
    matrix = np.column_stack([rng.normal(size=500), rng.integers(0, 3, 500)])
    built = build_profile(["a", "b"], matrix, score=rng.random(500))
    again = profile.decode(profile.encode(built))
    assert again == built
    counts = again.count(matrix)
    assert [c.tolist() for c in counts] == [bins.counts for bins in built.features]
    assert all(c.dtype == np.int64 for c in counts)
    with pytest.raises(ValueError, match="1 columns for a profile of 2 features"):
        again.count(matrix[:, :1])


def test_no_rows_and_all_null() -> None:
    empty = build_profile(["a", "s"], [np.full(3, np.nan), np.array([None] * 3, dtype=object)])
    assert [bins.counts for bins in empty.features] == [[0, 3], [0, 3]]
    assert [c.tolist() for c in empty.count([np.array([1.0]), np.array(["x"])])] == [[1, 0], [0, 1]]


def test_profiles_whose_counts_do_not_fit_are_refused() -> None:
    content = b'{"rows":1,"features":[{"kind":"numeric","name":"a","edges":[1.0],"counts":[1]}]}'
    with pytest.raises(BundleCorrupt, match="'a' has 1 counts for 3 bins"):
        profile.decode(content)
