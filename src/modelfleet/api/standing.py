"""What versions count as: stages, lifecycle, tags; who uses them, and what became of a model."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action, Resource, authorize_somewhere
from modelfleet.core.errors import NotFound
from modelfleet.registry import Model, Version
from modelfleet.registry.garbage import GRACE_SECONDS, Collected
from modelfleet.registry.standing import Use
from modelfleet.registry.types import Stage
from modelfleet.views.history import HistoryEntry, history

router = APIRouter(prefix="/v1", tags=["registry"])


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StageBody(Body):
    stage: str
    """empty takes the version out of all stages"""
    replace: bool = False


class StageRules(Body):
    position: int
    protected: bool = False


class LifecycleBody(Body):
    lifecycle: str
    reason: str = ""


class VersionChanges(Body):
    version: str | None = None
    """another semantic version"""
    description: str | None = None
    tags: dict[str, str | None] | None = None
    """set, or removed where the value is null; others stay"""


class GarbageBody(Body):
    dry_run: bool = False
    grace_hours: Annotated[float, Field(ge=0)] = GRACE_SECONDS / 3600


class NameBody(Body):
    name: str


class TeamBody(Body):
    owner_team: str


@router.get("/models/{name}/history", **permits(Action.READ))
def model_history(
    fleet: FleetDep,
    caller: Caller,
    name: str,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 200,
) -> list[HistoryEntry]:
    """Newest first: who changed what, and which version was live when."""
    return history(fleet, caller, name, limit=limit)


@router.post("/models/{name}/rename", **permits(Action.REGISTER))
def rename(fleet: FleetDep, caller: Caller, name: str, body: NameBody) -> Model:
    return fleet.registry.rename_model(caller, name, body.name)


@router.post("/models/{name}/transfer", **permits(Action.REGISTER))
def transfer(fleet: FleetDep, caller: Caller, name: str, body: TeamBody) -> Model:
    """Give the model to another team; the caller may register for both."""
    return fleet.registry.transfer_model(caller, name, body.owner_team)


@router.patch("/models/{name}/versions/{version}", **permits(Action.REGISTER))
def change_version(
    fleet: FleetDep, caller: Caller, name: str, version: str, body: VersionChanges
) -> Version:
    found = fleet.registry.get_version(caller, name, version)
    number = str(found.sequence)
    if body.version is not None:
        fleet.registry.set_semver(caller, name, number, body.version)
    if body.description is not None:
        fleet.registry.describe_version(caller, name, number, body.description)
    for key, value in (body.tags or {}).items():
        if value is None:
            fleet.registry.delete_version_tag(caller, name, number, key)
        else:
            fleet.registry.set_version_tag(caller, name, number, key, value)
    return fleet.registry.get_version(caller, name, number)


@router.put("/models/{name}/versions/{version}/stage", **permits(Action.REGISTER))
def promote(fleet: FleetDep, caller: Caller, name: str, version: str, body: StageBody) -> Version:
    return fleet.registry.promote(caller, name, version, body.stage, replace=body.replace)


@router.put("/models/{name}/versions/{version}/lifecycle", **permits(Action.REGISTER))
def set_lifecycle(
    fleet: FleetDep, caller: Caller, name: str, version: str, body: LifecycleBody
) -> Version:
    """active, deprecated or retired; a version that somebody uses is not retired."""
    return fleet.registry.set_lifecycle(caller, name, version, body.lifecycle, body.reason)


@router.get("/models/{name}/versions/{version}/users", **permits(Action.READ))
def users(fleet: FleetDep, caller: Caller, name: str, version: str) -> list[Use]:
    """Who still uses a version."""
    return fleet.registry.users_of(caller, name, version)


@router.get("/models/{name}/versions/{version}/files/{path:path}", **permits(Action.READ))
def get_file(fleet: FleetDep, caller: Caller, name: str, version: str, path: str) -> FileResponse:
    """One file of the version's bundle."""
    found = fleet.registry.get_version(caller, name, version)
    for entry in fleet.registry.entries(found.bundle_digest):
        if entry.path == path:
            return FileResponse(
                fleet.blobs.path(entry.sha256),
                media_type="application/octet-stream",
                headers={"etag": f'"{entry.sha256}"', "x-content-type-options": "nosniff"},
            )
    raise NotFound(f"{found.name} has no file {path[:200]}.")


@router.post("/garbage", **permits(Action.MANAGE_ACCESS))
def collect_garbage(fleet: FleetDep, caller: Caller, body: GarbageBody) -> Collected:
    """Remove contents that nothing has named for the whole grace period."""
    return fleet.garbage.collect(
        caller, dry_run=body.dry_run, grace_seconds=body.grace_hours * 3600
    )


@router.get("/stages", **permits(Action.READ))
def stages(fleet: FleetDep, caller: Caller) -> list[Stage]:
    authorize_somewhere(caller, Action.READ, Resource("stage", "*"))
    return fleet.registry.list_stages()


@router.put("/stages/{name}", **permits(Action.MANAGE_ACCESS))
def set_stage(fleet: FleetDep, caller: Caller, name: str, body: StageRules) -> Stage:
    return fleet.registry.set_stage(caller, name, body.position, body.protected)


@router.delete("/stages/{name}", status_code=204, **permits(Action.MANAGE_ACCESS))
def delete_stage(fleet: FleetDep, caller: Caller, name: str) -> None:
    fleet.registry.delete_stage(caller, name)
