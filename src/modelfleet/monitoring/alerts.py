"""The life of an alert, as one pure `step`.

    pending ──breached for `Policy.windows`──▶ firing ──acknowledge──▶ acknowledged
       │                                          │                        │
       └──clean──▶ (forgotten)                    └──clean for `clear_windows`──▶ resolved

A window that proves nothing (too few rows) changes nothing. A resolved alert never returns: the
next breach opens a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class AlertKind(StrEnum):
    DRIFT = "drift"
    """A feature or the score moved further than tolerated."""
    ERROR_RATE = "error-rate"
    CRASH = "crash"
    """Requests of a version killed their worker."""
    OVERLOAD = "overload"
    """More is asked than a version can answer, and the gateway refuses the rest."""


class AlertState(StrEnum):
    PENDING = "pending"
    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


OPEN_STATES = (AlertState.PENDING, AlertState.FIRING, AlertState.ACKNOWLEDGED)


@dataclass(frozen=True)
class AlertKey:
    """What one alert is about; at most one alert of a key is open."""

    kind: AlertKind
    endpoint: str
    version_index: int
    subject: str
    """Name of the feature, `(score)`, or empty when the whole version is meant."""


@dataclass(frozen=True)
class Observation:
    """What one window says about a key. `breached` is None when it proves nothing."""

    at: int
    """End of the window, microseconds."""
    breached: bool | None
    summary: str = ""
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    windows: int = 1
    """Breached windows in a row until the alert fires."""
    clear_windows: int = 1
    """Clean windows in a row until it resolves."""


@dataclass(frozen=True)
class Alert:
    key: AlertKey
    state: AlertState
    opened_at: int
    updated_at: int
    breached_windows: int
    """Breached windows since the alert was opened."""
    clean_windows: int
    """Clean windows in a row since the last breach."""
    summary: str
    evidence: Mapping[str, object]
    """Of the last breached window."""
    fired_at: int | None = None
    resolved_at: int | None = None
    acknowledged_at: int | None = None
    acknowledged_by: str = ""

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES


def step(alert: Alert | None, key: AlertKey, seen: Observation, policy: Policy) -> Alert | None:
    """The alert of `key` after one more observation; None if there is nothing to remember.

    An observation that is not newer than the last one changes nothing, so that a window which is
    judged twice counts once.
    """
    if alert is not None and not alert.is_open:
        alert = None
    if seen.breached is None or (alert is not None and seen.at <= alert.updated_at):
        return alert
    if seen.breached:
        return _breach(alert or _opened(key, seen), seen, policy)
    if alert is None or alert.state is AlertState.PENDING:
        return None
    return _clean(alert, seen, policy)


def acknowledge(alert: Alert, principal: str, at: int) -> Alert:
    """Somebody takes care of it. Meaningful for a firing alert only."""
    return replace(
        alert, state=AlertState.ACKNOWLEDGED, acknowledged_by=principal, acknowledged_at=at
    )


def resolve(alert: Alert, at: int) -> Alert:
    """Close it, whatever the windows say. The next breach opens a new one."""
    return replace(alert, state=AlertState.RESOLVED, resolved_at=at, updated_at=at)


def _opened(key: AlertKey, seen: Observation) -> Alert:
    return Alert(key, AlertState.PENDING, seen.at, seen.at, 0, 0, seen.summary, seen.evidence)


def _breach(alert: Alert, seen: Observation, policy: Policy) -> Alert:
    alert = replace(
        alert,
        updated_at=seen.at,
        breached_windows=alert.breached_windows + 1,
        clean_windows=0,
        summary=seen.summary,
        evidence=seen.evidence,
    )
    if alert.state is AlertState.PENDING and alert.breached_windows >= policy.windows:
        return replace(alert, state=AlertState.FIRING, fired_at=seen.at)
    return alert


def _clean(alert: Alert, seen: Observation, policy: Policy) -> Alert:
    alert = replace(alert, updated_at=seen.at, clean_windows=alert.clean_windows + 1)
    return resolve(alert, seen.at) if alert.clean_windows >= policy.clear_windows else alert
