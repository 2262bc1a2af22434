"""What all pages share: who is looking, what a page permits, tokens of forms."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Annotated, Any

from fastapi import Depends, Form, Request
from fastapi.responses import RedirectResponse

from modelfleet.core.authorization import Action
from modelfleet.core.errors import NotAllowed, Unauthenticated
from modelfleet.identity.store import Session
from modelfleet.wiring import Fleet

COOKIE = "modelfleet_session"
"""The API takes the same session."""
FORM_COOKIE = "modelfleet_form"
"""A secret for the forms of people who have no session yet."""


def permits(action: Action | None) -> dict[str, Any]:
    """What a page asks of who looks at it, in the form that the API uses. None is public."""
    permission = action.value if action else "public"
    return {"openapi_extra": {"x-permission": permission}, "include_in_schema": False}


def fleet_of(request: Request) -> Fleet:
    fleet: Fleet = request.app.state.fleet
    return fleet


def session_of(request: Request) -> Session:
    """The session behind the cookie. Raises `Unauthenticated`, which becomes the login page."""
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        raise Unauthenticated(hint="Log in.")
    return fleet_of(request).identity.session(cookie, request.state.correlation_id)


def posted(request: Request, csrf: Annotated[str, Form()] = "") -> Session:
    """The session of a form that was sent from one of our own pages."""
    session = session_of(request)
    check_token(session.csrf, csrf)
    return session


FleetDep = Annotated[Fleet, Depends(fleet_of)]
Viewer = Annotated[Session, Depends(session_of)]
Sender = Annotated[Session, Depends(posted)]


def require(session: Session, action: Action) -> None:
    """Refuse a page to those whom no grant gives `action` on anything."""
    principal = session.principal
    teams = {grant.team for grant in principal.grants}
    if not any(principal.may(action, team) for team in teams):
        raise NotAllowed(
            f"{principal.name} may not {action} anything here.",
            hint="An admin can grant a role: modelfleet grants add PRINCIPAL ROLE --team TEAM.",
        )


def token(secret: str) -> str:
    """A form token, another one for each page: compressed pages don't give the secret away."""
    nonce = secrets.token_hex(8)
    return f"{nonce}.{_sign(secret, nonce)}"


def check_token(secret: str, given: str) -> None:
    nonce, _, signature = given.partition(".")
    if not secret or not hmac.compare_digest(_sign(secret, nonce).encode(), signature.encode()):
        raise NotAllowed(
            "The form does not belong to your session.", hint="Load the page again and repeat."
        )


def _sign(secret: str, nonce: str) -> str:
    return hmac.new(secret.encode(), nonce.encode(), hashlib.sha256).hexdigest()


def local_path(path: str) -> str:
    """`path` if it leads to one of our own pages, else the start page."""
    ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if ours else "/"


def go_to(path: str) -> RedirectResponse:
    """After a form: the browser loads a page."""
    return RedirectResponse(local_path(path), status_code=303)
