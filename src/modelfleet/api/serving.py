"""Endpoints and rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.core.errors import InvalidInput
from modelfleet.rollouts.plan import Spec
from modelfleet.rollouts.service import Details
from modelfleet.rollouts.store import Rollout
from modelfleet.serving.endpoints import Endpoint
from modelfleet.serving.gateway import Asked, Explanation
from modelfleet.serving.traffic import Traffic

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


class AnalysisBody(Body):
    """See `Analysis`: what is judged, and how much worse the canary may be."""

    alpha: float = 0.05
    errors_max_increase: float | None = 0.01
    latency_max_ratio: float | None = 1.5
    latency_quantile: float = 0.95
    latency_floor_ms: float = 5.0
    predictions_max_distance: float | None = 0.2
    disagreements_max: float | None = 0.05
    min_samples: int = 50


class SpecBody(Body):
    strategy: Literal["immediate", "blue-green", "canary", "shadow"] = "canary"
    weights: list[int] = Field(default=[500, 2500, 5000], description="basis points, rising")
    step_seconds: float = 60.0
    bake_seconds: float = 60.0
    shadow_fraction: int = Field(default=10_000, description="basis points")
    analysis: AnalysisBody = Field(default_factory=AnalysisBody)
    on_fail: Literal["rollback", "freeze"] = "rollback"
    on_inconclusive: Literal["hold", "rollback"] = "hold"
    inconclusive_after_seconds: float = 3600.0


class RolloutBody(Body):
    model: str
    version: str = "latest"
    endpoint: str | None = None
    spec: SpecBody = Field(default_factory=SpecBody)


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
    return Explained(found, found.in_step, place.applied_revision >= place.revision, keys)


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidInput(f"{text[:120]!r} is no header: write NAME=VALUE.")
    return name.lower(), value


@router.delete("/endpoints/{name}", status_code=204, **permits(Action.DELETE))
def delete_endpoint(fleet: FleetDep, caller: Caller, name: str) -> None:
    fleet.endpoints.delete(caller, name)


@router.post("/rollouts", status_code=201, **permits(Action.ROLLOUT))
def start_rollout(fleet: FleetDep, caller: Caller, body: RolloutBody) -> Rollout:
    try:
        spec = msgspec.convert(body.spec.model_dump(), Spec)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"spec: {error}") from error
    return fleet.rollouts.start(caller, body.endpoint or body.model, body.model, body.version, spec)


@router.get("/rollouts", **permits(Action.READ))
def list_rollouts(
    fleet: FleetDep,
    caller: Caller,
    endpoint: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Sequence[Rollout]:
    return fleet.rollouts.list(caller, endpoint=endpoint, limit=limit)


@router.get("/rollouts/{rollout_id}", **permits(Action.READ))
def get_rollout(
    fleet: FleetDep,
    caller: Caller,
    rollout_id: str,
    ticks: Annotated[int, Query(ge=0, le=10_000)] = 600,
) -> Details:
    return fleet.rollouts.get(caller, rollout_id, ticks)


@router.post("/rollouts/{rollout_id}/pause", **permits(Action.ROLLOUT))
def pause_rollout(fleet: FleetDep, caller: Caller, rollout_id: str) -> Rollout:
    return fleet.rollouts.pause(caller, rollout_id)


@router.post("/rollouts/{rollout_id}/resume", **permits(Action.ROLLOUT))
def resume_rollout(fleet: FleetDep, caller: Caller, rollout_id: str) -> Rollout:
    return fleet.rollouts.resume(caller, rollout_id)


@router.post("/rollouts/{rollout_id}/abort", **permits(Action.ROLL_BACK))
def abort_rollout(fleet: FleetDep, caller: Caller, rollout_id: str) -> Rollout:
    return fleet.rollouts.abort(caller, rollout_id)
