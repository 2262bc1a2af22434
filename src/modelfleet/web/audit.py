"""`/audit`: the record of every change."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.views.audit import audit_view
from modelfleet.web.base import FleetDep, Viewer, permits
from modelfleet.web.render import page

router = APIRouter()


@router.get("/audit", **permits(Action.READ_AUDIT))
def show_audit(
    request: Request,
    fleet: FleetDep,
    session: Viewer,
    kind: str = "",
    name: str = "",
    before: Annotated[int | None, Query(ge=1)] = None,
    verify: bool = False,
) -> Response:
    view = audit_view(fleet, session.principal, kind=kind, name=name, before=before, verify=verify)
    asked = {key: value for key, value in {"kind": kind, "name": name}.items() if value}
    older = f"/audit?{urlencode(asked | {'before': view.older})}" if view.older else ""
    return page(
        request,
        "audit.html",
        session,
        view=view,
        kind=kind,
        name=name,
        older=older,
        paged=before is not None,
    )
