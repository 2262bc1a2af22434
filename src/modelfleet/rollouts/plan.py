"""What a rollout is told to do: a strategy becomes a list of steps."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from enum import StrEnum

from modelfleet.core.errors import InvalidInput
from modelfleet.rollouts.analysis import Analysis

FULL = 10_000


class Strategy(StrEnum):
    IMMEDIATE = "immediate"
    BLUE_GREEN = "blue-green"
    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True)
class Step:
    weight: int
    """basis points of live traffic to the new version"""
    shadow: int = 0
    """basis points of requests that are copied to it"""
    seconds: float = 0.0
    """shortest time at this step"""


@dataclass(frozen=True)
class Spec:
    """`weights` and `step_seconds` shape a canary, `bake_seconds` the time after promotion."""

    strategy: Strategy = Strategy.CANARY
    weights: tuple[int, ...] = (500, 2500, 5000)
    step_seconds: float = 60.0
    bake_seconds: float = 60.0
    shadow_fraction: int = FULL
    analysis: Analysis = field(default_factory=Analysis)
    on_fail: str = "rollback"
    """rollback or freeze"""
    on_inconclusive: str = "hold"
    """hold or rollback, once `inconclusive_after_seconds` have passed at a step"""
    inconclusive_after_seconds: float = 3600.0

    def __post_init__(self) -> None:
        if self.on_fail not in ("rollback", "freeze"):
            raise InvalidInput("on_fail is rollback or freeze.")
        if self.on_inconclusive not in ("hold", "rollback"):
            raise InvalidInput("on_inconclusive is hold or rollback.")
        weights = self.weights
        rising = all(low < high for low, high in itertools.pairwise(weights))
        if self.strategy is Strategy.CANARY and not (
            weights and rising and weights[0] > 0 and weights[-1] < FULL
        ):
            raise InvalidInput(
                "A canary's weights rise from above 0 to below 10000 basis points.",
                hint="The step to all traffic follows by itself when the judge has its proof.",
            )
        if not 0 < self.shadow_fraction <= FULL:
            raise InvalidInput("A shadow gets between 1 and 10000 basis points of the requests.")
        durations = (self.step_seconds, self.bake_seconds, self.inconclusive_after_seconds)
        if not all(0 <= one < math.inf for one in durations):
            raise InvalidInput("Durations are not negative, and end.")
        if self.steps and not self.analysis.metrics(mirrored=self.mirrored):
            raise InvalidInput(f"A {self.strategy.value} without a metric could never be proven.")

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps before all traffic moves."""
        if self.strategy is Strategy.CANARY:
            return tuple(Step(weight, seconds=self.step_seconds) for weight in self.weights)
        if self.strategy is Strategy.SHADOW:
            return (Step(0, self.shadow_fraction, self.step_seconds),)
        return ()

    @property
    def mirrored(self) -> bool:
        return self.strategy is Strategy.SHADOW
