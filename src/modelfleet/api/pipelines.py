"""Pipelines: a typed graph of models behind one endpoint."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.serving.pipelines.counters import PipelineCounters
from modelfleet.serving.pipelines.store import Pipeline

router = APIRouter(prefix="/v1", tags=["pipelines"])


@router.get("/pipelines", **permits(Action.READ))
def list_pipelines(fleet: FleetDep, caller: Caller) -> list[Pipeline]:
    """All pipelines."""
    return fleet.pipelines.list(caller)


@router.post("/pipelines", status_code=201, **permits(Action.ROLLOUT))
def define_pipeline(fleet: FleetDep, caller: Caller, body: dict[str, Any]) -> Pipeline:
    """Make a pipeline or its next revision; 400 names the step that can't work.

    The body is the definition, as docs/pipelines.md describes it.
    """
    return fleet.pipelines.define(caller, body)


@router.get("/pipelines/{name}", **permits(Action.READ))
def get_pipeline(fleet: FleetDep, caller: Caller, name: str) -> Pipeline:
    """One pipeline: its newest revision."""
    return fleet.pipelines.get(caller, name)


@router.get("/pipelines/{name}/statistics", **permits(Action.READ))
def get_pipeline_statistics(fleet: FleetDep, caller: Caller, name: str) -> dict[str, Any]:
    """What the executors counted since they started: requests, failures, circuits, by step."""
    found: PipelineCounters = fleet.pipelines.statistics(caller, name)
    return found.as_document()


@router.delete("/pipelines/{name}", status_code=204, **permits(Action.DELETE))
def delete_pipeline(fleet: FleetDep, caller: Caller, name: str) -> None:
    """Stop serving a pipeline."""
    fleet.pipelines.delete(caller, name)
