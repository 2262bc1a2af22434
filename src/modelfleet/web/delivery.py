"""`/models/{name}/delivery`: where a model stands, from training to monitoring."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.views.delivery import delivery_view
from modelfleet.web.base import FleetDep, Sender, Viewer, go_to, permits
from modelfleet.web.render import page

router = APIRouter()


@router.get("/models/{name}/delivery", **permits(Action.READ))
def show_delivery(request: Request, fleet: FleetDep, session: Viewer, name: str) -> Response:
    return page(
        request, "delivery.html", session, view=delivery_view(fleet, session.principal, name)
    )


@router.post("/models/{name}/train", **permits(Action.REGISTER))
def train(fleet: FleetDep, session: Sender, name: str) -> Response:
    fleet.training.start(session.principal, name)
    return go_to(f"/models/{name}/delivery")
