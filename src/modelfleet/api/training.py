"""Training runs: making a better version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.delivery.training.store import Training
from modelfleet.views.delivery import delivery_view
from modelfleet.wiring import Fleet

router = APIRouter(prefix="/v1", tags=["training"])


class HookBody(BaseModel):
    """What a caller may say of its cause; anything else in the body is left alone."""

    model_config = ConfigDict(extra="ignore")

    detail: Any = None


def _plain(fleet: Fleet, found: Training) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(found)
    progress = fleet.training.progress(found.id)
    return plain | {"progress": msgspec.to_builtins(progress) if progress else None}


@router.post("/models/{name}/trainings", status_code=201, **permits(Action.REGISTER))
def start_training(fleet: FleetDep, caller: Caller, name: str) -> dict[str, Any]:
    """Train the model as its document says."""
    return _plain(fleet, fleet.training.start(caller, name))


@router.get("/models/{name}/delivery", **permits(Action.READ))
def delivery(fleet: FleetDep, caller: Caller, name: str) -> dict[str, Any]:
    """Where the model stands between development and production, and what it waits for."""
    view = delivery_view(fleet, caller, name)
    return {
        "model": name,
        "candidate": view.candidate.version if view.candidate else None,
        "serving": view.serving.version if view.serving else None,
        "stages": msgspec.to_builtins(view.stages),
        "waits": list(view.waits),
    }


@router.get("/trainings", **permits(Action.READ))
def list_trainings(
    fleet: FleetDep,
    caller: Caller,
    model: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Sequence[dict[str, Any]]:
    """Newest first."""
    return [_plain(fleet, one) for one in fleet.training.list(caller, model, limit)]


@router.get("/trainings/{training_id}", **permits(Action.READ))
def get_training(fleet: FleetDep, caller: Caller, training_id: str) -> dict[str, Any]:
    return _plain(fleet, fleet.training.get(caller, training_id))


@router.get("/trainings/{training_id}/log", **permits(Action.READ_PAYLOADS))
def training_log(fleet: FleetDep, caller: Caller, training_id: str) -> dict[str, str]:
    """The end of what its program said."""
    return {"log": fleet.training.log(caller, training_id)}


@router.post("/trainings/{training_id}/cancel", **permits(Action.REGISTER))
def cancel_training(fleet: FleetDep, caller: Caller, training_id: str) -> dict[str, Any]:
    return _plain(fleet, fleet.training.cancel(caller, training_id))


@router.get("/models/{name}/training-hook", **permits(Action.REGISTER))
def training_hook(fleet: FleetDep, caller: Caller, name: str) -> dict[str, str]:
    """The path that starts a run when it is posted to, for those that can send no key."""
    return {"path": f"/v1/hooks/training/{name}/{fleet.training.hook(caller, name)}"}


@router.post("/hooks/training/{name}/{token}", status_code=201, **permits(None))
def call_hook(
    fleet: FleetDep, name: str, token: str, body: HookBody | None = None
) -> dict[str, str]:
    """The token in the path is the proof."""
    said = body.detail if body is not None and isinstance(body.detail, str) else ""
    return {"id": fleet.training.hooked(name, token, said[:500]).id}
