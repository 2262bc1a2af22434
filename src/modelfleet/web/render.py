"""From a view to an answer: templates, security headers, compression, live updates."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from modelfleet.core.authorization import Action
from modelfleet.core.clock import now_us
from modelfleet.identity.store import Session
from modelfleet.views.fleet import RouteView
from modelfleet.views.replay import read_replay
from modelfleet.web import assets, charts, formats, graph
from modelfleet.web.base import fleet_of, token
from modelfleet.web.live import LiveCache

HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; object-src 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
LIVE_HEADER = "x-modelfleet-have"
_WORTH_IT = 1024
_live = LiveCache()


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "rate", "percent", "milliseconds", "significant", "key", "compact"):
        made.filters[name] = getattr(formats, name)
    made.globals.update(
        asset=assets.path,
        sparkline=charts.sparkline,
        split_bar=charts.split_bar,
        histogram_chart=charts.histogram_chart,
        lineage_graph=graph.lineage_graph,
        bar=_bar,
    )
    return made


def _bar(routes: Sequence[RouteView]) -> list[tuple[float, str]]:
    """The shares of an endpoint's routes and the classes of their colours."""
    return [(route.weight, f"s{k % 3 + 1}") for k, route in enumerate(routes)]


_pages = _environment()


def page(
    request: Request,
    template: str,
    session: Session | None = None,
    *,
    status: int = 200,
    form_token: str = "",
    **context: object,
) -> Response:
    """Render a template. A viewer who polls (LIVE_HEADER) gets only what changed."""
    replay = read_replay(fleet_of(request).layout)
    shown = {
        "me": session.principal if session else None,
        "sees_audit": session is not None and session.principal.may(Action.READ_AUDIT, "*"),
        "csrf": token(session.csrf) if session else form_token,
        "replay": replay,
        "today": replay.date_at(now_us()) if replay else None,
        "replay_over": replay is not None and replay.is_over(now_us()),
        "when": formats.clock(replay),
    }
    html = _pages.get_template(template).render(shown | context)
    have = request.headers.get(LIVE_HEADER)
    if have is not None:
        return _update(request, html, have)
    html = html.replace('data-tag=""', f'data-tag="{_live.remember(html)}"', 1)
    return _answer(request, html, status)


def _update(request: Request, html: str, have: str) -> Response:
    update = _live.update(html, have)
    if update.tag == have:
        return Response(status_code=204, headers=HEADERS)
    response = _answer(request, update.html, 200)
    response.headers["x-modelfleet-tag"] = update.tag
    response.headers["x-modelfleet-whole"] = "1" if update.whole else "0"
    return response


def _answer(request: Request, html: str, status: int) -> Response:
    content, headers = html.encode(), {**HEADERS, "vary": "accept-encoding, cookie"}
    if len(content) > _WORTH_IT and "gzip" in request.headers.get("accept-encoding", ""):
        content = gzip.compress(content, 6, mtime=0)
        headers["content-encoding"] = "gzip"
    return Response(content, status, headers, media_type="text/html; charset=utf-8")
