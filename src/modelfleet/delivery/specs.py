"""From the `rollout` section of a document to what the rollouts room is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet.core.errors import InvalidInput
from modelfleet.fleetfile.documents import ModelDocument
from modelfleet.fleetfile.rollout import Analysis as AnalysisSection
from modelfleet.fleetfile.rollout import Rollout, Step
from modelfleet.rollouts import analysis
from modelfleet.rollouts.plan import FULL, Spec, Strategy

_JUDGED = ("errors", "latency", "predictions", "disagreements")


@dataclass(frozen=True)
class Wanted:
    """`spec` is None if this release can't do what the document asks for; `missing` says what."""

    spec: Spec | None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def spec_of(document: ModelDocument) -> Wanted:
    """How the endpoint moves to another version. Raises `InvalidInput` for what can't be."""
    told = document.rollout or Rollout()
    missing = list(_missing(document, told))
    strategy = told.strategy or ("canary" if told.steps is None else _guessed(told.steps))
    steps = told.steps or ()
    weights = [one for one in steps if one.weight is not None and one.weight < 1]
    shadows = [one for one in steps if one.shadow is not None]
    if shadows and weights:
        missing.append("shadow steps before weights")
    if len(shadows) > 1:
        missing.append("more than one shadow step")
    if missing:
        return Wanted(None, tuple(dict.fromkeys(missing)))
    notes: list[str] = []
    default = Spec()
    timed = [one for one in (*shadows, *weights) if one.for_ is not None]
    lasts = {one.for_ for one in timed if one.for_ is not None}
    if len(lasts) > 1:
        notes.append(f"every step lasts at least as long as the longest, {max(lasts):g} s")
    bakes = [one.bake for one in steps if one.bake is not None]
    bake = next((one for one in (*bakes, told.bake) if one is not None), default.bake_seconds)
    inconclusive = told.on_inconclusive
    if inconclusive is not None and inconclusive.do == "ask":
        notes.append("`ask` holds the rollout until somebody steers it")
    spec = Spec(
        strategy=Strategy(strategy),
        weights=tuple(_points(one.weight) for one in weights) or default.weights,
        step_seconds=max(lasts, default=default.step_seconds),
        bake_seconds=bake,
        shadow_fraction=_points(shadows[0].shadow) if shadows else FULL,
        analysis=_analysis(told.analysis or AnalysisSection()),
        on_fail=told.on_fail or default.on_fail,
        on_inconclusive="rollback" if inconclusive and inconclusive.do == "rollback" else "hold",
        inconclusive_after_seconds=(
            inconclusive.after if inconclusive else default.inconclusive_after_seconds
        ),
    )
    if document.gates:
        notes.append("gates are kept with the document; rollouts don't wait for them yet")
    return Wanted(spec, (), tuple(notes))


def _points(fraction: float | None) -> int:
    points = round((fraction or 0.0) * FULL)
    if not 0 < points <= FULL:
        raise InvalidInput(f"A share of {fraction:%} is less than a basis point.")
    return points


def _guessed(steps: Sequence[Step]) -> str:
    """A strategy that was not named: what its steps do."""
    if any(one.weight is not None and one.weight < 1 for one in steps):
        return "canary"
    return "shadow" if any(one.shadow is not None for one in steps) else "blue-green"


def _missing(document: ModelDocument, told: Rollout) -> list[str]:
    """What this release would leave out, and had better not."""
    found = []
    for name in ("approve", "preview", "pause"):
        if any(getattr(one, name) is not None for one in told.steps or ()):
            found.append(f"steps of the kind {name}")
    if document.approvals is not None:
        found.append("approvals")
    if told.arms or told.strategy in ("ab", "bandit"):
        found.append("several arms")
    if told.freeze:
        found.append("freeze windows of a model")
    if told.sticky is not None:
        found.append("sticky assignment by a rollout (endpoint.sticky works)")
    if told.on_fail == "alert":
        found.append("on_fail: alert")
    if told.analysis is not None and told.analysis.labels is not None:
        found.append("analysis.labels")
    return found


def _analysis(told: AnalysisSection) -> analysis.Analysis:
    default = analysis.Analysis()
    without = told.without or ()
    limits: dict[str, float | None] = {
        "errors": told.errors.max_increase if told.errors else default.errors_max_increase,
        "latency": told.latency.max_ratio if told.latency else default.latency_max_ratio,
        "predictions": (
            told.predictions.max_distance if told.predictions else default.predictions_max_distance
        ),
        "disagreements": told.disagreements.max
        if told.disagreements
        else default.disagreements_max,
    }
    errors, latency, predictions, disagreements = (
        None if name in without else limits[name] for name in _JUDGED
    )
    quantile = float(told.latency.quantile[1:]) / 100 if told.latency else default.latency_quantile
    floor = told.latency.floor * 1000 if told.latency else default.latency_floor_ms
    return analysis.Analysis(
        alpha=told.alpha if told.alpha is not None else default.alpha,
        errors_max_increase=errors,
        latency_max_ratio=latency,
        latency_quantile=quantile,
        latency_floor_ms=floor,
        predictions_max_distance=predictions,
        disagreements_max=disagreements,
        min_samples=told.min_samples if told.min_samples is not None else default.min_samples,
    )
