"""Rollouts, groups of them, and freeze windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.core.errors import InvalidInput
from modelfleet.rollouts.freezes import Freeze
from modelfleet.rollouts.plan import Spec
from modelfleet.rollouts.service import Details, Member
from modelfleet.rollouts.store import Rollout
from modelfleet.rollouts.windows import Window

router = APIRouter(prefix="/v1", tags=["rollouts"])
Roles = Literal["viewer", "data-scientist", "deployer", "approver", "release-manager", "admin"]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AnalysisBody(Body):
    """See `Analysis`: what is judged, and how much worse the canary may be."""

    alpha: float = 0.05
    errors_max_increase: float | None = 0.01
    latency_max_ratio: float | None = 1.5
    latency_quantile: float = 0.95
    latency_floor_ms: float = 5.0
    predictions_max_distance: float | None = 0.2
    scores_max_change: float | None = None
    outcomes: str | None = None
    outcomes_max_increase: float = 0.01
    outcomes_delay_seconds: float = 3600.0
    outcomes_required: bool = True
    disagreements_max: float | None = 0.05
    differences_max: float | None = None
    min_samples: int = 50
    hard_errors: float = 0.2


class PreviewBody(Body):
    """One of header (with equals or prefix), caller and team."""

    header: str = ""
    equals: str = ""
    prefix: str = ""
    caller: str = ""
    team: str = ""


class ApproveBody(Body):
    role: Roles = "approver"
    quorum: int = 1
    expires_seconds: float = 7 * 86_400.0


class StepBody(Body):
    """One of shadow, weight, preview, approve and pause; each with its shortest time."""

    weight: int = Field(default=0, description="basis points")
    shadow: int = Field(default=0, description="basis points of requests that are copied")
    seconds: float = 0.0
    preview: PreviewBody | None = None
    approve: ApproveBody | None = None
    pause: bool = False


class ArmBody(Body):
    version: str
    weight: int = Field(description="basis points")
    rules: list[PreviewBody] = Field(
        default_factory=list, description="requests that reach this arm whatever the weights"
    )


class BanditBody(Body):
    reward: Literal["success", "outcome"] = "success"
    every_seconds: float = 60.0
    floor: int = Field(default=500, description="basis points that each arm keeps")
    probability: float = 0.95
    seed: int = 0


class LimitsBody(Body):
    """Absolute; null leaves one out."""

    errors: float | None = None
    latency_ms: float | None = None


class StickyBody(Body):
    by: Literal["header", "cookie", "caller"]
    name: str = ""


class WindowBody(Body):
    """A cron expression with a duration, or a time from `begins` to `ends` (ISO 8601)."""

    cron: str = ""
    seconds: float = 0.0
    begins: str = ""
    ends: str = ""
    zone: str = "UTC"
    reason: str = ""


class SpecBody(Body):
    strategy: Literal["immediate", "blue-green", "canary", "shadow", "ab"] = "canary"
    weights: list[int] = Field(default=[500, 2500, 5000], description="basis points, rising")
    step_seconds: float = 60.0
    bake_seconds: float = 60.0
    shadow_fraction: int = Field(default=10_000, description="basis points")
    analysis: AnalysisBody = Field(default_factory=AnalysisBody)
    on_fail: Literal["rollback", "freeze", "alert"] = "rollback"
    on_inconclusive: Literal["hold", "rollback", "ask"] = "hold"
    inconclusive_after_seconds: float = 3600.0
    steps: list[StepBody] = Field(
        default_factory=list, description="instead of weights, step_seconds and shadow_fraction"
    )
    arms: list[ArmBody] = Field(default_factory=list, description="of the strategy ab")
    on_end: Literal["promote", "keep"] = "promote"
    bandit: BanditBody | None = None
    limits: LimitsBody = Field(default_factory=LimitsBody)
    sticky: StickyBody | None = None
    not_before: str = Field(default="", description="ISO 8601 with a zone")
    windows: list[WindowBody] = Field(
        default_factory=list, description="in which it may start and advance; none is always"
    )
    freeze: list[WindowBody] = Field(default_factory=list, description="in which it may not")
    gates: list[dict[str, Any]] = Field(
        default_factory=list, description="what the version must pass first, as in fleet files"
    )

    def spec(self) -> Spec:
        try:
            return msgspec.convert(self.model_dump(), Spec)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, InvalidInput):
                raise error.__cause__ from error
            raise InvalidInput(f"spec: {error}") from error


class RolloutBody(Body):
    model: str
    version: str = "latest"
    endpoint: str | None = None
    spec: SpecBody = Field(default_factory=SpecBody)
    supersede: bool = Field(default=False, description="a rollout that runs there ends")


class MemberBody(Body):
    model: str
    version: str = "latest"
    endpoint: str = ""


class GroupBody(Body):
    members: list[MemberBody]
    spec: SpecBody = Field(default_factory=SpecBody)
    supersede: bool = False


class ReasonBody(Body):
    reason: str = ""


class FreezeBody(WindowBody):
    name: str
    team: str = Field(default="*", description="all teams")
    endpoint: str = Field(default="", description="all endpoints of the team")
    role: Roles = Field(default="approver", description="who may override it")


@router.post("/rollouts", status_code=201, **permits(Action.ROLLOUT))
def start_rollout(fleet: FleetDep, caller: Caller, body: RolloutBody) -> Rollout:
    return fleet.rollouts.start(
        caller,
        body.endpoint or body.model,
        body.model,
        body.version,
        body.spec.spec(),
        supersede=body.supersede,
    )


@router.post("/rollout-groups", status_code=201, **permits(Action.ROLLOUT))
def start_group(fleet: FleetDep, caller: Caller, body: GroupBody) -> Sequence[Rollout]:
    """Several models that move as one, in the order in which they use each other."""
    members = [Member(one.model, one.version, one.endpoint) for one in body.members]
    return fleet.rollouts.start_group(caller, members, body.spec.spec(), supersede=body.supersede)


@router.get("/rollouts", **permits(Action.READ))
def list_rollouts(
    fleet: FleetDep,
    caller: Caller,
    endpoint: str | None = None,
    group: str | None = None,
    active: Annotated[bool, Query(description="only those that run")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Sequence[Rollout]:
    return fleet.rollouts.list(
        caller, endpoint=endpoint, group=group, active_only=active, limit=limit
    )


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
def abort_rollout(
    fleet: FleetDep, caller: Caller, rollout_id: str, body: ReasonBody | None = None
) -> Rollout:
    return fleet.rollouts.abort(caller, rollout_id, body.reason if body else "")


@router.post("/rollouts/{rollout_id}/promote", **permits(Action.ROLLOUT))
def promote_rollout(fleet: FleetDep, caller: Caller, rollout_id: str, body: ReasonBody) -> Rollout:
    """All traffic to the new version without waiting for proof; needs a reason."""
    return fleet.rollouts.promote(caller, rollout_id, body.reason)


@router.post("/rollouts/{rollout_id}/retry", status_code=201, **permits(Action.ROLLOUT))
def retry_rollout(fleet: FleetDep, caller: Caller, rollout_id: str) -> Rollout:
    """The same again, as a new attempt with a judge of its own."""
    return fleet.rollouts.retry(caller, rollout_id)


@router.post("/rollouts/{rollout_id}/override", **permits(Action.FREEZE))
def override_freeze(fleet: FleetDep, caller: Caller, rollout_id: str, body: ReasonBody) -> Rollout:
    """Let this rollout advance in freeze windows; by the role that each of them names."""
    return fleet.rollouts.override(caller, rollout_id, body.reason)


@router.get("/freezes", **permits(Action.READ))
def list_freezes(fleet: FleetDep, caller: Caller) -> Sequence[Freeze]:
    return fleet.freezes.list(caller)


@router.post("/freezes", status_code=201, **permits(Action.FREEZE))
def create_freeze(fleet: FleetDep, caller: Caller, body: FreezeBody) -> Freeze:
    window = Window(body.cron, body.seconds, body.begins, body.ends, body.zone, body.reason)
    return fleet.freezes.create(
        caller, body.name, window, team=body.team, endpoint=body.endpoint, role=body.role
    )


@router.delete("/freezes/{name}", status_code=204, **permits(Action.FREEZE))
def delete_freeze(fleet: FleetDep, caller: Caller, name: str) -> None:
    fleet.freezes.delete(caller, name)
