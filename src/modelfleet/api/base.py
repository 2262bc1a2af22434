"""What all routes share: who is calling, what a route permits, how errors are told."""

from __future__ import annotations

import re
from typing import Annotated, Any

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from modelfleet.core.authorization import Action, Principal
from modelfleet.core.errors import FleetError, InvalidInput, NotAllowed, Unauthenticated
from modelfleet.core.ids import new_id
from modelfleet.wiring import Fleet

log = structlog.get_logger(__name__)
COOKIE = "modelfleet_session"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_MOVES_TRAFFIC = re.compile(
    "(?:/v1)?/(?:endpoints|rollouts|rollout-groups|approvals|keys|pipelines|quarantine)(?:/|$)"
)


def permits(action: Action | None) -> dict[str, Any]:
    """What a route asks of its caller, for OpenAPI and for the test that reads every route.

    The verb that the route calls checks it, as it alone knows the resource. None is public.
    """
    return {"openapi_extra": {"x-permission": action.value if action else "public"}}


def fleet_of(request: Request) -> Fleet:
    fleet: Fleet = request.app.state.fleet
    return fleet


def caller(request: Request) -> Principal:
    """The principal behind the bearer key or the session cookie."""
    identity = fleet_of(request).identity
    correlation = request.state.correlation_id
    header = request.headers.get("authorization", "")
    if header.lower().startswith("bearer "):
        return identity.authenticate(header[7:].strip(), correlation)
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        raise Unauthenticated(hint="Send 'Authorization: Bearer KEY' or log in.")
    session = identity.session(cookie, correlation)
    if request.method not in _SAFE and request.headers.get("x-csrf-token") != session.csrf:
        raise NotAllowed("The request lacks the session's CSRF token.")
    return session.principal


FleetDep = Annotated[Fleet, Depends(fleet_of)]
Caller = Annotated[Principal, Depends(caller)]


def problem(error: FleetError) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse(
        error.problem(), error.status, headers, media_type="application/problem+json"
    )


def install(app: FastAPI) -> None:
    """Correlation ids and one shape for all errors."""

    @app.middleware("http")
    async def correlate(request: Request, call_next: Any) -> Any:
        request.state.correlation_id = request.headers.get("x-request-id", "")[:80] or new_id()
        with structlog.contextvars.bound_contextvars(request_id=request.state.correlation_id):
            response = await call_next(request)
        changed = request.method not in _SAFE and response.status_code < 400
        if changed and _MOVES_TRAFFIC.match(request.url.path):
            fleet_of(request).reconciler.wake()
        response.headers["x-request-id"] = request.state.correlation_id
        return response

    @app.exception_handler(FleetError)
    async def known(_request: Request, error: FleetError) -> JSONResponse:
        return problem(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem(InvalidInput(f"{where}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def plain(_request: Request, error: HTTPException) -> JSONResponse:
        body = {
            "type": f"urn:modelfleet:problem:http-{error.status_code}",
            "title": str(error.detail),
            "status": error.status_code,
            "detail": str(error.detail),
        }
        return JSONResponse(body, error.status_code, media_type="application/problem+json")

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, error: Exception) -> JSONResponse:
        log.error("unexpected error", exc_info=error)
        return problem(FleetError("Something went wrong here; the log has the details."))
