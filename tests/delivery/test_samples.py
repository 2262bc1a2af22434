"""Forecasts of proofs, beside the judge's own tests on random counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelfleet.delivery.samples import expected
from modelfleet.rollouts.analysis import Analysis
from modelfleet.rollouts.plan import Spec, Strategy
from modelfleet.rollouts.sequential import TwoArm, kolmogorov_band


def median_requests(margin: float, rate: float, stable: int, canary: int) -> float:
    """Of 60 histories: requests to both until the proof."""
    random = np.random.default_rng(7)
    found = []
    for _ in range(60):
        judge, ticks = TwoArm(-1, margin), 0
        while judge.highest < math.log(20) and ticks < 3000:
            counts = (int(random.binomial(stable, rate)), int(random.binomial(canary, rate)))
            judge = judge.update(stable, counts[0], canary, counts[1])
            ticks += 1
        found.append(ticks * (stable + canary))
    return float(np.median(found))


@pytest.mark.parametrize(
    ("margin", "rate", "stable", "canary"),
    [
        (0.01, 0.01, 500, 500),
        (0.005, 0.01, 500, 500),
        (0.01, 0.001, 950, 50),
        (0.01, 0.01, 900, 100),
    ],
)
def test_errors_are_proven_about_when_it_says(
    margin: float, rate: float, stable: int, canary: int
) -> None:
    weight = round(10_000 * canary / (stable + canary))
    spec = Spec(
        weights=(weight,),
        analysis=Analysis(errors_max_increase=margin, latency_max_ratio=None,
                          predictions_max_distance=None),
    )  # fmt: skip
    [told] = expected(spec, 100.0, rate)
    real = median_requests(margin, rate, stable, canary)
    assert told.requests is not None
    assert 0.4 < told.requests / real < 2.5
    assert told.seconds == pytest.approx(told.requests / 100)


def test_distributions_are_as_narrow_as_asked() -> None:
    analysis = Analysis(errors_max_increase=None, latency_max_ratio=None)
    [told] = expected(Spec(weights=(5000,), analysis=analysis), 10.0)
    assert told.requests is not None
    half = int(told.requests / 2)
    assert 2 * kolmogorov_band(half, 0.05 / 2) == pytest.approx(0.2, rel=0.01)


def test_less_weight_tighter_margins_and_no_margin_take_longer() -> None:
    def requests(weight: int, margin: float) -> float | None:
        analysis = Analysis(errors_max_increase=margin, latency_max_ratio=None,
                            predictions_max_distance=None)  # fmt: skip
        return expected(Spec(weights=(weight,), analysis=analysis), 1.0, 0.01)[0].requests

    assert requests(500, 0.01) > requests(5000, 0.01)  # type: ignore[operator]
    assert requests(5000, 0.002) > 5 * requests(5000, 0.01)  # type: ignore[operator]
    assert requests(5000, 0.0) is None, "equality is never proven"


def test_without_traffic_there_is_no_time_and_shadows_are_counted_by_pairs() -> None:
    spec = Spec(strategy=Strategy.SHADOW)
    found = {one.metric: one for one in expected(spec, 0.0)}
    assert {one.seconds for one in found.values()} == {None}
    assert found["disagreements"].requests is not None
    assert 50 < found["disagreements"].requests < 500
