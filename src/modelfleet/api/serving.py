"""Endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.core.errors import InvalidInput
from modelfleet.serving.endpoints import Endpoint
from modelfleet.serving.gateway import Asked, Explanation
from modelfleet.serving.traffic import Traffic
from modelfleet.views.refusals import Refusals, refusals_of

router = APIRouter(prefix="/v1", tags=["serving"])


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EndpointBody(Body):
    name: str
    model: str


class StickyBody(Body):
    by: Literal["header", "cookie", "caller"]
    name: str = ""


class RuleBody(Body):
    """One of header (with equals or prefix), caller and team."""

    version: str
    header: str = ""
    equals: str = ""
    prefix: str = ""
    caller: str = ""
    team: str = ""
    version_id: str = Field(default="", description="read only")
    caller_id: str = Field(default="", description="read only")


class RateLimitBody(Body):
    requests: int
    seconds: int = 1


class TrafficBody(Body):
    """Fields that change; null takes one back."""

    sticky: StickyBody | None = None
    rules: list[RuleBody] = Field(default_factory=list)
    rate_limit: RateLimitBody | None = Field(default=None, description="of each caller")
    concurrency: int | None = Field(default=None, description="in one worker")
    priority: Literal["high", "normal", "low"] = "normal"
    timeout_ms: int | None = None
    per_try_timeout_ms: int | None = None


@router.get("/endpoints", **permits(Action.READ))
def list_endpoints(fleet: FleetDep, caller: Caller) -> list[Endpoint]:
    return fleet.endpoints.list(caller)


@router.post("/endpoints", status_code=201, **permits(Action.ROLLOUT))
def create_endpoint(fleet: FleetDep, caller: Caller, body: EndpointBody) -> Endpoint:
    return fleet.endpoints.create(caller, body.name, body.model)


@router.get("/endpoints/{name}", **permits(Action.READ))
def get_endpoint(fleet: FleetDep, caller: Caller, name: str) -> Endpoint:
    return fleet.endpoints.get(caller, name)


@router.get("/endpoints/{name}/traffic", **permits(Action.READ))
def get_traffic(fleet: FleetDep, caller: Caller, name: str) -> Traffic:
    return fleet.endpoints.get(caller, name).traffic


@router.patch("/endpoints/{name}/traffic", **permits(Action.ROLLOUT))
def set_traffic(fleet: FleetDep, caller: Caller, name: str, body: TrafficBody) -> Endpoint:
    """Only the fields that are given change. The answer's `revision` is live once
    `applied_revision` has reached it."""
    return fleet.endpoints.set_traffic(caller, name, body.model_dump(exclude_unset=True))


@dataclass(frozen=True)
class Explained:
    gateway: Explanation
    in_step: bool
    """the gateway runs what was written last"""
    applied: bool
    """what was written last holds the endpoint's newest routes and policy"""
    refusals: Refusals
    """what the gateway refused in the last minutes"""
    keys: list[str] | None
    """who may call: keys that count now, as `principal (name)`; null if you may not see keys"""


@router.get("/endpoints/{name}/gateway", **permits(Action.READ))
def explain_gateway(
    fleet: FleetDep,
    caller: Caller,
    name: str,
    path: Annotated[str | None, Query(description="try a request; begins with a slash")] = None,
    method: str = "POST",
    header: Annotated[list[str] | None, Query(description="of that request: NAME=VALUE")] = None,
    by: Annotated[str | None, Query(description="principal who sends that request")] = None,
) -> Explained:
    """What the gateway does with requests for this endpoint; with path, header or by: with one."""
    place = fleet.endpoints.get(caller, name)
    asked = None
    if path is not None or header or by:
        who = fleet.identity.find_principal(caller, by) if by else None
        asked = Asked(
            path=path or f"/v2/models/{name}/infer",
            method=method,
            headers=dict(_header(one) for one in header or ()),
            caller=who.id if who else "",
            teams=frozenset(grant.team for grant in who.grants) if who else frozenset(),
        )
    found = fleet.gateway.explain(name, asked)
    keys = None
    if caller.may(Action.MANAGE_ACCESS, "*"):
        keys = [f"{one.principal} ({one.name})" for one in fleet.identity.keys_for(caller, name)]
    return Explained(
        found,
        found.in_step,
        place.applied_revision >= place.revision,
        refusals_of(fleet, name),
        keys,
    )


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidInput(f"{text[:120]!r} is no header: write NAME=VALUE.")
    return name.lower(), value


@router.delete("/endpoints/{name}", status_code=204, **permits(Action.DELETE))
def delete_endpoint(fleet: FleetDep, caller: Caller, name: str) -> None:
    fleet.endpoints.delete(caller, name)
