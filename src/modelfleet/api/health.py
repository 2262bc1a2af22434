"""Whether the platform is ready: a yes or no for everybody, the reasons for those who may read."""

from __future__ import annotations

import threading
import time
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action, Resource, authorize_somewhere
from modelfleet.host import health
from modelfleet.wiring import Fleet

router = APIRouter(prefix="/v1/health", tags=["health"])
_RECENT_SECONDS = 1.0
_OURSELVES = ("api",)
Word = Literal["ok", "trouble"]


class Health(BaseModel):
    status: Word


class PartHealth(BaseModel):
    name: str
    status: Word
    trouble: str


class HealthDetails(Health):
    parts: list[PartHealth]


class _Recent:
    """One look serves all who ask within a second: anybody may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[int, tuple[float, HealthDetails]] = {}

    def look(self, fleet: Fleet) -> HealthDetails:
        with self._lock:
            looked, found = self._found.get(id(fleet), (0.0, None))
            if found is None or time.monotonic() - looked > _RECENT_SECONDS:
                found = _look(fleet)
                self._found = {id(fleet): (time.monotonic(), found)}
            return found


_recent = _Recent()


def _look(fleet: Fleet) -> HealthDetails:
    found = health.look(fleet.layout, fleet.settings.host, but=_OURSELVES)
    parts = [PartHealth(name="api", status="ok", trouble="")]  # it answers
    parts += [
        PartHealth(name=p.name, status="trouble" if p.trouble else "ok", trouble=p.trouble)
        for p in found
    ]
    bad = any(one.trouble for one in parts)
    return HealthDetails(status="trouble" if bad else "ok", parts=parts)


@router.get("", **permits(None))
def ready(fleet: FleetDep, response: Response) -> Health:
    """200 if gateway, collector and reconciler are well, else 503."""
    found = _recent.look(fleet)
    response.status_code = 200 if found.status == "ok" else 503
    return Health(status=found.status)


@router.get("/details", **permits(Action.READ))
def details(fleet: FleetDep, caller: Caller) -> HealthDetails:
    """The same, part by part; 200 also if there is trouble."""
    authorize_somewhere(caller, Action.READ, Resource("platform", "health"))
    return _recent.look(fleet)
