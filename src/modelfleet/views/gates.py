"""A gate run, as a page explains it. Its evidence may come from anybody's program: what is not of
the form that the page draws is left out, never an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from modelfleet.core.authorization import Principal
from modelfleet.core.errors import NotFound
from modelfleet.gates import GateRun, list_runs
from modelfleet.gates.requests import GateRequest
from modelfleet.registry import Version
from modelfleet.views.histograms import Bin
from modelfleet.wiring import Fleet

_MOST_ROWS = 60
_MOST_COLUMNS = 12
_REQUESTS = 5

EXPLAINED: Mapping[str, str] = {
    "quality": "The metric on one data set, alone and beside the champion on the same rows. The "
    "lines are one-sided bounds: it passes when they lie on the right side of the limit, and fails "
    "when one is proven to lie on the other, corrected for the number of slices (Holm).",
    "signature": "Whether those who call the model can go on calling it.",
    "drift": "How far recent requests lie from the training data, feature by feature, in units of "
    "the population stability index.",
    "latency": "Real workers with the candidate and the champion, asked in alternating turns, so "
    "that whatever else the machine does meets both.",
    "dependencies": "The lock, what is installed, and what is forbidden.",
    "reproducibility": "The environment was made anew from its lock, and the golden inputs asked.",
    "dependents": "Recorded inputs of what uses the model, once with the champion's answers and "
    "once with the candidate's.",
    "robustness": "The same rows with a little noise, and rows with missing or extreme values.",
    "fairness": "Every pair of groups, with bounds. It passes when all lie inside the limit, fails "
    "when one is proven outside (Holm).",
    "security": "What is known of the files today. It never passes: much is not looked for yet.",
    "infrastructure": "A real worker, as a pool would start it, and the golden requests.",
    "run": "The team's own program and what it wrote.",
}


@dataclass(frozen=True)
class Interval:
    label: str
    value: float
    low: float
    high: float
    rows: int
    verdict: str
    note: str


@dataclass(frozen=True)
class Panel:
    title: str
    limit: float | None
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class Curve:
    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    limit: float | None
    verdict: str


@dataclass(frozen=True)
class Histogram:
    name: str
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class GateView:
    version: Version
    run: GateRun
    explained: str
    facts: Sequence[tuple[str, str]]
    panels: tuple[Panel, ...]
    bars: tuple[Bar, ...]
    curves: tuple[Curve, ...]
    axes: tuple[str, str]
    histograms: tuple[Histogram, ...]
    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]
    notes: Sequence[str]
    others: Sequence[GateRun]
    """further runs of the same gate, newest first"""


@dataclass(frozen=True)
class VersionGates:
    version: Version
    requests: Sequence[GateRequest]
    runs: Sequence[GateRun]


def gates_view(fleet: Fleet, principal: Principal, model: str, version: str) -> VersionGates:
    found = fleet.registry.get_version(principal, model, version)
    requests = fleet.gates.requests(principal, model, version)[:_REQUESTS]
    return VersionGates(found, requests, list_runs(fleet.database, found.id)[::-1])


def gate_view(
    fleet: Fleet, principal: Principal, model: str, version: str, gate: str, digest: str = ""
) -> GateView:
    """The newest run of a gate, or that on given inputs. Raises `NotFound`."""
    found = fleet.registry.get_version(principal, model, version)
    runs = [run for run in list_runs(fleet.database, found.id)[::-1] if run.gate == gate]
    chosen = next((run for run in runs if not digest or run.input_digest == digest), None)
    if chosen is None:
        raise NotFound(f"{found.name} has no run of the gate {gate[:60]}.")
    evidence = chosen.evidence
    columns, rows = _table(evidence.get("rows"))
    axes = _list(evidence.get("axes"))
    return GateView(
        found,
        chosen,
        EXPLAINED.get(chosen.kind, ""),
        _facts(evidence.get("facts")),
        tuple(_panels(evidence.get("panels"))),
        tuple(_bars(evidence.get("bars"))),
        tuple(_curves(evidence.get("curves"))),
        (str(axes[0]), str(axes[1])) if len(axes) == 2 else ("", ""),
        tuple(_histograms(evidence.get("histograms"))),
        columns,
        rows,
        [str(one) for one in _list(evidence.get("notes"))][:_MOST_ROWS],
        [run for run in runs if run is not chosen],
    )


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _facts(value: object) -> list[tuple[str, str]]:
    if not isinstance(value, Mapping):
        return []
    return [(str(name), _said(one)) for name, one in list(value.items())[:_MOST_ROWS]]


def _said(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str | int):
        return str(value)
    return msgspec.json.encode(value).decode()[:200]


def _number(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else None  # type: ignore[arg-type]


def _panels(value: object) -> list[Panel]:
    found = []
    for one in _list(value):
        if isinstance(one, Mapping):
            intervals = tuple(_intervals(one.get("bounds")))
            if intervals:
                found.append(Panel(str(one.get("title")), _number(one.get("limit")), intervals))
    return found


def _intervals(value: object) -> list[Interval]:
    found = []
    for one in _list(value)[:_MOST_ROWS]:
        if not isinstance(one, Mapping):
            continue
        middle = _number(one.get("value"))
        low, high = _number(one.get("low")), _number(one.get("high"))
        if middle is None:
            continue
        found.append(
            Interval(
                str(one.get("label")),
                middle,
                middle if low is None else low,
                middle if high is None else high,
                int(_number(one.get("rows")) or 0),
                str(one.get("verdict")),
                str(one.get("note") or ""),
            )
        )
    return found


def _bars(value: object) -> list[Bar]:
    found = []
    for one in _list(value)[:_MOST_ROWS]:
        if isinstance(one, Mapping) and (number := _number(one.get("value"))) is not None:
            limit = _number(one.get("limit"))
            found.append(Bar(str(one.get("label")), number, limit, str(one.get("verdict"))))
    return found


def _curves(value: object) -> list[Curve]:
    found = []
    for one in _list(value)[:6]:
        if isinstance(one, Mapping):
            pairs = zip(_list(one.get("x")), _list(one.get("y")), strict=False)
            known = [(_number(x), _number(y)) for x, y in pairs]
            points = [(x, y) for x, y in known if x is not None and y is not None]
            if len(points) > 1:
                xs, ys = zip(*points, strict=True)
                found.append(Curve(str(one.get("name")), tuple(xs), tuple(ys)))
    return found


def _histograms(value: object) -> list[Histogram]:
    found = []
    for one in _list(value)[:12]:
        if isinstance(one, Mapping):
            columns = (_list(one.get(name)) for name in ("labels", "reference", "recent"))
            bins = [
                Bin(str(label), _number(a) or 0.0, _number(b) or 0.0)
                for label, a, b in zip(*columns, strict=False)
            ]
            if bins:
                found.append(Histogram(str(one.get("name")), tuple(bins)))
    return found


def _table(value: object) -> tuple[tuple[str, ...], list[list[object]]]:
    rows = [one for one in _list(value) if isinstance(one, Mapping)][:_MOST_ROWS]
    columns = tuple(dict.fromkeys(str(name) for one in rows for name in one))[:_MOST_COLUMNS]
    return columns, [[one.get(name) for name in columns] for one in rows]
