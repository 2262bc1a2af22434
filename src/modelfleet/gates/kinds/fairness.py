"""Differences between groups, on their confidence bounds: three-valued.

Groups and rates are those of fairlearn: selection rate, true and false positive rates; a difference
is that of the groups furthest apart, a ratio the smallest. Every pair of groups is compared: it
passes when all bounds lie inside the limit, fails when one is proven outside (Holm over all pairs).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelfleet.core.errors import InvalidInput
from modelfleet.fleetfile.gates import Fairness
from modelfleet.gates import answers, statistics
from modelfleet.gates.kinds.base import Case, Kind, bound, run
from modelfleet.gates.statistics import Undefined
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.serving.lab import Table

_MOST_GROUPS = 60
_SHOWN = 30


@dataclass(frozen=True)
class Group:
    name: str
    rows: int
    hits: dict[str, tuple[int, int]]
    """(selected, of) by rate: selection, true positives, false positives"""


@dataclass(frozen=True)
class Pair:
    what: str
    rate: str
    value: float
    low: float
    high: float
    harm: float
    """p-value of the claim that it is beyond the limit"""
    rows: int
    undecided: str = ""


def check(spec: Fairness, case: Case) -> GateRun:
    case.say("reading the data")
    data = case.around.dataset(spec.dataset)
    target = answers.column(data.table, spec.target, "the target")
    keep = np.array([one is not None and one == one for one in target.tolist()], dtype=bool)
    table = {name: values[keep] for name, values in data.table.items()}
    for name in spec.sensitive:
        answers.column(table, name, "a sensitive column")
    if not len(table[spec.target]):
        raise InvalidInput(f"{data.name} has no rows with a target.")
    case.say(f"scoring with {case.candidate.name}")
    [told] = case.lab.score(case.candidate, [table], case.deadline)
    if told.error:
        raise InvalidInput(f"{case.candidate.name} can't score {data.name}: {told.error}")
    info = case.candidate.info
    truth = answers.truth_of(table[spec.target], info.options.get("classes"))
    positive = truth.positive(spec.positive)
    chosen = answers.labels(told.outputs, info, spec.output, truth) == positive
    return judge(
        spec, table, truth.codes == positive, chosen, {"dataset": data.name, "digest": data.digest}
    )


def judge(
    spec: Fairness,
    table: Table,
    truth: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
    facts: dict[str, object],
) -> GateRun:
    pairs: list[Pair] = []
    small: list[str] = []
    shown: list[dict[str, object]] = []
    points: dict[str, float] = {}
    for attribute, names in _attributes(spec, table):
        groups = list(_groups(names, truth, chosen))
        if len(groups) < 2:
            small.append(f"{attribute}: there is one group only")
            continue
        small += [
            f"{attribute}={one.name}: {one.rows} rows, {spec.min_support} are needed"
            for one in groups
            if one.rows < spec.min_support
        ]
        shown += [
            {"group": f"{attribute}={one.name}", "rows": one.rows}
            | {rate: f"{a / n:.3f} of {n}" if n else "-" for rate, (a, n) in one.hits.items()}
            for one in groups
        ]
        points[attribute] = metric_of(spec.metric, groups)
        enough = [one for one in groups if one.rows >= spec.min_support]
        pairs += _pairs(spec, attribute, enough)
    harms = statistics.holm([pair.harm for pair in pairs])
    alpha = 1 - spec.confidence
    is_ratio = spec.metric.endswith("ratio")
    said = [
        _said(pair, harm, alpha, spec.limit, is_ratio)
        for pair, harm in zip(pairs, harms, strict=True)
    ]
    order = sorted(range(len(pairs)), key=lambda k: pairs[k].value * (1 if is_ratio else -1))
    evidence: dict[str, object] = {
        "facts": facts
        | {f"{spec.metric} by {name}": round(v, 4) for name, v in points.items() if v == v},
        "panels": [
            {
                "title": spec.metric.replace("_", " ") + ", pairs of groups",
                "limit": spec.limit,
                "better": "more" if is_ratio else "less",
                "bounds": [
                    bound(p.what, p.value, p.low, p.high, p.rows, said[k], p.undecided or p.rate)
                    for k in order[:_SHOWN]
                    for p in [pairs[k]]
                ],
            }
        ],
        "rows": shown[:_SHOWN],
        "notes": small,
        "values": {name: (v if v == v else None) for name, v in points.items()},
    }
    allowed = f"{'at least' if is_ratio else 'at most'} {spec.limit:g} is wanted"
    for k in order:
        if said[k] == "fail":
            p = pairs[k]
            what = "ratio" if is_ratio else "difference"
            span = f"{p.value:.3f} (from {p.low:.3f} to {p.high:.3f})"
            sentence = f"{p.what}: the {p.rate} {what} is {span}; {allowed}."
            return run("fairness", Verdict.FAIL, sentence, evidence)
    undecided = [k for k in order if said[k] == "inconclusive"]
    if small or undecided:
        if undecided:
            p = pairs[undecided[0]]
            why = p.undecided or f"from {p.low:.3f} to {p.high:.3f}"
            sentence = f"{p.what} can't be decided ({p.rate}: {why}); {allowed}."
        else:
            sentence = f"Too few rows: {small[0]}."
        return run("fairness", Verdict.INCONCLUSIVE, sentence, evidence)
    worst = max(points.items(), key=lambda item: item[1] * (-1 if is_ratio else 1))
    sentence = (
        f"{spec.metric} is {worst[1]:.3f} by {worst[0]}, with bounds inside the limit ({allowed})."
    )
    return run("fairness", Verdict.PASS, sentence, evidence)


def _attributes(spec: Fairness, table: Table) -> Iterator[tuple[str, NDArray[Any]]]:
    columns = [np.array(answers.texts(table[name])) for name in spec.sensitive]
    yield from zip(spec.sensitive, columns, strict=True)
    if len(columns) > 1 and spec.intersections:
        joined = [" & ".join(parts) for parts in zip(*(c.tolist() for c in columns), strict=True)]
        yield " & ".join(spec.sensitive), np.array(joined)


def _groups(
    names: NDArray[Any], truth: NDArray[np.bool_], chosen: NDArray[np.bool_]
) -> Iterator[Group]:
    found = np.unique(names).tolist()
    if len(found) > _MOST_GROUPS:
        raise InvalidInput(f"A sensitive column has {len(found)} groups; at most {_MOST_GROUPS}.")
    for name in found:
        mine = names == name
        hits = {
            "selection rate": (int(chosen[mine].sum()), int(mine.sum())),
            "true positive rate": (int((chosen & truth)[mine].sum()), int(truth[mine].sum())),
            "false positive rate": (int((chosen & ~truth)[mine].sum()), int((~truth)[mine].sum())),
        }
        yield Group(str(name), int(mine.sum()), hits)


def rates_of(metric: str) -> tuple[str, ...]:
    if metric.startswith("demographic"):
        return ("selection rate",)
    if metric.startswith("equal_opportunity"):
        return ("true positive rate",)
    return ("true positive rate", "false positive rate")


def metric_of(metric: str, groups: Sequence[Group]) -> float:
    """As fairlearn has it: over all groups, the worse rate. NaN where a rate has no rows."""
    found = []
    for rate in rates_of(metric):
        shares = [a / n if n else math.nan for a, n in (one.hits[rate] for one in groups)]
        most, least = max(shares), min(shares)
        if metric.endswith("ratio"):
            found.append(least / most if most else math.nan)
        else:
            found.append(most - least)
    if any(one != one for one in found):
        return math.nan
    return min(found) if metric.endswith("ratio") else max(found)


def _pairs(spec: Fairness, attribute: str, groups: Sequence[Group]) -> Iterator[Pair]:
    z = NormalDist().inv_cdf(spec.confidence)
    is_ratio = spec.metric.endswith("ratio")
    for rate in rates_of(spec.metric):
        for one, other in itertools.combinations(groups, 2):
            a, b = one.hits[rate], other.hits[rate]
            if not a[1] or not b[1]:
                what = f"{attribute}: {one.name} and {other.name}"
                yield Pair(
                    what, rate, math.nan, math.nan, math.nan, 1.0, 0, "a group has no such rows"
                )
                continue
            if a[0] / a[1] < b[0] / b[1]:
                one, other, a, b = other, one, b, a
            what = (
                f"{attribute}: {other.name} / {one.name}"
                if is_ratio
                else f"{attribute}: {one.name} - {other.name}"
            )
            rows = a[1] + b[1]
            try:
                yield (
                    _ratio(what, rate, b, a, z, spec.limit)
                    if is_ratio
                    else _difference(what, rate, a, b, z, spec.limit)
                )
            except Undefined as error:
                yield Pair(what, rate, math.nan, math.nan, math.nan, 1.0, rows, str(error))


def _difference(
    what: str, rate: str, a: tuple[int, int], b: tuple[int, int], z: float, limit: float
) -> Pair:
    low, high = statistics.newcombe(a, b, z)
    p, q = ((x + 1) / (n + 2) for x, n in (a, b))  # Agresti and Caffo
    error = math.sqrt(p * (1 - p) / (a[1] + 2) + q * (1 - q) / (b[1] + 2))
    # Which group is ahead was chosen by the data: both directions count.
    harm = min(1.0, 2 * statistics.upper_tail((p - q - limit) / error)) if p - q > limit else 1.0
    return Pair(what, rate, a[0] / a[1] - b[0] / b[1], low, high, harm, a[1] + b[1])


def _ratio(
    what: str, rate: str, less: tuple[int, int], more: tuple[int, int], z: float, limit: float
) -> Pair:
    low, high = statistics.katz(less, more, z)
    value = (less[0] / less[1]) / (more[0] / more[1])
    error = math.log(high / low) / (2 * z)
    beyond = (math.log(limit) - math.log(value)) / error if limit > 0 and error else 0.0
    harm = min(1.0, 2 * statistics.upper_tail(beyond)) if value < limit else 1.0
    return Pair(what, rate, value, low, high, harm, less[1] + more[1])


def _said(pair: Pair, harm: float, alpha: float, limit: float, is_ratio: bool) -> str:
    if pair.undecided:
        return "inconclusive"
    if harm < alpha:
        return "fail"
    inside = pair.low >= limit if is_ratio else pair.high <= limit and pair.low >= -limit
    return "pass" if inside else "inconclusive"


KIND = Kind("fairness", Fairness, check, frozenset({"dataset"}), title="Fairness")
