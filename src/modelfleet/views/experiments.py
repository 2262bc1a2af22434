"""Runs side by side: their parameters and metrics in columns, and how a metric went."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelfleet.core.authorization import Principal
from modelfleet.registry.tracking.types import Experiment, Point, Run
from modelfleet.wiring import Fleet

RUNS = 100
"""that one page shows"""
DRAWN = 6
"""runs whose histories are drawn"""
POINTS = 200
COLUMNS = 12
"""parameters, and as many metrics, that get columns"""


@dataclass(frozen=True)
class ExperimentRow:
    experiment: Experiment
    runs: int
    last: int | None
    """milliseconds since 1970 of the newest start"""


@dataclass(frozen=True)
class Axis:
    """One parameter or metric of a comparison."""

    name: str
    kind: str
    """parameter or metric"""
    values: tuple[float | str | None, ...]
    """one for each run; text where not all are numbers"""

    @property
    def numeric(self) -> bool:
        return all(value is None or isinstance(value, float) for value in self.values)


@dataclass(frozen=True)
class ExperimentView:
    experiment: Experiment
    runs: Sequence[Run]
    more: bool
    parameters: tuple[str, ...]
    """that differ come first"""
    metrics: tuple[str, ...]
    versions: Mapping[str, Sequence[str]]
    """names of the versions that a run produced"""
    drawn: tuple[Run, ...]
    metric: str
    """whose history is drawn; empty if there is none"""
    histories: Mapping[str, Sequence[Point]]
    axes: tuple[Axis, ...]


def experiments_view(fleet: Fleet, principal: Principal) -> list[ExperimentRow]:
    found = fleet.tracking.search_experiments(principal, limit=1000)
    counts = fleet.tracking.run_counts(principal)
    return [ExperimentRow(one, *counts.get(one.number, (0, None))) for one in found.items]


def experiment_view(
    fleet: Fleet,
    principal: Principal,
    number: str,
    *,
    filter_text: str = "",
    order: str = "",
    chosen: Sequence[str] = (),
    metric: str = "",
) -> ExperimentView:
    """chosen: ids of runs to draw; the first ones if none is given."""
    experiment = fleet.tracking.get_experiment(principal, number)
    found = fleet.tracking.search_runs(
        principal,
        [experiment.number],
        filter_text=filter_text or None,
        order=[order] if order else (),
        limit=RUNS,
    )
    runs = list(found.items)
    drawn = tuple([run for run in runs if run.id in chosen] or runs)[:DRAWN]
    metrics = _names([run.metrics for run in runs])
    if metric not in metrics:
        metric = next(iter(_names([run.metrics for run in drawn])), "")
    points: dict[str, list[Point]] = {}
    if metric and drawn:
        ids = [run.id for run in drawn]
        for point in fleet.tracking.sample_histories(principal, ids, metric, limit=POINTS):
            points.setdefault(point.run_id, []).append(point)
    parameters = _names([run.parameters for run in runs])
    return ExperimentView(
        experiment=experiment,
        runs=runs,
        more=found.more,
        parameters=parameters[:COLUMNS],
        metrics=metrics[:COLUMNS],
        versions=_versions(fleet, principal, runs),
        drawn=drawn,
        metric=metric,
        histories=points,
        axes=_axes(runs, parameters, metrics),
    )


def _names(given: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """All keys; those that most runs have, and that differ, first."""
    counts = Counter(key for one in given for key in one)
    same = {key: len({str(one[key]) for one in given if key in one}) < 2 for key in counts}
    return tuple(sorted(counts, key=lambda key: (-counts[key], same[key], key)))


def _axes(
    runs: Sequence[Run], parameters: Sequence[str], metrics: Sequence[str]
) -> tuple[Axis, ...]:
    """What tells the runs apart: parameters that differ, then metrics."""
    found = []
    for name in parameters:
        raw = [run.parameters.get(name) for run in runs]
        if len(set(raw)) > 1:
            numbers = [_number(value) for value in raw]
            plain = all(n is not None for n, value in zip(numbers, raw, strict=True) if value)
            found.append(Axis(name, "parameter", tuple(numbers if plain else raw)))
    shown = found[:5]
    for name in metrics[:3]:
        values = [run.metrics.get(name) for run in runs]
        known = tuple(v if v is not None and math.isfinite(v) else None for v in values)
        if any(value is not None for value in known):
            shown.append(Axis(name, "metric", known))
    return tuple(shown)


def _number(text: str | None) -> float | None:
    try:
        found = float(text) if text else None
    except ValueError:
        return None
    return found if found is not None and math.isfinite(found) else None


def _versions(fleet: Fleet, principal: Principal, runs: Sequence[Run]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    ids = [run.id for run in runs]
    if ids:
        listed = ", ".join(f"'{one}'" for one in ids)
        for version in fleet.registry.search_versions(principal, f"run_id IN ({listed})"):
            found.setdefault(version.run_id or "", []).append(f"{version.model}@{version.version}")
    return found
