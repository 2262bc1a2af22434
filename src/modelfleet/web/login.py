"""Logging in by a single-use link or a key, and out.

A link shows a page with a button first: mail scanners and link previews fetch links, and would use
it up. People without a session get a secret of their own in a cookie, so that nobody else's page
can send these forms for them.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.core.errors import Unauthenticated
from modelfleet.identity.service import SESSION_SECONDS
from modelfleet.web.base import (
    COOKIE,
    FORM_COOKIE,
    FleetDep,
    Sender,
    check_token,
    go_to,
    local_path,
    permits,
    token,
)
from modelfleet.web.render import page

router = APIRouter()
Csrf = Annotated[str, Form()]


@router.get("/login", **permits(None))
def show_login(request: Request, next: Annotated[str, Query()] = "/") -> Response:  # noqa: A002
    """Where one pastes a key."""
    return _form(request, "login.html", next=local_path(next))


@router.post("/login", **permits(None))
def log_in(
    request: Request,
    fleet: FleetDep,
    key: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",  # noqa: A002
    csrf: Csrf = "",
) -> Response:
    check_token(request.cookies.get(FORM_COOKIE, ""), csrf)
    try:
        session = fleet.identity.log_in(key.strip())
    except Unauthenticated as error:
        return _form(request, "login.html", 401, next=local_path(next), problem=error.message)
    return _begin(request, session, next)


@router.get("/login/{secret}", **permits(None))
def show_link(request: Request, secret: str) -> Response:
    """A button; the link is still unused afterwards."""
    return _form(request, "login_link.html", secret=secret)


@router.post("/login/{secret}", **permits(None))
def redeem_link(request: Request, fleet: FleetDep, secret: str, csrf: Csrf = "") -> Response:
    check_token(request.cookies.get(FORM_COOKIE, ""), csrf)
    try:
        session = fleet.identity.redeem_login_link(secret)
    except Unauthenticated as error:
        problem = f"{error.message} {error.hint}"
        return _form(request, "login.html", 401, next="/", problem=problem)
    return _begin(request, session, "/")


@router.post("/logout", **permits(Action.READ))
def log_out(request: Request, fleet: FleetDep, _session: Sender) -> Response:
    fleet.identity.end_session(request.cookies[COOKIE])
    response = go_to("/login")
    response.delete_cookie(COOKIE, path="/")
    return response


def _form(
    request: Request,
    template: str,
    status: int = 200,
    *,
    problem: str = "",
    **context: Any,
) -> Response:
    secret = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(24)
    response = page(
        request, template, status=status, form_token=token(secret), problem=problem, **context
    )
    _set(request, response, FORM_COOKIE, secret, 3600)
    return response


def _begin(request: Request, session: str, place: str) -> Response:
    response = go_to(place)
    _set(request, response, COOKIE, session, SESSION_SECONDS)
    response.delete_cookie(FORM_COOKIE, path="/")
    return response


def _set(request: Request, response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path="/",
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
