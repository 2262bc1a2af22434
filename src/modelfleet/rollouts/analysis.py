"""What the judge is told: what to look at, how much worse may be, and the counts of a tick."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelfleet.core.errors import InvalidInput


@dataclass(frozen=True)
class Analysis:
    """What is judged and how much worse the canary may be. None leaves a metric out."""

    alpha: float = 0.05
    errors_max_increase: float | None = 0.01
    """absolute increase of the share of failed requests"""
    latency_max_ratio: float | None = 1.5
    latency_quantile: float = 0.95
    latency_floor_ms: float = 5.0
    """nobody feels a change below this"""
    predictions_max_distance: float | None = 0.2
    """largest difference of the two distributions of scores (Kolmogorov-Smirnov distance)"""
    disagreements_max: float | None = 0.05
    """share of mirrored requests whose answers may differ (shadow only)"""
    min_samples: int = 50
    """requests that each arm must have had before a step may end"""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise InvalidInput("alpha lies between 0 and 0.5.")
        for limit in (
            self.errors_max_increase,
            self.predictions_max_distance,
            self.disagreements_max,
        ):
            if limit is not None and not 0 <= limit < 1:
                raise InvalidInput("Limits of errors, distances and disagreements are 0 to 1.")
        if self.latency_max_ratio is not None and not 0 < self.latency_max_ratio < math.inf:
            raise InvalidInput("latency_max_ratio is above 0.")
        if not 0 < self.latency_quantile < 1:
            raise InvalidInput("latency_quantile lies between 0 and 1.")
        if not 0 <= self.latency_floor_ms < math.inf or self.min_samples < 0:
            raise InvalidInput("latency_floor_ms and min_samples are not negative.")

    def metrics(self, *, mirrored: bool) -> tuple[str, ...]:
        """What is judged of a version that gets live traffic, or copies of it (`mirrored`)."""
        limits = {
            "errors": self.errors_max_increase,
            "latency": self.latency_max_ratio,
            "predictions": None if mirrored else self.predictions_max_distance,
            "disagreements": self.disagreements_max if mirrored else None,
        }
        return tuple(metric for metric, limit in limits.items() if limit is not None)


@dataclass(frozen=True)
class Arm:
    """One version in one tick: counts."""

    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = ()
    scores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tick:
    number: int
    stable: Arm
    canary: Arm
    pairs: int = 0
    disagreements: int = 0
    turning: bool = False
    """the weights changed in it: no good for the split and the distributions"""
