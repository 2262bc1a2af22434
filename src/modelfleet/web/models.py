"""`/models/{name}`: one model with everything around it."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.telemetry.views import History
from modelfleet.views.model import model_view
from modelfleet.views.replay import Replay, read_replay
from modelfleet.views.times import SPANS
from modelfleet.web.base import FleetDep, Viewer, permits
from modelfleet.web.charts import Series, line_chart
from modelfleet.web.render import page

router = APIRouter()


@router.get("/models/{name}", **permits(Action.READ))
def show_model(
    request: Request,
    fleet: FleetDep,
    session: Viewer,
    name: str,
    version: str = "",
    span: str = "",
) -> Response:
    view = model_view(fleet, session.principal, name, version=version, span=span)
    replay = read_replay(fleet.layout)
    return page(
        request,
        "model.html",
        session,
        view=view,
        spans=tuple(SPANS),
        asked_version=version,
        traffic=traffic_chart(view.history, replay),
        latency=latency_chart(view.history, replay),
        history=history_rows(view.history),
    )


def step_us(history: History) -> int:
    starts = history.start_us
    return int(starts[1] - starts[0]) if len(starts) > 1 else 1_000_000


def traffic_chart(history: History, replay: Replay | None) -> str:
    """Requests and errors a second."""
    step = step_us(history)
    series = [
        Series("errors", "bad", (history.errors * 1e6 / step).tolist()),
        Series("requests", "s1", (history.requests * 1e6 / step).tolist()),
    ]
    starts = [int(at) for at in history.start_us]
    return line_chart(
        "Requests and errors a second", starts, series, unit="/s", replay=replay, step_us=step
    )


def latency_chart(history: History, replay: Replay | None) -> str:
    """Quantiles in milliseconds."""
    series = [
        Series(name, css, (values / 1000).tolist())
        for name, css, values in (
            ("p50", "s1", history.p50_us),
            ("p95", "s2", history.p95_us),
            ("p99", "s3", history.p99_us),
        )
    ]
    starts = [int(at) for at in history.start_us]
    return line_chart(
        "Latency in milliseconds",
        starts,
        series,
        unit=" ms",
        replay=replay,
        step_us=step_us(history),
    )


def history_rows(history: History) -> list[dict[str, float]]:
    """The numbers behind both charts: steps with requests only, newest first."""
    busy = np.flatnonzero(history.requests)[::-1]
    return [
        {
            "at": int(history.start_us[k]),
            "requests": int(history.requests[k]),
            "errors": int(history.errors[k]),
            "p50": float(history.p50_us[k]) / 1000,
            "p95": float(history.p95_us[k]) / 1000,
            "p99": float(history.p99_us[k]) / 1000,
        }
        for k in busy
    ]
