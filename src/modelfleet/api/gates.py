"""Gates of versions: asked for, looked at; and who would have to go on with a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.gates import GateRun, list_runs
from modelfleet.gates.platform import Users
from modelfleet.gates.requests import GateRequest
from modelfleet.registry.signature import Signature, Tensor

router = APIRouter(prefix="/v1", tags=["gates"])


class GatesBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    gates: list[object] = Field(default=[], max_length=50)
    """`{kind: {...}}` or just a kind, as in fleet files; empty: what needs no settings"""
    champion: str | None = None
    """a version, or `none`; not told: the one that serves"""
    again: bool = False
    """run what is known already, too"""


class TensorBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    datatype: str
    shape: list[int]
    features: list[str] | None = None

    def tensor(self) -> Tensor:
        return Tensor(self.name, self.datatype, self.shape, self.features)


class SignatureBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inputs: list[TensorBody]
    outputs: list[TensorBody]


@dataclass(frozen=True)
class ShownRequest:
    """A request with its verdict over all gates that block: running, pass, warn, inconclusive or
    fail."""

    request: GateRequest
    verdict: str
    ended: bool


def _shown(found: GateRequest) -> ShownRequest:
    return ShownRequest(found, found.verdict, found.ended)


@router.post(
    "/models/{name}/versions/{version}/gates", status_code=201, **permits(Action.RUN_BATCH)
)
def request_gates(
    fleet: FleetDep, caller: Caller, name: str, version: str, body: GatesBody
) -> ShownRequest:
    """Have a version checked; ask `/v1/gates/{id}` how it goes."""
    made = fleet.gates.request(caller, name, version, body.gates, body.champion, again=body.again)
    return _shown(fleet.gates.get(caller, made))


@router.get("/gates/{request_id}", **permits(Action.READ))
def get_gates(fleet: FleetDep, caller: Caller, request_id: str) -> ShownRequest:
    return _shown(fleet.gates.get(caller, request_id))


@router.get("/models/{name}/versions/{version}/gates", **permits(Action.READ))
def list_gates(
    fleet: FleetDep,
    caller: Caller,
    name: str,
    version: str,
    kept: Annotated[bool, Query(description="only those that were asked for")] = False,
) -> Sequence[GateRun]:
    """All verdicts on a version, oldest first."""
    found = fleet.registry.get_version(caller, name, version)
    return [run for run in list_runs(fleet.database, found.id) if run.kind or not kept]


@router.get("/models/{name}/versions/{version}/gate-requests", **permits(Action.READ))
def list_requests(
    fleet: FleetDep, caller: Caller, name: str, version: str
) -> Sequence[ShownRequest]:
    """What was asked of a version, newest first."""
    return [_shown(one) for one in fleet.gates.requests(caller, name, version)]


@router.post("/models/{name}/users", **permits(Action.READ))
def users(fleet: FleetDep, caller: Caller, name: str, body: SignatureBody) -> Users:
    """The champion, and who uses it: each with the reason why it couldn't go on with this
    signature, if that is known. For those who check before they register."""
    signature = Signature(
        [one.tensor() for one in body.inputs], [one.tensor() for one in body.outputs]
    )
    return fleet.gates.users(caller, name, signature)
