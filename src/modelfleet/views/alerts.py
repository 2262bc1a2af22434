"""Alerts for people: filtered, grouped, in pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelfleet.core.authorization import Action, Principal
from modelfleet.monitoring import AlertInfo
from modelfleet.views.histograms import Bin, histogram
from modelfleet.wiring import Fleet

PAGE = 30
STATES = ("open", "firing", "acknowledged", "resolved", "all")
_LIMIT = 5000


@dataclass(frozen=True)
class AlertQuery:
    state: str = "open"
    text: str = ""
    by: str = "subject"
    """subject or endpoint"""
    page: int = 1


@dataclass(frozen=True)
class AlertCard:
    alert: AlertInfo
    bins: tuple[Bin, ...]
    distance: float | None
    tolerated: float | None
    rows: int | None
    may_acknowledge: bool
    may_resolve: bool


@dataclass(frozen=True)
class AlertGroup:
    name: str
    """the subject (a feature, a score, a kind of failure) or the endpoint"""
    alerts: int
    """in this group, on all pages"""
    worst: float | None
    """largest distance"""
    cards: tuple[AlertCard, ...]
    """those on this page"""


@dataclass(frozen=True)
class AlertsView:
    query: AlertQuery
    groups: tuple[AlertGroup, ...]
    total: int
    pages: int
    summary: tuple[AlertGroup, ...]
    """all groups without their cards, the largest first"""


def alerts_view(fleet: Fleet, principal: Principal, query: AlertQuery) -> AlertsView:
    found = fleet.monitoring.list_alerts(
        principal, open_only=query.state not in ("resolved", "all"), limit=_LIMIT
    )
    return arrange([one for one in found if matches(one, query)], principal, query)


def matches(alert: AlertInfo, query: AlertQuery) -> bool:
    fits = alert.is_open if query.state == "open" else query.state in ("all", alert.state)
    words = f"{alert.endpoint} {alert.model} {alert.subject} {alert.kind} {alert.team}".lower()
    return fits and all(word in words for word in query.text.lower().split())


def arrange(alerts: Sequence[AlertInfo], principal: Principal, query: AlertQuery) -> AlertsView:
    """Groups with the most alerts first, within a group the largest distance first."""
    members: dict[str, list[AlertInfo]] = {}
    for one in alerts:
        members.setdefault(_group(one, query.by), []).append(one)
    ordered = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
    flat = [
        (name, one)
        for name, group in ordered
        for one in sorted(group, key=lambda a: (-(_number(a, "distance") or 0.0), a.endpoint))
    ]
    pages = max(1, -(-len(flat) // PAGE))
    page = min(max(query.page, 1), pages)
    shown: dict[str, list[AlertCard]] = {}
    for name, one in flat[(page - 1) * PAGE : page * PAGE]:
        shown.setdefault(name, []).append(card(one, principal))
    summary = tuple(AlertGroup(name, len(group), _worst(group), ()) for name, group in ordered)
    groups = tuple(
        AlertGroup(name, len(members[name]), _worst(members[name]), tuple(cards))
        for name, cards in shown.items()
    )
    return AlertsView(replace(query, page=page), groups, len(flat), pages, summary)


def card(alert: AlertInfo, principal: Principal) -> AlertCard:
    may = principal.may(Action.ACKNOWLEDGE, alert.team)
    rows = _number(alert, "rows")
    return AlertCard(
        alert=alert,
        bins=histogram(alert.evidence),
        distance=_number(alert, "distance"),
        tolerated=_number(alert, "tolerated"),
        rows=None if rows is None else int(rows),
        may_acknowledge=may and alert.state == "firing",
        may_resolve=may and alert.is_open,
    )


def _group(alert: AlertInfo, by: str) -> str:
    return alert.endpoint if by == "endpoint" else alert.subject or alert.kind


def _worst(alerts: Sequence[AlertInfo]) -> float | None:
    return max((d for one in alerts if (d := _number(one, "distance")) is not None), default=None)


def _number(alert: AlertInfo, name: str) -> float | None:
    value = alert.evidence.get(name)
    return float(value) if isinstance(value, int | float) else None
