"""`/pipelines` and `/pipelines/{name}`: the graphs, and how their steps are doing."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.views.pipeline import pipeline_view
from modelfleet.web.base import FleetDep, Viewer, permits, require
from modelfleet.web.render import page

router = APIRouter()


@router.get("/pipelines", **permits(Action.READ))
def list_pipelines(request: Request, fleet: FleetDep, session: Viewer) -> Response:
    require(session, Action.READ)
    return page(
        request, "pipelines.html", session, pipelines=fleet.pipelines.list(session.principal)
    )


@router.get("/pipelines/{name}", **permits(Action.READ))
def show_pipeline(request: Request, fleet: FleetDep, session: Viewer, name: str) -> Response:
    view = pipeline_view(fleet, session.principal, name)
    return page(request, "pipeline.html", session, view=view)
