"""`/files`: what fleet files applied, and whether it is still so."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.web.base import FleetDep, Viewer, permits, require
from modelfleet.web.render import page

router = APIRouter()


@router.get("/files", **permits(Action.READ))
def list_files(request: Request, fleet: FleetDep, session: Viewer) -> Response:
    require(session, Action.READ)
    standings = fleet.files.standings(session.principal)
    return page(request, "files.html", session, standings=standings)
