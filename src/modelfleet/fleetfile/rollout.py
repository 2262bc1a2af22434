"""The sections `rollout` and `approvals`: how an endpoint moves to another version."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from modelfleet.fleetfile.base import Bool, Int, Number, Section, Sticky
from modelfleet.fleetfile.units import Duration, Fraction, Ratio, fraction


class Approve(Section):
    """People say yes before the rollout goes on; never who asked for it or made the version."""

    role: str = "approver"
    quorum: Annotated[Int, Field(ge=1)] = 1
    expires: Duration | None = None


class Preview(Section):
    """Requests that reach the new version before any weight does."""

    header: str | None = None
    equals: str | None = None
    prefix: str | None = None
    """instead of `equals`: how the header's value begins"""
    caller: str | None = None
    team: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Preview:
        if sum(one is not None for one in (self.header, self.caller, self.team)) != 1:
            raise ValueError("a preview is for one of header, caller and team")
        values = (self.equals, self.prefix)
        if sum(one is not None for one in values) != (self.header is not None):
            raise ValueError("a header has one of equals and prefix")
        return self


class Step(Section):
    """One of `shadow`, `weight`, `preview`, `approve` and `pause`, and how long."""

    shadow: Fraction | None = None
    """share of requests that are copied to the new version"""
    weight: Fraction | None = None
    """share of live requests"""
    preview: Preview | None = None
    approve: Approve | None = None
    pause: Bool | None = None
    """until somebody resumes"""
    for_: Duration | None = Field(None, alias="for")
    bake: Duration | None = None
    """after all traffic moved: how long the old version stays ready"""

    @model_validator(mode="after")
    def _one(self) -> Step:
        kinds = (self.shadow, self.weight, self.preview, self.approve, self.pause)
        if sum(one is not None for one in kinds) != 1:
            raise ValueError("a step is one of shadow, weight, preview, approve and pause")
        if self.bake is not None and self.weight != 1.0:
            raise ValueError("only the step to all traffic (weight: 100%) bakes")
        if self.weight == 0:
            raise ValueError("a weight is above 0: use shadow or preview before any weight")
        return self


class Arm(Section):
    """One more version beside the stable one."""

    version: str
    weight: Fraction
    rules: tuple[Preview, ...] | None = None
    """requests that reach it whatever the weights"""


class Bandit(Section):
    """Weights follow what is learned (Thompson sampling)."""

    reward: Literal["success", "outcome"] = "outcome"
    floor: Fraction = 0.05
    """the least share of an arm"""
    every: Duration = 300.0
    """between changes of the weights"""
    stop: Annotated[Number, Field(gt=0.5, lt=1)] = 0.95
    """probability that one arm is the best, at which it ends"""
    seed: Int = 0


class ErrorLimit(Section):
    max_increase: Fraction
    """of the share of failed requests; `0.5pp`"""


class LatencyLimit(Section):
    max_ratio: Ratio
    quantile: Annotated[str, Field(pattern=r"^p[1-9][0-9](\.[0-9])?$")] = "p95"
    floor: Duration = 0.005
    """nobody feels a change below this"""


class DistanceLimit(Section):
    max_distance: Fraction
    """of the distributions of scores (Kolmogorov-Smirnov)"""


class DisagreementLimit(Section):
    max: Fraction
    """share of mirrored requests whose answers may differ"""


class ChangeLimit(Section):
    max_change: Annotated[Number, Field(ge=0)]
    """of the mean score, either way"""


class DifferenceLimit(Section):
    max: Annotated[Number, Field(ge=0)]
    """mean absolute difference of the scores of mirrored requests"""


class LabelLimit(Section):
    metric: Literal["error_rate", "precision", "recall", "absolute_error"]
    noninferior: Annotated[Number, BeforeValidator(fraction), Field(ge=0)] = 0.01
    """how much worse is still fine: a share (`1pp`), or in units of the error"""
    delay: Duration
    """how old a prediction is before its label counts"""
    required: Bool = True
    """false: harm counts, even while the new version bakes, but no proof is waited for"""


class AbsoluteLimits(Section):
    """What the new version must keep whether or not another runs beside it."""

    errors: Fraction | None = None
    latency: Duration | None = None
    """at the quantile of the analysis"""


Metric = Literal["errors", "latency", "predictions", "disagreements"]


class Analysis(Section):
    """What the judge looks at, and how much worse the new version may be."""

    alpha: Annotated[Number, Field(gt=0, lt=0.5)] | None = None
    errors: ErrorLimit | None = None
    latency: LatencyLimit | None = None
    predictions: DistanceLimit | None = None
    scores: ChangeLimit | None = None
    disagreements: DisagreementLimit | None = None
    differences: DifferenceLimit | None = None
    labels: LabelLimit | None = None
    without: tuple[Metric, ...] | None = None
    """metrics that are not judged"""
    min_samples: Annotated[Int, Field(ge=0)] | None = None
    hard_errors: Annotated[Fraction, Field(gt=0)] | None = None
    """share of failed requests that acts at once"""


class Freeze(Section):
    """When nothing of this model starts or advances; rollbacks always may."""

    cron: str | None = None
    lasts: Duration | None = None
    from_: str | None = Field(None, alias="from")
    to: str | None = None
    zone: str = "UTC"
    """of the cron expression"""
    reason: str = ""

    @model_validator(mode="after")
    def _one(self) -> Freeze:
        if (self.cron is None) != (self.lasts is None) or (self.from_ is None) != (self.to is None):
            raise ValueError("cron belongs to lasts, from belongs to `to`")
        if (self.cron is None) == (self.from_ is None):
            raise ValueError("a freeze has cron and lasts, or from and to")
        return self


class Inconclusive(Section):
    after: Duration
    do: Literal["hold", "rollback", "ask"]


class Rollout(Section):
    """How an endpoint moves to another version."""

    strategy: Literal["immediate", "blue-green", "canary", "shadow", "ab", "bandit"] | None = None
    sticky: Sticky | None = None
    """what is assigned to an arm while it runs; counts each key once, which costs power"""
    steps: tuple[Step, ...] | None = None
    arms: tuple[Arm, ...] | None = None
    bandit: Bandit | None = None
    analysis: Analysis | None = None
    limits: AbsoluteLimits | None = None
    not_before: str | None = None
    """a time with a zone: 2027-01-31T08:00:00Z"""
    windows: tuple[Freeze, ...] | None = None
    """in which it may start and advance; none is always"""
    freeze: tuple[Freeze, ...] | None = None
    """in which it may not"""
    on_end: Literal["promote", "keep"] | None = None
    """of several arms: promote the best one, or keep the stable version"""
    on_fail: Literal["rollback", "freeze", "alert"] | None = None
    on_inconclusive: Inconclusive | None = None
    bake: Duration | None = None

    @model_validator(mode="after")
    def _rises(self) -> Rollout:
        weights = [one.weight for one in self.steps or () if one.weight is not None]
        for low, high in itertools.pairwise(weights):
            if low >= high:
                raise ValueError(f"weights rise: {high:.2%} comes after {low:.2%}")
        if sum(arm.weight for arm in self.arms or ()) >= 1:
            raise ValueError("the arms leave nothing to the stable version")
        if self.bandit is not None and self.strategy not in (None, "bandit"):
            raise ValueError(f"a bandit is no {self.strategy}")
        return self
