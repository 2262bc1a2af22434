"""Outcomes in; predictions, alerts and the fleet out."""

from __future__ import annotations

import hmac
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action, Resource, authorize, authorize_somewhere
from modelfleet.core.errors import InvalidInput, NotAllowed, TooLarge
from modelfleet.core.files import write_atomically
from modelfleet.core.ids import new_id
from modelfleet.monitoring import AlertInfo, DriftResult
from modelfleet.telemetry.inbox import OutcomeLine
from modelfleet.telemetry.views import PredictionView
from modelfleet.views.fleet import FleetView, fleet_view
from modelfleet.wiring import Fleet

router = APIRouter(tags=["evidence"])
MAX_BATCH_BYTES = 16 * 1024 * 1024


class Accepted(BaseModel):
    accepted: int


@router.post("/v1/outcomes:batch", **permits(Action.REPORT_OUTCOMES))
async def report_outcomes(fleet: FleetDep, caller: Caller, request: Request) -> Accepted:
    """JSON lines of `{prediction_id, value, event_time?, source?, idempotency_key?}`.

    All lines are checked before any is taken. They are joined within seconds.
    """
    authorize_somewhere(caller, Action.REPORT_OUTCOMES, Resource("outcome", "*"))
    return Accepted(accepted=_take(fleet, await _body(request)))


@router.post("/v2/models/{name}/feedback", **permits(None))
async def feedback(
    fleet: FleetDep,
    name: str,
    request: Request,
    x_mf_gateway: Annotated[str, Header()] = "",
) -> Accepted:
    """One outcome or a list of them, from whoever may call the endpoint.

    The gateway has checked the caller's key and proves with a header that it did.
    """
    if not hmac.compare_digest(x_mf_gateway, fleet.gateway.secret()):
        raise NotAllowed("Feedback comes in through the gateway.")
    content = await _body(request)
    try:
        given = msgspec.json.decode(content, type=OutcomeLine | list[OutcomeLine])
    except msgspec.DecodeError as error:
        raise InvalidInput(f"feedback: {error}") from error
    lines = given if isinstance(given, list) else [given]
    return Accepted(accepted=_take(fleet, b"\n".join(msgspec.json.encode(one) for one in lines)))


async def _body(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BATCH_BYTES:
            raise TooLarge("A batch of outcomes has at most 16 MiB.")
    return bytes(content)


def _take(fleet: Fleet, content: bytes) -> int:
    """Check every line, then leave them to the collector."""
    decoder = msgspec.json.Decoder(OutcomeLine)
    count = 0
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            decoder.decode(line)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"line {number}: {error}") from error
        count += 1
    if count:
        write_atomically(fleet.layout.outcome_inbox / f"{new_id()}.ndjson", content)
    return count


@router.get("/v1/fleet", **permits(Action.READ))
def get_fleet(fleet: FleetDep, caller: Caller) -> FleetView:
    """One row per endpoint: versions, traffic, speed, rollouts, alerts."""
    return fleet_view(fleet, caller)


@router.get("/v1/models/{name}/versions/{version}/predictions", **permits(Action.READ_PAYLOADS))
def recent_predictions(
    fleet: FleetDep,
    caller: Caller,
    name: str,
    version: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Sequence[PredictionView]:
    """The newest predictions with inputs and outputs of their first row."""
    found = fleet.registry.get_version(caller, name, version)
    authorize(caller, Action.READ_PAYLOADS, Resource("model", found.model, found.owner_team))
    return fleet.evidence.recent_predictions(found.index, limit)


@router.get("/v1/alerts", **permits(Action.READ))
def list_alerts(
    fleet: FleetDep,
    caller: Caller,
    state: Literal["pending", "firing", "acknowledged", "resolved"] | None = None,
    endpoint: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Sequence[AlertInfo]:
    """The last changed first."""
    found = fleet.monitoring.list_alerts(caller, endpoint=endpoint, limit=limit)
    return [one for one in found if state in (None, one.state)]


@router.get("/v1/alerts/{alert_id}", **permits(Action.READ))
def get_alert(fleet: FleetDep, caller: Caller, alert_id: str) -> AlertInfo:
    return fleet.monitoring.get_alert(caller, alert_id)


@router.post("/v1/alerts/{alert_id}/acknowledge", **permits(Action.ACKNOWLEDGE))
def acknowledge_alert(fleet: FleetDep, caller: Caller, alert_id: str) -> AlertInfo:
    return fleet.monitoring.acknowledge(caller, alert_id)


@router.post("/v1/alerts/{alert_id}/resolve", **permits(Action.ACKNOWLEDGE))
def resolve_alert(fleet: FleetDep, caller: Caller, alert_id: str) -> AlertInfo:
    return fleet.monitoring.resolve(caller, alert_id)


@router.get("/v1/models/{name}/versions/{version}/drift", **permits(Action.READ))
def drift(
    fleet: FleetDep,
    caller: Caller,
    name: str,
    version: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Sequence[DriftResult]:
    """Every test of every feature, the newest window first."""
    found = fleet.registry.get_version(caller, name, version)
    return fleet.monitoring.drift(found.index, limit=limit)


class Health(BaseModel):
    live: bool
    reconciler_seconds: float


@router.get("/healthz", **permits(None))
def health(fleet: FleetDep) -> Health:
    """Whether the control plane lives; how long ago it last looked at everything."""
    return Health(live=True, reconciler_seconds=time.monotonic() - fleet.reconciler.last_round)
