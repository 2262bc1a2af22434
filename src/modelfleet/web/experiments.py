"""`/experiments`: training runs side by side; `/models/{name}/diff`: versions side by side."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from modelfleet.core.authorization import Action
from modelfleet.views.diff import version_diff
from modelfleet.views.experiments import experiment_view, experiments_view
from modelfleet.web.base import FleetDep, Viewer, permits, require
from modelfleet.web.plots import css_of, parallel_chart, step_chart
from modelfleet.web.render import page

router = APIRouter()


@router.get("/experiments", **permits(Action.READ))
def list_experiments(request: Request, fleet: FleetDep, session: Viewer) -> Response:
    require(session, Action.READ)
    rows = experiments_view(fleet, session.principal)
    return page(request, "experiments.html", session, rows=rows)


@router.get("/experiments/{number}", **permits(Action.READ))
def show_experiment(
    request: Request,
    fleet: FleetDep,
    session: Viewer,
    number: str,
    q: str = "",
    order: str = "",
    metric: str = "",
    run: Annotated[list[str] | None, Query()] = None,
) -> Response:
    require(session, Action.READ)
    view = experiment_view(
        fleet,
        session.principal,
        number,
        filter_text=q,
        order=order,
        chosen=run or (),
        metric=metric,
    )
    places = {one.id: place for place, one in enumerate(view.runs)}
    names = [one.name or one.id for one in view.runs]
    drawn_names = [one.name or one.id for one in view.drawn]
    return page(
        request,
        "experiment.html",
        session,
        view=view,
        q=q,
        order=order,
        colours={one.id: css_of(place) for place, one in enumerate(view.drawn)},
        history=step_chart(
            view.metric, drawn_names, [view.histories.get(one.id, ()) for one in view.drawn]
        ),
        parallel=parallel_chart(
            names, view.axes, {places[one.id]: place for place, one in enumerate(view.drawn)}
        ),
    )


@router.get("/models/{name}/diff", **permits(Action.READ))
def show_diff(
    request: Request,
    fleet: FleetDep,
    session: Viewer,
    name: str,
    before: str = "",
    after: str = "latest",
) -> Response:
    """before: the version before the newest if none is named."""
    versions = fleet.registry.list_versions(session.principal, name, limit=200)
    if not before:
        before = str(versions[min(1, len(versions) - 1)].sequence) if versions else "latest"
    diff = version_diff(fleet, session.principal, name, before, after)
    return page(request, "diff.html", session, diff=diff, versions=versions)
