"""The audit log in pages, and whether its hash chain holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet.core import audit
from modelfleet.core.audit import AuditEvent
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.wiring import Fleet

PAGE = 50
_CHECKED_BY_ITSELF = 20_000
"""Longer chains take seconds to verify, so somebody has to ask for it."""


@dataclass(frozen=True)
class AuditView:
    events: Sequence[AuditEvent]
    older: int | None
    """go on before this sequence; None on the last page"""
    checked: bool
    intact: bool
    first_broken: int | None
    length: int


def audit_view(
    fleet: Fleet,
    principal: Principal,
    *,
    kind: str = "",
    name: str = "",
    before: int | None = None,
    verify: bool = False,
) -> AuditView:
    """Newest first; `kind` and `name` together ask for one resource."""
    authorize(principal, Action.READ_AUDIT, Resource("audit", "*"))
    resource = Resource(kind, name) if kind and name else None
    found = audit.events(fleet.database, resource=resource, before=before, limit=PAGE + 1)
    newest = audit.events(fleet.database, limit=1)
    length = newest[0].sequence if newest else 0
    checked = verify or length <= _CHECKED_BY_ITSELF
    broken = audit.first_broken(fleet.database) if checked else None
    events = found[:PAGE]
    return AuditView(
        events=events,
        older=events[-1].sequence if len(found) > PAGE else None,
        checked=checked,
        intact=checked and broken is None,
        first_broken=broken,
        length=length,
    )


def events_of_model(
    fleet: Fleet, principal: Principal, team: str, model: str, endpoints: Sequence[str]
) -> Sequence[AuditEvent] | None:
    """What happened to a model and its endpoints, newest first; None if one may not know."""
    if not principal.may(Action.READ_AUDIT, team):
        return None
    found: list[AuditEvent] = []
    for resource in [Resource("model", model), *(Resource("endpoint", e) for e in endpoints)]:
        found += audit.events(fleet.database, resource=resource, limit=20)
    return sorted(found, key=lambda event: -event.sequence)[:20]
