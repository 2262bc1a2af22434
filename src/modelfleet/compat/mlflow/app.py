"""The protocol as an ASGI application in front of the control plane."""

from __future__ import annotations

import re
from typing import Any

import anyio.to_thread
import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from modelfleet.compat.mlflow import (
    artifacts,
    experiments,
    logged_models,
    metrics,
    models,
    runs,
    server,
    versions,
    webhooks,
)
from modelfleet.compat.mlflow.errors import MlflowError, invalid, missing, shape, translate
from modelfleet.compat.mlflow.routing import Call, credentials, find, parameters
from modelfleet.core.authorization import SYSTEM
from modelfleet.core.errors import FleetError, NotFound
from modelfleet.core.ids import new_id
from modelfleet.registry import RegistryService
from modelfleet.registry.tracking.service import TrackingService
from modelfleet.wiring import Fleet

log = structlog.get_logger(__name__)
FAMILIES = (
    experiments,
    runs,
    metrics,
    logged_models,
    artifacts,
    models,
    versions,
    webhooks,
    server,
)
"""modules whose import declares routes"""
_OURS = re.compile(
    r"/(?:ajax-)?api/\d\.\d/mlflow(?:-artifacts)?/.*"
    r"|/get-artifact|/model-versions/get-artifact|/version|/health",
    re.DOTALL,
)
_TENANT = re.compile(r"/t/([^/]+)(/.*)?", re.DOTALL)


def wrap(app: ASGIApp, fleet: Fleet) -> ASGIApp:
    """`app`, with MLflow's addresses answered here; also below `/t/<namespace>/`."""
    rooms: dict[str, tuple[RegistryService, TrackingService]] = {
        "default": (fleet.registry, fleet.tracking)
    }

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        path: str = scope["path"]
        tenant = _TENANT.fullmatch(path)
        if tenant is None and not _OURS.fullmatch(path):
            await app(scope, receive, send)
            return
        namespace, place = (tenant[1], tenant[2] or "/") if tenant else ("default", path)
        request = Request(scope, receive)
        correlation = request.headers.get("x-request-id", "")[:80] or new_id()
        with structlog.contextvars.bound_contextvars(request_id=correlation):
            response = await _answer(request, namespace, place, correlation)
        response.headers["x-request-id"] = correlation
        await response(scope, receive, send)

    async def _answer(request: Request, namespace: str, place: str, correlation: str) -> Response:
        try:
            if "\0" in place:
                raise invalid("Invalid path")
            found, names = find(request.method, place)
            given = {} if found.streams else await parameters(request)
            caller = SYSTEM

            def prepare() -> Call:
                nonlocal caller
                if not found.public:
                    caller = fleet.identity.authenticate(credentials(request), correlation)
                registry, tracking = _rooms(namespace)
                return Call(fleet, caller, namespace, registry, tracking, given, request, names)

            if found.streams:
                call = await anyio.to_thread.run_sync(prepare)
                return await found.handler(call)
            answer = await anyio.to_thread.run_sync(lambda: found.handler(prepare()))
            return answer if isinstance(answer, Response) else _json(answer)
        except MlflowError as error:
            return shape(error)
        except FleetError as error:
            return shape(translate(error))
        except Exception as error:
            log.error("unexpected error", exc_info=error)
            return shape(
                MlflowError("INTERNAL_ERROR", "Something went wrong; the log has the details.")
            )

    def _rooms(namespace: str) -> tuple[RegistryService, TrackingService]:
        known = rooms.get(namespace)
        if known is None:
            try:
                registry = fleet.registry.within(
                    namespace, create=fleet.settings.registry.create_namespaces
                )
            except NotFound as error:
                raise missing(error.message) from error
            known = registry, fleet.tracking.within(namespace, registry.namespace_id)
            rooms[namespace] = known
        return known

    return serve


def _json(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
