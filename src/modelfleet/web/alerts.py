"""`/alerts`: what is out of order, grouped, with its evidence."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.views.alerts import STATES, AlertQuery, alerts_view
from modelfleet.web.base import FleetDep, Sender, Viewer, go_to, permits, require
from modelfleet.web.render import page

router = APIRouter()
Back = Annotated[str, Form()]


@router.get("/alerts", **permits(Action.READ))
def list_alerts(
    request: Request,
    fleet: FleetDep,
    session: Viewer,
    state: str = "open",
    q: str = "",
    by: str = "subject",
    page_number: Annotated[int, Query(alias="page", ge=1, le=10_000)] = 1,
) -> Response:
    require(session, Action.READ)
    query = AlertQuery(state if state in STATES else "open", q, by, page_number)
    view = alerts_view(fleet, session.principal, query)

    def place(**changes: object) -> str:
        asked = {"state": query.state, "q": q, "by": by, "page": view.query.page} | changes
        return "/alerts?" + urlencode({name: value for name, value in asked.items() if value})

    return page(request, "alerts.html", session, view=view, query=query, states=STATES, place=place)


@router.post("/alerts/{alert_id}/acknowledge", **permits(Action.ACKNOWLEDGE))
def acknowledge(
    fleet: FleetDep, session: Sender, alert_id: str, back: Back = "/alerts"
) -> Response:
    fleet.monitoring.acknowledge(session.principal, alert_id)
    return go_to(back)


@router.post("/alerts/{alert_id}/resolve", **permits(Action.ACKNOWLEDGE))
def resolve(fleet: FleetDep, session: Sender, alert_id: str, back: Back = "/alerts") -> Response:
    fleet.monitoring.resolve(session.principal, alert_id)
    return go_to(back)
