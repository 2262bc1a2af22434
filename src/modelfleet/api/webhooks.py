"""Webhooks: where changes are told."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.events import Delivery, Webhook
from modelfleet.events.service import Test

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
_MAY = permits(Action.MANAGE_ACCESS)


class WebhookBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    url: str
    events: list[str]
    format: str = "cloudevents"
    description: str = ""
    secret: str = ""


class WebhookChanges(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str | None = None
    url: str | None = None
    events: list[str] | None = None
    description: str | None = None
    secret: str | None = None
    active: bool | None = None


@router.post("", status_code=201, **_MAY)
def create(fleet: FleetDep, caller: Caller, body: WebhookBody) -> Webhook:
    """events: audit actions or `*` (cloudevents), or `entity.action` (mlflow)."""
    return fleet.webhooks.create(
        caller,
        body.name,
        body.url,
        body.events,
        format_=body.format,
        description=body.description,
        secret=body.secret,
    )


@router.get("", **_MAY)
def list_webhooks(
    fleet: FleetDep,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> list[Webhook]:
    return fleet.webhooks.list_webhooks(caller, limit=limit, offset=offset)


@router.get("/{webhook}", **_MAY)
def get(fleet: FleetDep, caller: Caller, webhook: str) -> Webhook:
    return fleet.webhooks.get(caller, webhook)


@router.patch("/{webhook}", **_MAY)
def update(fleet: FleetDep, caller: Caller, webhook: str, body: WebhookChanges) -> Webhook:
    return fleet.webhooks.update(caller, webhook, **body.model_dump())


@router.delete("/{webhook}", status_code=204, **_MAY)
def delete(fleet: FleetDep, caller: Caller, webhook: str) -> None:
    fleet.webhooks.delete(caller, webhook)


@router.get("/{webhook}/deliveries", **_MAY)
def deliveries(
    fleet: FleetDep,
    caller: Caller,
    webhook: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> list[Delivery]:
    """Newest first."""
    return fleet.webhooks.deliveries(caller, webhook, limit)


@router.post("/{webhook}/test", **_MAY)
def send_test(fleet: FleetDep, caller: Caller, webhook: str, event: str | None = None) -> Test:
    """Send an example now."""
    return fleet.webhooks.test(caller, webhook, event)
