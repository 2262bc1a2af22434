"""Data sets with versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action, Resource, authorize
from modelfleet.registry.datasets import DatasetVersion

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


class DatasetBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """of content that was uploaded"""
    format: Literal["csv", "parquet"]
    team: str | None = None
    """owner of a data set that is new"""
    description: str = ""


@router.get("", **permits(Action.READ))
def list_datasets(fleet: FleetDep, caller: Caller) -> Sequence[DatasetVersion]:
    """The newest version of each."""
    return fleet.datasets.list(caller)


@router.post("/{name}/versions", status_code=201, **permits(Action.REGISTER))
def push(fleet: FleetDep, caller: Caller, name: str, body: DatasetBody) -> DatasetVersion:
    """A new version; the same content again is the version that has it."""
    return fleet.datasets.push(
        caller, name, body.sha256, body.format, team=body.team, description=body.description
    )


@router.get("/{name}/versions", **permits(Action.READ))
def versions(fleet: FleetDep, caller: Caller, name: str) -> Sequence[DatasetVersion]:
    return fleet.datasets.versions(caller, name)


@router.get("/{name}/versions/{version}", **permits(Action.READ))
def get(fleet: FleetDep, caller: Caller, name: str, version: str) -> DatasetVersion:
    """`version` is a number or `latest`."""
    return fleet.datasets.get(caller, f"{name}@{version}")


@router.get("/{name}/versions/{version}/content", **permits(Action.READ_PAYLOADS))
def content(fleet: FleetDep, caller: Caller, name: str, version: str) -> FileResponse:
    """The table itself."""
    found = fleet.datasets.get(caller, f"{name}@{version}")
    resource = Resource("dataset", found.name, found.owner_team)
    authorize(caller, Action.READ_PAYLOADS, resource)
    return FileResponse(fleet.datasets.path(found), media_type="application/octet-stream")
