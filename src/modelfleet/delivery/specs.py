"""From the `rollout` section of a document to what the rollouts room is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelfleet.core.errors import InvalidInput
from modelfleet.fleetfile import rollout as sections
from modelfleet.fleetfile.documents import ModelDocument
from modelfleet.fleetfile.gate_lists import local_files
from modelfleet.fleetfile.gates import parse
from modelfleet.rollouts.analysis import Analysis
from modelfleet.rollouts.plan import (
    FULL,
    Approve,
    ArmSpec,
    Bandit,
    Limits,
    Preview,
    Spec,
    Step,
    Strategy,
)
from modelfleet.rollouts.windows import Window
from modelfleet.serving.traffic import Sticky


def spec_of(document: ModelDocument) -> Spec:
    """How the endpoint moves to another version. Raises `InvalidInput` for what can't be."""
    told, default = document.rollout or sections.Rollout(), Spec()
    steps, strategy = _steps(document, told), _strategy(told)
    inconclusive = told.on_inconclusive
    bakes = [one.bake for one in told.steps or () if one.bake is not None]
    bake = next((one for one in (*bakes, told.bake) if one is not None), default.bake_seconds)
    patience = inconclusive.after if inconclusive else default.inconclusive_after_seconds
    return Spec(
        strategy=strategy,
        bake_seconds=bake,
        analysis=_analysis(told.analysis or sections.Analysis()),
        on_fail=told.on_fail or default.on_fail,
        on_inconclusive=inconclusive.do if inconclusive else default.on_inconclusive,
        inconclusive_after_seconds=patience,
        steps=steps,
        arms=tuple(_arm(one) for one in told.arms or ()),
        on_end=told.on_end or default.on_end,
        bandit=_bandit(told),
        limits=_limits(told.limits),
        sticky=_sticky(told.sticky),
        not_before=told.not_before or "",
        windows=tuple(_window(one) for one in told.windows or ()),
        freeze=tuple(_window(one) for one in told.freeze or ()),
        gates=gates_of(document),
    )


def gates_of(document: ModelDocument) -> tuple[Mapping[str, object], ...]:
    """The entries, with the digests of the local files that they name."""
    files = document.files or {}
    found = []
    for entry in document.gates or ():
        kind, spec = parse(entry.model_dump(mode="json", by_alias=True, exclude_unset=True))
        told: dict[str, Any] = spec.model_dump(mode="json", exclude_unset=True)
        for field, name in local_files(spec).items():
            if name in files:
                told[field] = f"{name}@sha256:{files[name].digest}"
        found.append({kind: told})
    return tuple(found)


def _strategy(told: sections.Rollout) -> Strategy:
    """One that was not named is what its steps do."""
    if told.strategy in ("ab", "bandit") or told.arms:
        return Strategy.AB
    if told.strategy is not None:
        return Strategy(told.strategy)
    if told.steps is None:
        return Strategy.CANARY
    kinds = {name for one in told.steps for name in ("weight", "shadow") if _has(one, name)}
    if "weight" in kinds:
        return Strategy.CANARY
    return Strategy.SHADOW if "shadow" in kinds else Strategy.BLUE_GREEN


def _has(step: sections.Step, name: str) -> bool:
    value = getattr(step, name)
    return value is not None and value < 1 if name == "weight" else value is not None


def _steps(document: ModelDocument, told: sections.Rollout) -> tuple[Step, ...]:
    """The steps of the document; `approvals` is one before any of them."""
    found = [_step(one) for one in told.steps or ()]
    if document.approvals is not None:
        strategy = _strategy(told)
        if strategy in (Strategy.IMMEDIATE, Strategy.AB):
            raise InvalidInput(
                f"The strategy {strategy.value} has no steps that an approval could precede.",
                hint="Ask for it among the gates: `gates: [approval: {role: ...}]`.",
            )
        found = found or list(Spec(strategy=strategy).plan)
        found.insert(0, Step(approve=_approve(document.approvals)))
    return tuple(found)


def _step(one: sections.Step) -> Step:
    seconds = one.for_ or 0.0
    if one.weight is not None:
        full = one.weight >= 1
        return Step(weight=_points(one.weight), seconds=one.bake or seconds if full else seconds)
    if one.shadow is not None:
        return Step(shadow=_points(one.shadow), seconds=seconds)
    if one.preview is not None:
        return Step(preview=_preview(one.preview), seconds=seconds)
    if one.approve is not None:
        return Step(approve=_approve(one.approve), seconds=seconds)
    return Step(pause=True, seconds=seconds)


def _preview(told: sections.Preview) -> Preview:
    return Preview(
        header=told.header or "",
        equals=told.equals or "",
        prefix=told.prefix or "",
        caller=told.caller or "",
        team=told.team or "",
    )


def _approve(told: sections.Approve) -> Approve:
    default = Approve()
    expires = default.expires_seconds if told.expires is None else told.expires
    return Approve(told.role, told.quorum, expires)


def _arm(told: sections.Arm) -> ArmSpec:
    rules = tuple(_preview(one) for one in told.rules or ())
    return ArmSpec(told.version, _points(told.weight), rules)


def _bandit(told: sections.Rollout) -> Bandit | None:
    if told.bandit is None and told.strategy != "bandit":
        return None
    one = told.bandit or sections.Bandit()
    floor = round(one.floor * FULL)
    return Bandit(one.reward, one.every, floor, one.stop, one.seed)


def _limits(told: sections.AbsoluteLimits | None) -> Limits:
    if told is None:
        return Limits()
    return Limits(told.errors, None if told.latency is None else 1000 * told.latency)


def _sticky(told: str | None) -> Sticky | None:
    if told is None or told == "none":
        return None
    by, _, name = told.partition(":")
    return Sticky(by, name)  # type: ignore[arg-type]


def _window(told: sections.Freeze) -> Window:
    return Window(
        cron=told.cron or "",
        seconds=told.lasts or 0.0,
        begins=told.from_ or "",
        ends=told.to or "",
        zone=told.zone,
        reason=told.reason,
    )


def _points(fraction: float) -> int:
    points = round(fraction * FULL)
    if not 0 < points <= FULL:
        raise InvalidInput(f"A share of {fraction:%} is less than a basis point.")
    return points


def _analysis(told: sections.Analysis) -> Analysis:
    """What is said of a metric replaces the default; `without` takes one away."""
    given: dict[str, Any] = {}
    if told.alpha is not None:
        given["alpha"] = told.alpha
    if told.errors is not None:
        given["errors_max_increase"] = told.errors.max_increase
    if told.latency is not None:
        given["latency_max_ratio"] = told.latency.max_ratio
        given["latency_quantile"] = float(told.latency.quantile[1:]) / 100
        given["latency_floor_ms"] = 1000 * told.latency.floor
    if told.predictions is not None:
        given["predictions_max_distance"] = told.predictions.max_distance
    if told.scores is not None:
        given["scores_max_change"] = told.scores.max_change
    if told.disagreements is not None:
        given["disagreements_max"] = told.disagreements.max
    if told.differences is not None:
        given["differences_max"] = told.differences.max
    if told.labels is not None:
        given["outcomes"] = told.labels.metric
        given["outcomes_max_increase"] = told.labels.noninferior
        given["outcomes_delay_seconds"] = told.labels.delay
        given["outcomes_required"] = told.labels.required
    for name in ("min_samples", "hard_errors"):
        if (value := getattr(told, name)) is not None:
            given[name] = value
    for name in told.without or ():
        given[_LIMITS[name]] = None
    return Analysis(**given)


_LIMITS = {
    "errors": "errors_max_increase",
    "latency": "latency_max_ratio",
    "predictions": "predictions_max_distance",
    "disagreements": "disagreements_max",
}
