"""What a rollout is told to do. Strategies are shorthands: each becomes a list of steps.

A step is one of: copies of requests (shadow), a share of the traffic (weight), some clients before
all others (preview), a second person's yes (approve), or a stop until somebody resumes (pause).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Literal

from modelfleet.core.errors import InvalidInput
from modelfleet.identity.approvals import WEEK_SECONDS, check_role
from modelfleet.rollouts.analysis import Analysis
from modelfleet.rollouts.windows import Window, parse_moment
from modelfleet.serving.traffic import Rule, Sticky, Traffic

FULL = 10_000
MAX_ARMS = 10


class Strategy(StrEnum):
    IMMEDIATE = "immediate"
    BLUE_GREEN = "blue-green"
    CANARY = "canary"
    SHADOW = "shadow"
    AB = "ab"


class Kind(StrEnum):
    SHADOW = "shadow"
    WEIGHT = "weight"
    PREVIEW = "preview"
    APPROVE = "approve"
    PAUSE = "pause"


@dataclass(frozen=True)
class Preview:
    """Requests that reach a version whatever the weights: one of header, caller and team."""

    header: str = ""
    equals: str = ""
    prefix: str = ""
    """instead of `equals`: how the header's value begins"""
    caller: str = ""
    """name of a principal"""
    team: str = ""

    def __post_init__(self) -> None:
        Traffic(rules=(self.rule("1"),))

    def rule(self, version: str, version_id: str = "", caller_id: str = "") -> Rule:
        return Rule(
            version,
            self.header,
            self.equals,
            self.prefix,
            self.caller,
            self.team,
            version_id,
            caller_id,
        )


@dataclass(frozen=True)
class Approve:
    role: str = "approver"
    quorum: int = 1
    expires_seconds: float = WEEK_SECONDS

    def __post_init__(self) -> None:
        check_role(self.role, self.quorum)
        if not 0 < self.expires_seconds < math.inf:
            raise InvalidInput("An approval expires some time.")


@dataclass(frozen=True)
class Step:
    """One of `shadow`, `weight`, `preview`, `approve` and `pause`."""

    weight: int = 0
    """basis points of live traffic to the new version"""
    shadow: int = 0
    """basis points of requests that are copied to it"""
    seconds: float = 0.0
    """shortest time at this step"""
    preview: Preview | None = None
    approve: Approve | None = None
    pause: bool = False

    @property
    def kind(self) -> Kind:
        if self.pause:
            return Kind.PAUSE
        if self.approve:
            return Kind.APPROVE
        if self.preview:
            return Kind.PREVIEW
        return Kind.SHADOW if self.shadow else Kind.WEIGHT

    @property
    def is_judged(self) -> bool:
        """Whether both versions get requests that can be compared."""
        return self.weight > 0 or self.shadow > 0


@dataclass(frozen=True)
class ArmSpec:
    """One of several new versions beside the stable one (A/B/n)."""

    version: str
    """alias, semantic version, range or sequence number; resolved when the rollout starts"""
    weight: int
    """basis points of live traffic at the start"""
    rules: tuple[Preview, ...] = ()
    """requests that reach this arm whatever the weights"""


@dataclass(frozen=True)
class Bandit:
    """Thompson sampling: an arm gets traffic as probably as it is the best one."""

    reward: Literal["success", "outcome"] = "success"
    """success: answered without error. outcome: the mean of the labels; larger is better"""
    every_seconds: float = 60.0
    """weights move only that often"""
    floor: int = 500
    """basis points that each arm keeps, stable too"""
    probability: float = 0.95
    """it ends when one arm is the best with this probability"""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.every_seconds < math.inf:
            raise InvalidInput("A bandit moves weights every so many seconds.")
        if not 0.5 < self.probability < 1:
            raise InvalidInput("The probability that ends a bandit lies between 0.5 and 1.")
        if not 0 <= self.floor <= FULL // 2:
            raise InvalidInput("The floor of an arm is 0 to 5000 basis points.")


@dataclass(frozen=True)
class Limits:
    """Absolute limits, also when nothing runs beside the new version. None leaves one out."""

    errors: float | None = None
    """share of failed requests"""
    latency_ms: float | None = None
    """at the analysis' quantile"""

    def __post_init__(self) -> None:
        if self.errors is not None and not 0 < self.errors < 1:
            raise InvalidInput("The limit of errors lies between 0 and 1.")
        if self.latency_ms is not None and not 0 < self.latency_ms < math.inf:
            raise InvalidInput("The limit of latency is above 0 ms.")


@dataclass(frozen=True)
class Spec:
    """`weights` and `step_seconds` shape a canary, `bake_seconds` the time after promotion.

    `steps`, if there are any, replace these short fields.
    """

    strategy: Strategy = Strategy.CANARY
    weights: tuple[int, ...] = (500, 2500, 5000)
    step_seconds: float = 60.0
    bake_seconds: float = 60.0
    shadow_fraction: int = FULL
    analysis: Analysis = field(default_factory=Analysis)
    on_fail: str = "rollback"
    """rollback, freeze (a person decides) or alert (nothing moves on, and people are told)"""
    on_inconclusive: str = "hold"
    """hold, rollback or ask (a person), once `inconclusive_after_seconds` have passed at a step"""
    inconclusive_after_seconds: float = 3600.0
    steps: tuple[Step, ...] = ()
    arms: tuple[ArmSpec, ...] = ()
    """of an A/B/n test; the version of the rollout itself is the first if there are none"""
    on_end: str = "promote"
    """of an A/B/n test: promote the best proven arm, or keep the stable version"""
    bandit: Bandit | None = None
    limits: Limits = field(default_factory=Limits)
    sticky: Sticky | None = None
    """while the rollout runs; the endpoint's own policy is back afterwards"""
    not_before: str = ""
    """ISO 8601 with a zone"""
    windows: tuple[Window, ...] = ()
    """in which it may start and advance; none is always"""
    freeze: tuple[Window, ...] = ()
    """in which it may not; those of the fleet, team and endpoint count too"""
    gates: tuple[Mapping[str, object], ...] = ()
    """what the version must pass first: `{kind: {...}}`, as in fleet files"""

    def __post_init__(self) -> None:
        if self.on_fail not in ("rollback", "freeze", "alert"):
            raise InvalidInput("on_fail is rollback, freeze or alert.")
        if self.on_inconclusive not in ("hold", "rollback", "ask"):
            raise InvalidInput("on_inconclusive is hold, rollback or ask.")
        if self.on_end not in ("promote", "keep"):
            raise InvalidInput("on_end is promote or keep.")
        durations = (self.step_seconds, self.bake_seconds, self.inconclusive_after_seconds)
        if not all(0 <= one < math.inf for one in durations):
            raise InvalidInput("Durations are not negative, and end.")
        if not 0 < self.shadow_fraction <= FULL:
            raise InvalidInput("A shadow gets between 1 and 10000 basis points of the requests.")
        parse_moment(self.not_before)
        if self.sticky is not None:
            Traffic(sticky=self.sticky)
        if self.strategy is Strategy.AB:
            self._check_arms()
        elif self.arms or self.bandit:
            raise InvalidInput("Only the strategy ab has arms or a bandit.")
        self._check_steps()

    def _check_steps(self) -> None:
        if self.strategy is Strategy.CANARY and not self.steps and not self.weights:
            raise InvalidInput("A canary has weights.")
        if self.steps and self.strategy in (Strategy.IMMEDIATE, Strategy.AB):
            raise InvalidInput(f"The strategy {self.strategy.value} has no steps of its own.")
        for one in self.steps:
            _check_step(one)
        weights = [one.weight for one in self.plan if one.kind is Kind.WEIGHT]
        rising = all(low < high for low, high in itertools.pairwise(weights))
        if not rising or any(not 0 < weight < FULL for weight in weights):
            raise InvalidInput(
                "The weights rise from above 0 to below 10000 basis points.",
                hint="The step to all traffic follows by itself when the judge has its proof.",
            )
        kinds = [one.kind for one in self.plan]
        if Kind.WEIGHT in kinds:
            after = kinds[kinds.index(Kind.WEIGHT) :]
            if Kind.SHADOW in after or Kind.PREVIEW in after:
                raise InvalidInput("Shadows and previews come before the first weight.")
        if self.strategy is Strategy.CANARY and not any(one.is_judged for one in self.plan):
            raise InvalidInput("A canary has a weight or a shadow: use blue-green.")
        if self.strategy is Strategy.SHADOW and (Kind.WEIGHT in kinds or Kind.SHADOW not in kinds):
            raise InvalidInput("A shadow has copies of requests and no weights: use a canary.")
        for one in self.plan:
            if one.is_judged and not self.analysis.required(mirrored=one.shadow > 0):
                raise InvalidInput(
                    f"A {self.strategy.value} without a metric could never be proven."
                )

    def _check_arms(self) -> None:
        if not 1 <= len(self.arms) <= MAX_ARMS:
            raise InvalidInput(f"An A/B/n test has 1 to {MAX_ARMS} arms beside the stable version.")
        weights = [one.weight for one in self.arms]
        if not all(0 < weight < FULL for weight in weights) or sum(weights) >= FULL:
            raise InvalidInput(
                "Each arm gets traffic, and something is left for the stable version.",
                hint="Weights are basis points; together below 10000.",
            )
        if self.on_inconclusive == "ask":
            raise InvalidInput("An A/B/n test that is not decided holds, or goes back.")
        floor = self.bandit.floor if self.bandit else 0
        if floor * (len(self.arms) + 1) > FULL:
            raise InvalidInput(f"{len(self.arms) + 1} arms can't each keep {floor} basis points.")

    @cached_property
    def plan(self) -> tuple[Step, ...]:
        """The steps before all traffic moves. Those that wait keep what the one before set."""
        if self.strategy is Strategy.AB:
            return (Step(sum(one.weight for one in self.arms), seconds=self.step_seconds),)
        if not self.steps:
            return self._short()
        steps = self.steps[:-1] if self.steps[-1].weight == FULL else self.steps
        found: list[Step] = []
        before = Step()
        for one in steps:
            if one.kind in (Kind.APPROVE, Kind.PAUSE):
                kept = replace(
                    one, weight=before.weight, shadow=before.shadow, preview=before.preview
                )
                found.append(kept)
            else:
                before = one
                found.append(one)
        return tuple(found)

    def _short(self) -> tuple[Step, ...]:
        if self.strategy is Strategy.CANARY:
            return tuple(Step(weight, seconds=self.step_seconds) for weight in self.weights)
        if self.strategy is Strategy.SHADOW:
            return (Step(0, self.shadow_fraction, self.step_seconds),)
        return ()

    @property
    def bake(self) -> float:
        """Seconds of watching after all traffic moved."""
        if self.steps and self.steps[-1].weight == FULL:
            return self.steps[-1].seconds
        return self.bake_seconds

    @property
    def mirrored(self) -> bool:
        """Whether requests are copied at some step."""
        return any(one.shadow for one in self.plan)

    @property
    def promotes(self) -> bool:
        return self.strategy is not Strategy.SHADOW

    @property
    def phases(self) -> int:
        """Shadow and live traffic are two looks at a version, each with its share of alpha."""
        live = any(one.weight for one in self.plan)
        return max(int(self.mirrored) + int(live), 1)


def _check_step(step: Step) -> None:
    told = (step.weight > 0, step.shadow > 0, step.preview, step.approve, step.pause)
    if sum(map(bool, told)) != 1:
        raise InvalidInput("A step is one of shadow, weight, preview, approve and pause.")
    if not 0 <= step.seconds < math.inf:
        raise InvalidInput("Durations are not negative, and end.")
    if not 0 <= step.shadow <= FULL or not 0 <= step.weight <= FULL:
        raise InvalidInput("Shares are basis points from 0 to 10000.")
