"""Adds the pages to an application; errors of pages are pages too."""

from __future__ import annotations

import http
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from modelfleet.core.errors import FleetError, Unauthenticated
from modelfleet.identity.store import Session
from modelfleet.web import (
    alerts,
    assets,
    audit,
    delivery,
    experiments,
    files,
    fleet,
    gates,
    login,
    models,
    pipelines,
    rollouts,
)
from modelfleet.web.base import session_of
from modelfleet.web.render import HEADERS, LIVE_HEADER, page

log = structlog.get_logger(__name__)
_PROGRAMS = ("/v1/", "/v2/", "/healthz", "/metrics")
"""Addresses that programs call: their errors stay problem+json."""

PAGES = tuple(
    one.router
    for one in (
        login,
        fleet,
        models,
        delivery,
        gates,
        pipelines,
        files,
        experiments,
        rollouts,
        alerts,
        audit,
        assets,
    )
)

Handler = Callable[[Request, Exception], Awaitable[Response]]


def install(app: FastAPI) -> None:
    """Call it after the API has installed its error handlers: programs keep getting those."""
    for router in PAGES:
        app.include_router(router)
    for kind in (FleetError, RequestValidationError, HTTPException, Exception):
        theirs = cast("Handler", app.exception_handlers[kind])
        app.add_exception_handler(kind, _either(theirs))


def _either(theirs: Handler) -> Handler:
    async def handle(request: Request, error: Exception) -> Response:
        if request.url.path.startswith(_PROGRAMS):
            return await theirs(request, error)
        if isinstance(error, Unauthenticated):
            return _to_login(request)
        return await run_in_threadpool(_error_page, request, error)

    return handle


def _to_login(request: Request) -> Response:
    """Log in first, then come back (to a page, not to a form's target)."""
    if LIVE_HEADER in request.headers:
        return Response(status_code=401, headers=HEADERS)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    place = (
        f"/login?next={quote(wanted)}" if request.method == "GET" and wanted != "/" else "/login"
    )
    return RedirectResponse(place, status_code=303, headers=HEADERS)


@dataclass(frozen=True)
class _Told:
    status: int
    message: str
    hint: str = ""

    @property
    def title(self) -> str:
        return http.HTTPStatus(self.status).phrase


def _error_page(request: Request, error: Exception) -> Response:
    told = _told(error)
    return page(request, "error.html", _someone(request), status=told.status, error=told)


def _told(error: Exception) -> _Told:
    if isinstance(error, FleetError):
        return _Told(error.status, error.message, error.hint)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return _Told(400, f"{first['loc'][-1]}: {first['msg']}")
    if isinstance(error, HTTPException):
        missing = error.status_code == 404
        return _Told(error.status_code, "There is no such page." if missing else error.detail)
    log.error("unexpected error", exc_info=error)
    return _Told(500, "Something went wrong here; the log has the details.")


def _someone(request: Request) -> Session | None:
    """Who looks at the error page; nobody if that can't be told."""
    try:
        return session_of(request)
    except FleetError:
        return None
