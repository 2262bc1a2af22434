"""Fleet files: plan, apply, remove, export. The command line reads them and sends documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.delivery.apply import Signed
from modelfleet.delivery.objects import FleetObject
from modelfleet.delivery.types import Order, Plan, Result, Standing

router = APIRouter(prefix="/v1/fleet", tags=["fleet files"])
_CHUNK = 500
"""objects of one call that applies"""


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    fleet: str = Field(default="default", min_length=1, max_length=64)
    stage: str = Field(default="", max_length=60)


class PlanBody(Body):
    documents: list[Any] = Field(description="of kind Model or Pipeline, defaults laid under them")
    prune: bool = Field(default=False, description="plan removals of what is not among them")
    retry: bool = Field(default=False, description="start rollouts again that were rolled back")


class OrderBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    document: Any
    fingerprint: str = Field(default="", description="of the plan that was shown")


class SignedBody(Body):
    commit: str = Field(default="", max_length=80)
    plan: str = Field(default="", max_length=64, description="id of the plan that is carried out")

    def signed(self) -> Signed:
        return Signed(self.fleet, self.stage, self.commit, self.plan)


class ApplyBody(SignedBody):
    objects: list[OrderBody] = Field(max_length=_CHUNK)
    rollouts: bool = Field(default=True, description="start those that the documents ask for")
    retry: bool = False


class Named(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: str
    name: str
    generation: int | None = Field(default=None, description="that the removal was planned for")


class RemoveBody(SignedBody):
    objects: list[Named] = Field(max_length=_CHUNK)


@router.get("/objects", **permits(Action.READ))
def list_objects(fleet: FleetDep, caller: Caller, name: str | None = None) -> list[FleetObject]:
    """What was applied, by whom and from which commit; of one fleet only if it is named."""
    return fleet.files.applied(caller, name)


@router.get("/standings", **permits(Action.READ))
def list_standings(fleet: FleetDep, caller: Caller, name: str | None = None) -> list[Standing]:
    """What was applied, and whether it is still so: drift, rollouts, what waits."""
    return fleet.files.standings(caller, name)


@router.get("/export", **permits(Action.READ))
def export_files(
    fleet: FleetDep, caller: Caller, name: Annotated[list[str] | None, Query()] = None
) -> list[dict[str, Any]]:
    """Documents of what is there now; planning them again finds nothing to do."""
    return fleet.files.export(caller, name or ())


@router.post("/plan", **permits(Action.READ))
def plan_files(fleet: FleetDep, caller: Caller, body: PlanBody) -> Plan:
    """What applying these documents would change; nothing is changed by it."""
    return fleet.files.plan(
        caller,
        body.fleet,
        body.documents,
        stage=body.stage,
        prune=body.prune,
        retry=body.retry,
    )


@router.post("/apply", **permits(Action.REGISTER))
def apply_files(fleet: FleetDep, caller: Caller, body: ApplyBody) -> Sequence[Result]:
    """Each object in a transaction of its own; the answer says what became of each."""
    orders = [Order(one.document, one.fingerprint) for one in body.objects]
    return fleet.files.apply(
        caller, body.signed(), orders, rollouts=body.rollouts, retry=body.retry
    )


@router.post("/remove", **permits(Action.DELETE))
def remove_files(fleet: FleetDep, caller: Caller, body: RemoveBody) -> Sequence[Result]:
    """Stop serving what these documents asked for; versions stay in the registry."""
    keys = [(one.kind, one.name) for one in body.objects]
    planned = {
        (one.kind, one.name): one.generation for one in body.objects if one.generation is not None
    }
    return fleet.files.remove(caller, body.signed(), keys, planned)
