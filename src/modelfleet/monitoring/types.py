"""What monitoring takes and hands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SCORE = "(score)"
"""Stands among the features for the model's own score."""


@dataclass(frozen=True)
class LiveVersion:
    """A version that answers requests of an endpoint just now."""

    endpoint: str
    version_index: int
    model: str
    version: str
    team: str


@dataclass(frozen=True)
class FeatureTest:
    """One test of one feature (or `(score)`) in one window. p, distance: None if inconclusive."""

    feature: str
    verdict: str
    """drift, ok or inconclusive"""
    p: float | None
    distance: float | None
    """Estimated chi-square distance from the reference (about the PSI), noise taken off."""
    rows: int
    reference_rows: int
    bins: int


@dataclass(frozen=True)
class DriftResult:
    """All tests of one version in one drift window. Times are ISO 8601."""

    window_start: str
    window_end: str
    version_index: int
    layout: str
    rows: int
    alarms: int
    tests: tuple[FeatureTest, ...]


@dataclass(frozen=True)
class WindowReport:
    """What one drift window brought for the whole fleet. Times in microseconds."""

    start_us: int
    end_us: int
    versions: int
    tests: int
    inconclusive: int
    alarms: int
    opened: int
    resolved: int


@dataclass(frozen=True)
class AlertInfo:
    """An alert for people. Times are ISO 8601, empty if it has not come to that."""

    id: str
    kind: str
    state: str
    endpoint: str
    model: str
    version: str
    version_index: int
    team: str
    subject: str
    summary: str
    opened_at: str
    updated_at: str
    fired_at: str
    resolved_at: str
    acknowledged_at: str
    acknowledged_by: str
    breached_windows: int
    evidence: Mapping[str, object]

    @property
    def is_open(self) -> bool:
        return self.state != "resolved"
