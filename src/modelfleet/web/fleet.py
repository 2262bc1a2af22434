"""`/`: the whole fleet, one row per endpoint."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.views import fleet_table
from modelfleet.views.fleet import RECENT_WINDOWS, fleet_view
from modelfleet.web.base import FleetDep, Viewer, permits, require
from modelfleet.web.render import page

router = APIRouter()
HEADINGS = {
    "endpoint": "Endpoint",
    "team": "Team",
    "function": "Function",
    "criticality": "Criticality",
    "stable": "Stable",
    "state": "State",
    "rate": "Req/s",
    "errors": "Errors",
    "p50": "p50 ms",
    "p95": "p95 ms",
    "predictions": "Predictions",
    "alerts": "Alerts",
}


@router.get("/", **permits(Action.READ))
def show_fleet(
    request: Request,
    fleet: FleetDep,
    session: Viewer,
    q: str = "",
    team: str = "",
    state: str = "",
    sort: str = "endpoint",
    order: Annotated[str, Query()] = "asc",
) -> Response:
    require(session, Action.READ)
    query = fleet_table.Query(q, team, state, sort, order == "desc")
    view = fleet_view(fleet, session.principal)
    return page(
        request,
        "fleet.html",
        session,
        view=view,
        rows=fleet_table.select(view.rows, query),
        query=query,
        teams=sorted({row.team for row in view.rows} | ({team} if team else set())),
        states=fleet_table.STATES,
        recent=RECENT_WINDOWS,
        headings=[heading(name, title, query) for name, title in HEADINGS.items()],
    )


def heading(name: str, title: str, query: fleet_table.Query) -> dict[str, str]:
    """A column's title, the address that sorts by it, and how it is sorted now."""
    here = query.sort == name
    down = not query.descending if here else name in fleet_table.NUMBERS
    asked = {"q": query.text, "team": query.team, "state": query.state, "sort": name}
    asked["order"] = "desc" if down else "asc"
    now = ("descending" if query.descending else "ascending") if here else "none"
    place = urlencode({key: value for key, value in asked.items() if value})
    return {"name": name, "title": title, "href": f"/?{place}", "sorted": now}
