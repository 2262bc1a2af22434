"""What the judge is told: what to look at, how much worse may be, and the counts of a tick."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelfleet.core.errors import InvalidInput
from modelfleet.rollouts.sequential import Sums

LOSSES = ("error_rate", "precision", "recall", "absolute_error")
"""What may be judged of labels. Precision and recall as shares of what they miss."""


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
    scores_max_change: float | None = None
    """largest difference of the two mean scores, either way"""
    outcomes: str | None = None
    """a loss of `LOSSES`, by labels that come later"""
    outcomes_max_increase: float = 0.01
    """how much worse that loss may be, in its own units"""
    outcomes_delay_seconds: float = 3600.0
    """age at which predictions of both versions are compared: their labels should be there"""
    outcomes_required: bool = True
    """false: harm counts, even while the new version bakes, but no proof is waited for"""
    disagreements_max: float | None = 0.05
    """share of mirrored requests whose answers may differ (shadow only)"""
    differences_max: float | None = None
    """mean absolute difference of the scores of mirrored requests (shadow only)"""
    min_samples: int = 50
    """requests that each arm must have had before a step may end"""
    hard_errors: float = 0.2
    """share of failed requests that acts at once"""

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
        for change in (self.scores_max_change, self.differences_max, self.outcomes_max_increase):
            if change is not None and not 0 <= change < math.inf:
                raise InvalidInput("Limits of changes are not negative.")
        if self.outcomes is not None and self.outcomes not in LOSSES:
            raise InvalidInput(f"outcomes is one of {', '.join(LOSSES)}.")
        if self.outcomes != "absolute_error" and self.outcomes_max_increase >= 1:
            raise InvalidInput("outcomes_max_increase of a share is below 1.")
        if not 0 <= self.outcomes_delay_seconds < math.inf:
            raise InvalidInput("outcomes_delay_seconds is not negative.")
        if not 0 < self.hard_errors <= 1:
            raise InvalidInput("hard_errors lies between 0 and 1.")

    def metrics(self, *, mirrored: bool) -> tuple[str, ...]:
        """What is judged of a version that gets live traffic, or copies of it (`mirrored`)."""
        limits = {
            "errors": self.errors_max_increase,
            "latency": self.latency_max_ratio,
            "predictions": None if mirrored else self.predictions_max_distance,
            "scores": None if mirrored else self.scores_max_change,
            "outcomes": None if mirrored or not self.outcomes else self.outcomes_max_increase,
            "disagreements": self.disagreements_max if mirrored else None,
            "differences": self.differences_max if mirrored else None,
        }
        return tuple(metric for metric, limit in limits.items() if limit is not None)

    def required(self, *, mirrored: bool) -> tuple[str, ...]:
        """Those of the metrics whose proof a promotion waits for."""
        optional = () if self.outcomes_required else ("outcomes",)
        return tuple(one for one in self.metrics(mirrored=mirrored) if one not in optional)


@dataclass(frozen=True)
class Arm:
    """One version in one tick: counts."""

    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = ()
    scores: tuple[int, ...] = ()
    score_sums: Sums = Sums()
    outcomes: int = 0
    """labels of predictions that reached the age of comparison in this tick"""
    outcome_sum: float = 0.0
    """of values where more is better: rightly answered rows, or minus the absolute error"""
    outcome_squares: float = 0.0


@dataclass(frozen=True)
class Tick:
    number: int
    stable: Arm
    canary: Arm
    pairs: int = 0
    """mirrored requests that could be compared"""
    disagreements: int = 0
    differences: Sums = Sums()
    """|shadow's score - stable's score| of the pairs in which both have one"""
    stable_us: float = 0.0
    """sum of the pairs' latencies"""
    shadow_us: float = 0.0
    turning: bool = False
    """the weights changed in it: no good for the split and the distributions"""
