"""Principals, grants, keys, login links and the audit log."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core import audit
from modelfleet.core.authorization import Action, Grant, Principal, Resource, Role, authorize
from modelfleet.identity import KeyInfo, PrincipalInfo

router = APIRouter(prefix="/v1", tags=["identity"])


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PrincipalBody(Body):
    name: str
    kind: str = "service"


class GrantBody(Body):
    role: Role
    team: str = "*"


class KeyBody(Body):
    principal: str
    name: str = ""
    models: list[str] = Field(
        default_factory=list,
        description="scopes: ENDPOINT or ENDPOINT:ACTION (infer, metadata, feedback); * is all",
    )
    seconds: int = 90 * 86_400
    priority: Literal["", "high", "normal", "low"] = Field(
        default="", description="of its requests; the endpoint's, if empty"
    )


class NewKey(BaseModel):
    key: str
    info: KeyInfo


class LoginLink(BaseModel):
    path: str
    seconds: int


class ChainState(BaseModel):
    intact: bool
    first_broken: int | None


@router.get("/whoami", **permits(Action.READ))
def whoami(caller: Caller) -> Principal:
    return caller


@router.get("/principals", **permits(Action.MANAGE_ACCESS))
def list_principals(fleet: FleetDep, caller: Caller) -> list[PrincipalInfo]:
    return fleet.identity.list_principals(caller)


@router.post("/principals", status_code=201, **permits(Action.MANAGE_ACCESS))
def create_principal(fleet: FleetDep, caller: Caller, body: PrincipalBody) -> PrincipalInfo:
    return fleet.identity.create_principal(caller, body.name, body.kind)


@router.post("/principals/{name}/grants", **permits(Action.MANAGE_ACCESS))
def add_grant(fleet: FleetDep, caller: Caller, name: str, body: GrantBody) -> PrincipalInfo:
    return fleet.identity.add_grant(caller, name, Grant(body.role, body.team))


@router.delete("/principals/{name}/grants", **permits(Action.MANAGE_ACCESS))
def remove_grant(fleet: FleetDep, caller: Caller, name: str, body: GrantBody) -> PrincipalInfo:
    return fleet.identity.remove_grant(caller, name, Grant(body.role, body.team))


@router.get("/keys", **permits(Action.MANAGE_ACCESS))
def list_keys(fleet: FleetDep, caller: Caller) -> list[KeyInfo]:
    return fleet.identity.list_keys(caller)


@router.post("/keys", status_code=201, **permits(Action.MANAGE_ACCESS))
def create_key(fleet: FleetDep, caller: Caller, body: KeyBody) -> NewKey:
    """The key is in this answer and nowhere else."""
    text, info = fleet.identity.create_key(
        caller,
        body.principal,
        name=body.name,
        models=tuple(body.models),
        seconds=body.seconds,
        priority=body.priority,
    )
    return NewKey(key=text, info=info)


@router.delete("/keys/{key_id}", status_code=204, **permits(Action.MANAGE_ACCESS))
def revoke_key(fleet: FleetDep, caller: Caller, key_id: str) -> None:
    fleet.identity.revoke_key(caller, key_id)


@router.post("/login-links", status_code=201, **permits(Action.READ))
def create_login_link(fleet: FleetDep, caller: Caller) -> LoginLink:
    """A path that logs the caller into the pages, once, within ten minutes."""
    secret = fleet.identity.create_login_link(caller)
    return LoginLink(path=f"/login/{secret}", seconds=600)


@router.get("/audit", **permits(Action.READ_AUDIT))
def list_audit(
    fleet: FleetDep,
    caller: Caller,
    kind: str | None = None,
    name: str | None = None,
    before: int | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[audit.AuditEvent]:
    """Newest first; `kind` and `name` together ask for one resource."""
    authorize(caller, Action.READ_AUDIT, Resource("audit", "*"))
    resource = Resource(kind, name) if kind and name else None
    return audit.events(fleet.database, resource=resource, before=before, limit=limit)


@router.get("/audit/verify", **permits(Action.READ_AUDIT))
def verify_audit(fleet: FleetDep, caller: Caller) -> ChainState:
    authorize(caller, Action.READ_AUDIT, Resource("audit", "*"))
    broken = audit.first_broken(fleet.database)
    return ChainState(intact=broken is None, first_broken=broken)
