"""The fleet at a glance: one row per endpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelfleet.core.authorization import Principal
from modelfleet.core.clock import iso, now_us
from modelfleet.registry import Version
from modelfleet.rollouts.store import Rollout
from modelfleet.serving.endpoints import FULL, Endpoint
from modelfleet.telemetry import latency
from modelfleet.telemetry.views import Total, WindowState
from modelfleet.views.refusals import Shed, shed_by_endpoint
from modelfleet.wiring import Fleet

RECENT_WINDOWS = 5
TREND_WINDOWS = 24


@dataclass(frozen=True)
class RouteView:
    version: str
    index: int
    weight: float
    """share of live traffic"""
    shadow: float
    """share of requests that are copied"""
    serving: str
    """source or compiled"""
    requests: int
    """ever"""
    errors: int


@dataclass(frozen=True)
class FleetRow:
    endpoint: str
    model: str
    team: str
    function: str
    criticality: str
    tags: Mapping[str, str]
    stable: str | None
    routes: tuple[RouteView, ...]
    rollout: Rollout | None
    requests_per_second: float
    """in the last windows"""
    error_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    requests: int
    """ever"""
    alerts: int
    trend: tuple[int, ...]
    """requests in each of the last windows, oldest first"""
    state: str
    """serving, rolling-out, waiting (nothing is routed yet), alarm or failing"""
    shed: Shed | None = None
    """it is asked for more than it can answer"""


@dataclass(frozen=True)
class FleetView:
    at: str
    rows: tuple[FleetRow, ...]
    requests_per_second: float
    predictions: int
    errors: int
    outcomes_joined: int
    open_alerts: int
    active_rollouts: int


def fleet_view(fleet: Fleet, principal: Principal) -> FleetView:
    """Everything that `principal` may see."""
    endpoints = fleet.endpoints.list(principal)
    ids = {v for one in endpoints for v in _ids(one)}
    versions = fleet.registry.versions_by_id(sorted(ids))
    models = fleet.registry.models_by_name(principal, {one.model for one in endpoints})
    totals = fleet.evidence.totals()
    recent, seconds = _recent(fleet)
    trends = _trends(fleet)
    active = fleet.rollouts.list(principal, active_only=True, limit=100_000)
    rollouts = {one.endpoint: one for one in active}
    alerts = fleet.monitoring.open_counts(principal)
    shed = shed_by_endpoint(fleet)
    rows = []
    for endpoint in endpoints:
        owner = models[endpoint.model]
        routes = _routes(endpoint, versions, totals)
        windows = [w for route in routes for w in recent.get(route.index, ())]
        speed = _speed(windows)
        errors, requests = sum(w.errors for w in windows), sum(w.requests for w in windows)
        rollout = rollouts.get(endpoint.name)
        count = alerts.get(endpoint.name, 0)
        error_rate = errors / requests if requests else None
        rows.append(
            FleetRow(
                endpoint=endpoint.name,
                model=endpoint.model,
                team=endpoint.owner_team,
                function=owner.business_function,
                criticality=owner.criticality,
                tags=owner.tags,
                stable=_name(versions, endpoint.stable_version_id),
                routes=routes,
                rollout=rollout,
                requests_per_second=requests / seconds if seconds else 0.0,
                error_rate=error_rate,
                p50_ms=speed[0],
                p95_ms=speed[1],
                requests=sum(route.requests for route in routes),
                alerts=count,
                trend=_sum(trends.get(route.index) for route in routes),
                state=_state(endpoint, rollout, count, error_rate),
                shed=shed.get(endpoint.name),
            )
        )
    return FleetView(
        at=iso(now_us()),
        rows=tuple(rows),
        requests_per_second=sum(row.requests_per_second for row in rows),
        predictions=sum(total.requests for total in totals.values()),
        errors=sum(total.errors for total in totals.values()),
        outcomes_joined=fleet.evidence.outcomes_joined(),
        open_alerts=sum(alerts.values()),
        active_rollouts=len(rollouts),
    )


def _ids(endpoint: Endpoint) -> set[str]:
    found = {route.version_id for route in endpoint.routes}
    return found | ({endpoint.stable_version_id} if endpoint.stable_version_id else set())


def _name(versions: Mapping[str, Version], version_id: str | None) -> str | None:
    found = versions.get(version_id or "")
    return found.version if found else None


def _routes(
    endpoint: Endpoint, versions: Mapping[str, Version], totals: Mapping[int, Total]
) -> tuple[RouteView, ...]:
    found = []
    for route in endpoint.routes:
        version = versions[route.version_id]
        total = totals.get(version.index)
        found.append(
            RouteView(
                version=version.version,
                index=version.index,
                weight=route.weight / FULL,
                shadow=route.shadow / FULL,
                serving=version.serving,
                requests=total.requests if total else 0,
                errors=total.errors if total else 0,
            )
        )
    return tuple(found)


def _recent(fleet: Fleet) -> tuple[dict[int, list[WindowState]], float]:
    """The last closed windows by version index, and the seconds that they cover."""
    latest, length = fleet.evidence.latest_window(), fleet.evidence.window_us()
    if latest is None or latest + RECENT_WINDOWS * length < now_us() - 60_000_000:
        return {}, 0.0
    found: dict[int, list[WindowState]] = {}
    start = latest - (RECENT_WINDOWS - 1) * length
    for window in fleet.evidence.fleet_windows(start, latest + length):
        found.setdefault(window.version_index, []).append(window)
    return found, RECENT_WINDOWS * length / 1e6


def _trends(fleet: Fleet) -> dict[int, list[int]]:
    """Requests of the last windows by version index."""
    latest, length = fleet.evidence.latest_window(), fleet.evidence.window_us()
    if latest is None:
        return {}
    start = latest - (TREND_WINDOWS - 1) * length
    found: dict[int, list[int]] = {}
    for index, begin, requests in fleet.evidence.pulse(start, latest + length):
        place = (begin - start) // length
        found.setdefault(index, [0] * TREND_WINDOWS)[place] += requests
    return found


def _sum(trends: Iterable[Sequence[int] | None]) -> tuple[int, ...]:
    found = [trend for trend in trends if trend is not None]
    return tuple(sum(column) for column in zip(*found, strict=True))


def _speed(windows: Sequence[WindowState]) -> tuple[float | None, float | None]:
    """Median and 95th percentile in milliseconds."""
    if not windows:
        return None, None
    counts = np.sum([window.latency for window in windows], axis=0)
    median, high = (latency.quantile_us(counts, q) / 1000 for q in (0.5, 0.95))
    return (None, None) if math.isnan(median) else (median, high)


def _state(
    endpoint: Endpoint, rollout: Rollout | None, alerts: int, error_rate: float | None
) -> str:
    if error_rate is not None and error_rate > 0.05:
        return "failing"
    if rollout is not None:
        return "rolling-out"
    if not endpoint.routes:
        return "waiting"
    return "alarm" if alerts else "serving"
