"""`/models/{name}/versions/{version}/gates`: what was asked of a version, and what was found."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.views.gates import gate_view, gates_view
from modelfleet.web.base import FleetDep, Sender, Viewer, go_to, permits
from modelfleet.web.bounds import bar_chart, curve_chart, forest_chart
from modelfleet.web.render import page

router = APIRouter()


@router.get("/models/{name}/versions/{version}/gates", **permits(Action.READ))
def show_gates(
    request: Request, fleet: FleetDep, session: Viewer, name: str, version: str
) -> Response:
    view = gates_view(fleet, session.principal, name, version)
    may_run = session.principal.may(Action.RUN_BATCH, view.version.owner_team)
    return page(request, "gates.html", session, view=view, may_run=may_run)


@router.get("/models/{name}/versions/{version}/gates/{gate}", **permits(Action.READ))
def show_gate(
    request: Request,
    fleet: FleetDep,
    session: Viewer,
    name: str,
    version: str,
    gate: str,
    run: str = "",
) -> Response:
    view = gate_view(fleet, session.principal, name, version, gate, run)
    return page(
        request,
        "gate.html",
        session,
        view=view,
        forests=[forest_chart(one) for one in view.panels],
        bars=bar_chart(view.bars) if view.bars else "",
        curves=curve_chart(view.curves, view.axes) if view.curves else "",
    )


@router.post("/models/{name}/versions/{version}/gates", **permits(Action.RUN_BATCH))
def run_gates(fleet: FleetDep, session: Sender, name: str, version: str) -> Response:
    """Once more what was last asked; what needs no settings if nothing was."""
    known = fleet.gates.requests(session.principal, name, version)
    entries = [{one.kind: dict(one.spec)} for one in known[0].gates] if known else []
    champion = (known[0].champion or "none") if known else None
    fleet.gates.request(session.principal, name, version, entries, champion, again=True)
    return go_to(f"/models/{name}/versions/{version}/gates")
