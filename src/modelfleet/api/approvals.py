"""Approvals: what waits for a second person's yes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.identity.approvals import Approval

router = APIRouter(prefix="/v1", tags=["approvals"])
States = Literal["", "waiting", "approved", "rejected", "expired", "void", "withdrawn"]


class AnswerBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str = ""


@router.get("/approvals", **permits(Action.READ))
def list_approvals(
    fleet: FleetDep,
    caller: Caller,
    state: States = "",
    subject: Annotated[str, Query(description="how the subject begins")] = "",
    mine: Annotated[bool, Query(description="only what you may answer now")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Sequence[Approval]:
    return fleet.approvals.list(caller, state=state, subject=subject, mine=mine, limit=limit)


@router.get("/approvals/{approval_id}", **permits(Action.READ))
def get_approval(fleet: FleetDep, caller: Caller, approval_id: str) -> Approval:
    return fleet.approvals.get(caller, approval_id)


@router.post("/approvals/{approval_id}/approve", **permits(Action.READ))
def approve(fleet: FleetDep, caller: Caller, approval_id: str, body: AnswerBody) -> Approval:
    """By a principal with the role that is asked for; each counts once."""
    return fleet.approvals.answer(caller, approval_id, approve=True, reason=body.reason)


@router.post("/approvals/{approval_id}/reject", **permits(Action.READ))
def reject(fleet: FleetDep, caller: Caller, approval_id: str, body: AnswerBody) -> Approval:
    """One no ends it."""
    return fleet.approvals.answer(caller, approval_id, approve=False, reason=body.reason)
