"""Experiments and their runs. They are written through MLflow's protocol, or with a version."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.registry.tracking.types import Experiment, Run, View

router = APIRouter(prefix="/v1", tags=["tracking"])
_Limit = Annotated[int, Query(ge=1, le=1000)]
_Offset = Annotated[int, Query(ge=0)]


@router.get("/experiments", **permits(Action.READ))
def list_experiments(
    fleet: FleetDep,
    caller: Caller,
    filter: str | None = None,  # noqa: A002 - what clients call it
    view: View = "active",
    limit: _Limit = 100,
    offset: _Offset = 0,
) -> list[Experiment]:
    """Newest first. `filter` is in MLflow's language: `name LIKE 'churn%'`."""
    found = fleet.tracking.search_experiments(
        caller, filter_text=filter, view=view, limit=limit, offset=offset
    )
    return list(found.items)


@router.get("/experiments/{experiment}", **permits(Action.READ))
def get_experiment(fleet: FleetDep, caller: Caller, experiment: int) -> Experiment:
    """`experiment` is its number."""
    return fleet.tracking.get_experiment(caller, experiment)


@router.get("/experiments/{experiment}/runs", **permits(Action.READ))
def list_runs(
    fleet: FleetDep,
    caller: Caller,
    experiment: int,
    filter: str | None = None,  # noqa: A002 - what clients call it
    order_by: str | None = None,
    view: View = "active",
    limit: _Limit = 100,
    offset: _Offset = 0,
) -> list[Run]:
    """The latest start first. `filter` and `order_by` are in MLflow's language:
    `metrics.auc > 0.9 AND params.depth = '6'`, `metrics.auc DESC`."""
    number = fleet.tracking.get_experiment(caller, experiment).number
    found = fleet.tracking.search_runs(
        caller,
        [number],
        filter_text=filter,
        order=(order_by,) if order_by else (),
        view=view,
        limit=limit,
        offset=offset,
    )
    return list(found.items)
