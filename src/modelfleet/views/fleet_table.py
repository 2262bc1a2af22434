"""The fleet table as asked for: filtered and sorted. A query is what stands in the address bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modelfleet.registry.types import CRITICALITIES
from modelfleet.views.fleet import FleetRow

STATES = ("failing", "alarm", "rolling-out", "waiting", "serving")
"""What asks for attention comes first."""

_Key = Callable[[FleetRow], tuple[float, str]]


@dataclass(frozen=True)
class Query:
    text: str = ""
    team: str = ""
    state: str = ""
    sort: str = "endpoint"
    descending: bool = False


def _text(get: Callable[[FleetRow], str | None]) -> _Key:
    return lambda row: (0.0, (get(row) or "").casefold())


def _number(get: Callable[[FleetRow], float | None]) -> _Key:
    def key(row: FleetRow) -> tuple[float, str]:
        value = get(row)
        return (-1.0 if value is None else value), row.endpoint

    return key


COLUMNS: Mapping[str, _Key] = {
    "endpoint": _text(lambda row: row.endpoint),
    "team": _text(lambda row: row.team),
    "function": _text(lambda row: row.function),
    "criticality": _number(lambda row: _rank(CRITICALITIES, row.criticality)),
    "stable": _text(lambda row: row.stable),
    "state": _number(lambda row: _rank(STATES, row.state)),
    "rate": _number(lambda row: row.requests_per_second),
    "errors": _number(lambda row: row.error_rate),
    "p50": _number(lambda row: row.p50_ms),
    "p95": _number(lambda row: row.p95_ms),
    "predictions": _number(lambda row: row.requests),
    "alerts": _number(lambda row: row.alerts),
}
NUMBERS = frozenset({"criticality", "rate", "errors", "p50", "p95", "predictions", "alerts"})
"""Columns whose first click sorts downwards."""


def select(rows: Sequence[FleetRow], query: Query) -> list[FleetRow]:
    """The rows that match, in order. An unknown column sorts by endpoint."""
    words = query.text.casefold().split()
    found = [
        row
        for row in rows
        if query.team in ("", row.team)
        and query.state in ("", row.state)
        and all(word in _haystack(row) for word in words)
    ]
    found.sort(key=COLUMNS["endpoint"])
    found.sort(key=COLUMNS.get(query.sort, COLUMNS["endpoint"]), reverse=query.descending)
    return found


def _haystack(row: FleetRow) -> str:
    tags = " ".join(f"{key}={value}" for key, value in row.tags.items())
    return f"{row.endpoint} {row.model} {row.team} {row.function} {tags}".casefold()


def _rank(order: Sequence[str], value: str) -> float:
    return float(order.index(value)) if value in order else -1.0
