"""Drift of one version, feature by feature, over its last windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet.core.authorization import Principal
from modelfleet.monitoring import AlertInfo, DriftResult
from modelfleet.registry import Version
from modelfleet.views.histograms import Bin, histogram
from modelfleet.wiring import Fleet

WINDOWS = 40


@dataclass(frozen=True)
class FeatureDrift:
    feature: str
    verdict: str
    """of the last window: drift, ok or inconclusive"""
    distance: float | None
    p: float | None
    rows: int
    distances: tuple[float | None, ...]
    """by window, oldest first; None where the window proved nothing"""
    alarms: int
    """alarmed windows among them"""
    alert: AlertInfo | None
    """the open one"""
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class DriftView:
    features: tuple[FeatureDrift, ...]
    """alarmed ones first, then by distance"""
    windows: int
    tolerated: float
    window_start: str
    window_end: str
    reference_rows: int


def drift_view(
    fleet: Fleet, principal: Principal, chosen: Version | None, endpoints: Sequence[str]
) -> DriftView:
    results = fleet.monitoring.drift(chosen.index, limit=WINDOWS) if chosen else []
    alerts: dict[str, AlertInfo] = {}
    for endpoint in endpoints:
        for one in fleet.monitoring.list_alerts(principal, open_only=True, endpoint=endpoint):
            if chosen is not None and one.kind == "drift" and one.version_index == chosen.index:
                alerts.setdefault(one.subject, one)
    return arrange(results, alerts, fleet.settings.monitoring.psi0)


def arrange(
    results: Sequence[DriftResult], alerts: dict[str, AlertInfo], tolerated: float
) -> DriftView:
    """results: the newest window first."""
    if not results:
        return DriftView((), 0, tolerated, "", "", 0)
    features = [_feature(number, results, alerts) for number in range(len(results[0].tests))]
    features.sort(key=lambda one: (one.alert is None, -(one.distance or 0.0), one.feature))
    newest = results[0]
    return DriftView(
        features=tuple(features),
        windows=len(results),
        tolerated=tolerated,
        window_start=newest.window_start,
        window_end=newest.window_end,
        reference_rows=max((test.reference_rows for test in newest.tests), default=0),
    )


def _feature(
    number: int, results: Sequence[DriftResult], alerts: dict[str, AlertInfo]
) -> FeatureDrift:
    test = results[0].tests[number]
    series = [
        next((one for one in result.tests if one.feature == test.feature), None)
        for result in reversed(results)
    ]
    alert = alerts.get(test.feature)
    return FeatureDrift(
        feature=test.feature,
        verdict=test.verdict,
        distance=test.distance,
        p=test.p,
        rows=test.rows,
        distances=tuple(one.distance if one is not None else None for one in series),
        alarms=sum(one is not None and one.verdict == "drift" for one in series),
        alert=alert,
        bins=histogram(alert.evidence) if alert is not None else (),
    )
