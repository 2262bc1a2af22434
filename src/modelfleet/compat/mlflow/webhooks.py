"""Webhooks of registered models, in MLflow's shapes."""

from __future__ import annotations

from typing import Any

import msgspec

from modelfleet.compat.mlflow import pages
from modelfleet.compat.mlflow.errors import invalid
from modelfleet.compat.mlflow.routing import Call, missing_parameter, route
from modelfleet.events import Webhook, WebhookService


class Event(msgspec.Struct):
    entity: str
    action: str


def _service(call: Call) -> WebhookService:
    return call.fleet.webhooks.within(call.namespace, call.registry.namespace_id)


def _events(call: Call) -> list[str]:
    found = call.convert("events", list[Event]) or []
    return [f"{one.entity.lower()}.{one.action.lower()}" for one in found]


def _active(call: Call) -> bool | None:
    status = call.optional("status")
    if status is None:
        return None
    if status not in ("ACTIVE", "DISABLED"):
        raise invalid(f"Invalid webhook status: {status[:100]}. It is ACTIVE or DISABLED.")
    return status == "ACTIVE"


def _shape(one: Webhook) -> dict[str, Any]:
    found: dict[str, Any] = {
        "webhook_id": one.id,
        "name": one.name,
        "url": one.url,
        "events": [
            {"entity": entity.upper(), "action": action.upper()}
            for entity, _, action in (event.partition(".") for event in one.events)
        ],
        "status": "ACTIVE" if one.active else "DISABLED",
        "creation_timestamp": one.created_at // 1000,
        "last_updated_timestamp": one.updated_at // 1000,
    }
    return found | ({"description": one.description} if one.description else {})


@route("POST", "webhooks")
def create(call: Call) -> dict[str, Any]:
    name, url = call.text("name"), call.text("url")
    if "events" not in call.parameters:
        raise missing_parameter("events")
    active = _active(call)
    made = _service(call).create(
        call.caller,
        name,
        url,
        _events(call),
        format_="mlflow",
        description=call.optional("description") or "",
        secret=call.optional("secret") or "",
        active=active if active is not None else True,
    )
    return {"webhook": _shape(made)}


@route("GET", "webhooks")
def search(call: Call) -> dict[str, Any]:
    limit = pages.max_results(call, 100, 1000)
    query = ("webhooks",)
    offset = pages.offset_of(call.optional("page_token"), query)
    found = _service(call).list_webhooks(call.caller, limit=limit + 1, offset=offset)
    answer: dict[str, Any] = {}
    if found[:limit]:
        answer["webhooks"] = [_shape(one) for one in found[:limit]]
    if len(found) > limit:
        answer["next_page_token"] = pages.token_of(offset + limit, query)
    return answer


@route("GET", "webhooks/{webhook_id}")
def get(call: Call) -> dict[str, Any]:
    return {"webhook": _shape(_service(call).get(call.caller, call.path["webhook_id"]))}


@route("PATCH", "webhooks/{webhook_id}")
def update(call: Call) -> dict[str, Any]:
    changed = _service(call).update(
        call.caller,
        call.path["webhook_id"],
        name=call.optional("name") or None,
        url=call.optional("url") or None,
        events=_events(call) or None,
        description=call.optional("description"),
        secret=call.optional("secret"),
        active=_active(call),
    )
    return {"webhook": _shape(changed)}


@route("DELETE", "webhooks/{webhook_id}")
def delete(call: Call) -> dict[str, Any]:
    _service(call).delete(call.caller, call.path["webhook_id"])
    return {}


@route("POST", "webhooks/{webhook_id}/test")
def test(call: Call) -> dict[str, Any]:
    event = call.convert("event", Event)
    named = f"{event.entity.lower()}.{event.action.lower()}" if event else None
    result = _service(call).test(call.caller, call.path["webhook_id"], named)
    found: dict[str, Any] = {"success": result.success}
    if result.response_status is not None:
        found["response_status"] = result.response_status
        found["response_body"] = result.response_body
    if result.error_message is not None:
        found["error_message"] = result.error_message
    return {"result": found}
