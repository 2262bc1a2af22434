"""Versions that are not run because they brought their workers down."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.serving.quarantine import Quarantined

router = APIRouter(prefix="/v1", tags=["quarantine"])


@router.get("/quarantine", **permits(Action.READ))
def list_quarantined(fleet: FleetDep, caller: Caller) -> Sequence[Quarantined]:
    return fleet.quarantine.list(caller)


@router.post(
    "/models/{name}/versions/{version}/release", status_code=204, **permits(Action.ROLLOUT)
)
def release_version(fleet: FleetDep, caller: Caller, name: str, version: str) -> None:
    """Let it run again; its earlier crashes no longer count."""
    fleet.quarantine.release(caller, name, version)
