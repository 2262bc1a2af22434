"""Where and in what batches versions run."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.serving.tuning import Tuning

router = APIRouter(prefix="/v1", tags=["tuning"])
_PATH = "/models/{name}/versions/{version}/tuning"


class TuningBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    objective_ms: float = Field(default=50.0, description="p95 in the worker")
    concurrency: int = Field(default=16, description="clients at a time, over all workers")
    apply: bool = False


def _plain(found: Tuning) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain


@router.post(_PATH, **permits(Action.RUN_BATCH))
def tune(
    fleet: FleetDep, caller: Caller, name: str, version: str, body: TuningBody
) -> dict[str, Any]:
    """Measure, which takes seconds. To apply it asks for the permission `rollout`."""
    return _plain(fleet.tuning.tune(caller, name, version, **body.model_dump()))


@router.get(_PATH, **permits(Action.READ))
def get_tuning(fleet: FleetDep, caller: Caller, name: str, version: str) -> dict[str, Any]:
    return _plain(fleet.tuning.get(caller, name, version))


@router.delete(_PATH, status_code=204, **permits(Action.ROLLOUT))
def reset_tuning(fleet: FleetDep, caller: Caller, name: str, version: str) -> None:
    """Let workers choose again."""
    fleet.tuning.reset(caller, name, version)
