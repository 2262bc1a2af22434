"""Metrics are those of scikit-learn; their errors those of the bootstrap; bounds hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from modelfleet.gates import statistics

RNG = np.random.default_rng(0)
ROWS = 2500
TRUTH = RNG.random(ROWS) < 0.3
SCORE = np.round(1 / (1 + np.exp(-(TRUTH * 1.2 - 0.8 + RNG.normal(size=ROWS)))), 2)  # with ties
LABEL = (SCORE > 0.5).astype(int)
NUMBER = RNG.normal(size=ROWS) + 8
FOUND = NUMBER + RNG.normal(size=ROWS) * 0.5


def estimate(metric: str, rows: Any) -> statistics.Estimate:
    if metric in ("rmse", "mae", "mape", "r2"):
        return statistics.regression(metric, NUMBER[rows], FOUND[rows])
    if metric in ("roc_auc", "average_precision", "log_loss", "brier"):
        return statistics.scored(metric, TRUTH[rows], SCORE[rows])
    positive = 1 if metric in ("precision", "recall", "f1") else None
    return statistics.classification(metric, TRUTH[rows].astype(int), LABEL[rows], 2, positive)


def of(function: Callable[..., Any], truth: Any, found: Any) -> Callable[[Any], float]:
    return lambda rows: float(function(truth[rows], found[rows]))


ORACLES = {
    "roc_auc": of(metrics.roc_auc_score, TRUTH, SCORE),
    "average_precision": of(metrics.average_precision_score, TRUTH, SCORE),
    "log_loss": of(metrics.log_loss, TRUTH, SCORE),
    "brier": of(metrics.brier_score_loss, TRUTH, SCORE),
    "accuracy": of(metrics.accuracy_score, TRUTH, LABEL),
    "balanced_accuracy": of(metrics.balanced_accuracy_score, TRUTH, LABEL),
    "f1": of(metrics.f1_score, TRUTH, LABEL),
    "precision": of(metrics.precision_score, TRUTH, LABEL),
    "recall": of(metrics.recall_score, TRUTH, LABEL),
    "rmse": of(metrics.root_mean_squared_error, NUMBER, FOUND),
    "mae": of(metrics.mean_absolute_error, NUMBER, FOUND),
    "mape": of(metrics.mean_absolute_percentage_error, NUMBER, FOUND),
    "r2": of(metrics.r2_score, NUMBER, FOUND),
}


@pytest.mark.parametrize("metric", ORACLES)
def test_value_and_error_are_those_of_scikit_learn_and_the_bootstrap(metric: str) -> None:
    everything = np.arange(ROWS)
    found = estimate(metric, everything)
    assert found.value == pytest.approx(ORACLES[metric](everything), rel=1e-9)
    assert abs(float(found.influence.mean())) < 1e-9
    draws = np.random.default_rng(1).integers(0, ROWS, (150, ROWS))
    spread = float(np.std([ORACLES[metric](rows) for rows in draws]))
    assert statistics.bounds(found, 0.95).error == pytest.approx(spread, rel=0.25)


def test_averages_over_classes() -> None:
    truth, found = RNG.integers(0, 3, 600), RNG.integers(0, 3, 600)
    for name, function in (("f1", metrics.f1_score), ("recall", metrics.recall_score)):
        ours = statistics.classification(name, truth, found, 3, None).value
        assert ours == pytest.approx(function(truth, found, average="macro"))
    share = RNG.dirichlet([1, 1, 1], 600)
    assert statistics.likelihood(truth, share).value == pytest.approx(
        metrics.log_loss(truth, share)
    )


def test_bounds_hold_as_often_as_they_say() -> None:
    """Accuracy of 0.95 with 200 rows, where the plain interval is too narrow."""
    random = np.random.default_rng(2)
    right = random.random((2000, 200)) < 0.95
    below = above = 0
    for row in right:
        one = statistics.classification("accuracy", np.ones(200, int), row.astype(int), 2, None)
        found = statistics.bounds(one, 0.95)
        below += found.low > 0.95
        above += found.high < 0.95
    assert below / 2000 <= 0.05
    assert above / 2000 <= 0.05


def test_no_difference_yet_is_no_proof_of_none() -> None:
    truth = np.ones(50, dtype=int)
    one = statistics.classification("accuracy", truth, truth, 2, None)
    apart = statistics.difference(one, one, 0.95)
    assert apart.value == 0
    assert apart.low == apart.high == 0  # all right: nothing could be told apart
    mixed = np.where(np.arange(50) < 40, 1, 0)
    two = statistics.classification("accuracy", truth, mixed, 2, None)
    apart = statistics.difference(two, two, 0.95)
    assert apart.low < -0.02  # with 50 rows a rare difference may have been missed


def test_what_has_no_value_says_so() -> None:
    with pytest.raises(statistics.Undefined, match="nothing was found"):
        statistics.classification("precision", np.ones(9, int), np.zeros(9, int), 2, 1)
    with pytest.raises(statistics.Undefined, match="too few of one kind"):
        statistics.scored("roc_auc", np.ones(9, dtype=bool), np.zeros(9))
    with pytest.raises(statistics.Undefined, match="no probabilities"):
        statistics.scored("log_loss", np.ones(9, dtype=bool), np.full(9, 2.0))
    with pytest.raises(statistics.Undefined, match="the same in all rows"):
        statistics.regression("r2", np.ones(9), np.zeros(9))
    with pytest.raises(statistics.Undefined, match="no numbers"):
        statistics.regression("rmse", np.ones(9), np.full(9, np.nan))


def test_holm() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


def test_intervals_of_proportions() -> None:
    """Newcombe (1998), table II: 56/70 less 48/80; Katz' ratio by hand."""
    low, high = statistics.newcombe((56, 70), (48, 80), 1.959964)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=2e-4)
    low, high = statistics.katz((30, 100), (40, 100), 1.959964)
    assert (low, high) == pytest.approx((0.5102, 1.1026), abs=2e-3)
    with pytest.raises(statistics.Undefined):
        statistics.katz((0, 100), (40, 100), 1.96)
