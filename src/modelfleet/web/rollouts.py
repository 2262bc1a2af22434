"""`/rollouts` and `/rollouts/{id}`: where each rollout stands, and why."""

from __future__ import annotations

import math
import re
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.views.replay import Replay, read_replay
from modelfleet.views.rollout import MetricView, RolloutView, approval_view, rollout_view
from modelfleet.web.base import FleetDep, Sender, Viewer, go_to, permits, require
from modelfleet.web.charts import Limit, Mark, Series, line_chart
from modelfleet.web.render import page

router = APIRouter()
_LISTED = 200
Reason = Annotated[str, Form()]
Back = Annotated[str, Form()]


@router.get("/rollouts", **permits(Action.READ))
def list_rollouts(
    request: Request, fleet: FleetDep, session: Viewer, endpoint: str = "", show: str = "all"
) -> Response:
    require(session, Action.READ)
    found = fleet.rollouts.list(
        session.principal,
        endpoint=endpoint or None,
        active_only=show == "active",
        limit=_LISTED,
    )
    return page(
        request,
        "rollouts.html",
        session,
        rollouts=sorted(found, key=lambda one: one.ended_at is not None),
        endpoint=endpoint,
        show=show,
        limit=_LISTED,
    )


@router.get("/rollouts/{rollout_id}", **permits(Action.READ))
def show_rollout(request: Request, fleet: FleetDep, session: Viewer, rollout_id: str) -> Response:
    view = rollout_view(fleet, session.principal, rollout_id)
    replay = read_replay(fleet.layout)
    charts = {one.key: metric_chart(one, view, replay) for one in view.metrics}
    return page(request, "rollout.html", session, view=view, charts=charts)


@router.post("/rollouts/{rollout_id}/pause", **permits(Action.ROLLOUT))
def pause(fleet: FleetDep, session: Sender, rollout_id: str) -> Response:
    fleet.rollouts.pause(session.principal, rollout_id)
    return go_to(f"/rollouts/{rollout_id}")


@router.post("/rollouts/{rollout_id}/resume", **permits(Action.ROLLOUT))
def resume(fleet: FleetDep, session: Sender, rollout_id: str) -> Response:
    fleet.rollouts.resume(session.principal, rollout_id)
    return go_to(f"/rollouts/{rollout_id}")


@router.post("/rollouts/{rollout_id}/abort", **permits(Action.ROLL_BACK))
def abort(fleet: FleetDep, session: Sender, rollout_id: str) -> Response:
    fleet.rollouts.abort(session.principal, rollout_id)
    return go_to(f"/rollouts/{rollout_id}")


@router.post("/rollouts/{rollout_id}/promote", **permits(Action.ROLLOUT))
def promote(fleet: FleetDep, session: Sender, rollout_id: str, reason: Reason = "") -> Response:
    fleet.rollouts.promote(session.principal, rollout_id, reason)
    return go_to(f"/rollouts/{rollout_id}")


@router.post("/rollouts/{rollout_id}/retry", **permits(Action.ROLLOUT))
def retry(fleet: FleetDep, session: Sender, rollout_id: str) -> Response:
    made = fleet.rollouts.retry(session.principal, rollout_id)
    return go_to(f"/rollouts/{made.id}")


@router.post("/rollouts/{rollout_id}/override", **permits(Action.FREEZE))
def override(fleet: FleetDep, session: Sender, rollout_id: str, reason: Reason = "") -> Response:
    fleet.rollouts.override(session.principal, rollout_id, reason)
    return go_to(f"/rollouts/{rollout_id}")


@router.get("/approvals", **permits(Action.READ))
def list_approvals(
    request: Request, fleet: FleetDep, session: Viewer, show: str = "waiting"
) -> Response:
    """What waits for a second person's yes."""
    require(session, Action.READ)
    state = "waiting" if show != "all" else ""
    found = fleet.approvals.list(session.principal, state=state)
    shown = [approval_view(one, session.principal) for one in found]
    return page(request, "approvals.html", session, approvals=shown, show=show)


@router.post("/approvals/{approval_id}/approve", **permits(Action.READ))
def approve(
    fleet: FleetDep, session: Sender, approval_id: str, reason: Reason = "", back: Back = ""
) -> Response:
    fleet.approvals.answer(session.principal, approval_id, approve=True, reason=reason)
    return go_to(_back(back))


@router.post("/approvals/{approval_id}/reject", **permits(Action.READ))
def reject(
    fleet: FleetDep, session: Sender, approval_id: str, reason: Reason = "", back: Back = ""
) -> Response:
    fleet.approvals.answer(session.principal, approval_id, approve=False, reason=reason)
    return go_to(_back(back))


def _back(place: str) -> str:
    """Only to pages of our own."""
    ours = r"/rollouts/[0-9a-f]{1,64}|/models/[\w.%~-]{1,250}/delivery"
    return place if re.fullmatch(ours, place) else "/approvals"


def metric_chart(metric: MetricView, view: RolloutView, replay: Replay | None) -> str:
    """The judge's evidence over time against what it needs.

    Evidence is drawn as powers of ten (log10 E) and cut off at three times what is needed: beyond
    that it says nothing more.
    """
    marks = [Mark(at, name) for at, name in view.marks_us]
    if metric.is_distance:
        most = 1.0 if metric.name == "predictions" else 4 * abs(metric.harm_needed) + 1e-9
        least = 0.0 if metric.name == "predictions" else -most
        series = [
            Series("at least", "bad", [min(max(value, least), most) for value in metric.harm]),
            Series("at most", "good", [min(max(value, least), most) for value in metric.proof]),
        ]
        limits = [Limit("allowed", "ink", metric.harm_needed)]
        title = f"How far the new version may lie from the stable one in {metric.name}"
        return line_chart(title, metric.times_us, series, limits=limits, marks=marks, replay=replay)
    most = 3 * max(metric.harm_needed, metric.proof_needed) / math.log(10)
    series = [
        Series(name, css, [min(value / math.log(10), most) for value in values])
        for name, css, values in (
            ("that it is worse", "bad", metric.harm),
            ("that it is as good", "good", metric.proof),
        )
    ]
    limits = [
        Limit("enough to roll back", "bad", metric.harm_needed / math.log(10)),
        Limit("enough to promote", "good", metric.proof_needed / math.log(10)),
    ]
    title = f"Evidence about {metric.name}, as powers of ten"
    return line_chart(title, metric.times_us, series, limits=limits, marks=marks, replay=replay)
