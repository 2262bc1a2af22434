"""All routes of an application, those of included routers as well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

if TYPE_CHECKING:
    from conftest import Api


def routes_of(found: Iterable[BaseRoute]) -> Iterator[APIRoute]:
    """All routes, those of included routers as well."""
    for one in found:
        inner = getattr(one, "original_router", None)
        if inner is not None:
            yield from routes_of(inner.routes)
        elif isinstance(one, APIRoute):
            yield one
        else:
            assert getattr(one, "path", "") == "/v1/openapi.json", one


def permission(route: APIRoute) -> str:
    return str((route.openapi_extra or {}).get("x-permission", ""))


def app_routes(api: Api) -> list[APIRoute]:
    return list(routes_of(api.http.app.routes))  # type: ignore[attr-defined]
