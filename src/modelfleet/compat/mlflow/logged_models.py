"""Logged models."""

from __future__ import annotations

import msgspec

from modelfleet.compat.mlflow import pages, wire
from modelfleet.compat.mlflow.routing import Call, missing_parameter, route, wrong_type
from modelfleet.compat.mlflow.wire import Json
from modelfleet.registry.tracking.model_search import OnDataset, Order


class _Dataset(msgspec.Struct, frozen=True):
    dataset_name: str | None = None
    dataset_digest: str | None = None


class _Order(msgspec.Struct, frozen=True):
    field_name: str
    ascending: bool = True
    dataset_name: str | None = None
    dataset_digest: str | None = None


@route("POST", "logged-models")
def create(call: Call) -> Json:
    made = call.tracking.create_logged_model(
        call.caller,
        call.text("experiment_id"),
        name=call.optional("name") or None,
        model_type=call.optional("model_type") or "",
        source_run_id=call.optional("source_run_id") or "",
        parameters=dict(wire.given_pairs(call, "params")),
        tags=dict(wire.given_pairs(call, "tags")),
    )
    return {"model": wire.logged_model(made)}


@route("GET", "logged-models/{model_id}")
def get(call: Call) -> Json:
    found = call.tracking.get_logged_model(
        call.caller, call.path["model_id"], deleted=call.flag("allow_deleted")
    )
    return {"model": wire.logged_model(found)}


@route("PATCH", "logged-models/{model_id}")
def finalize(call: Call) -> Json:
    status = call.parameters.get("status")
    if status is None:
        raise missing_parameter("status")
    if not isinstance(status, (str, int)) or status not in wire.MODEL_STATUSES:
        raise wrong_type("status", status)
    found = call.tracking.finalize_logged_model(
        call.caller, call.path["model_id"], wire.MODEL_STATUSES[status]
    )
    return {"model": wire.logged_model(found)}


@route("DELETE", "logged-models/{model_id}")
def delete(call: Call) -> Json:
    call.tracking.delete_logged_model(call.caller, call.path["model_id"])
    return {}


@route("POST", "logged-models/{model_id}/params")
def log_parameters(call: Call) -> Json:
    given = dict(wire.given_pairs(call, "params"))
    call.tracking.log_model_parameters(call.caller, call.path["model_id"], given)
    return {}


@route("PATCH", "logged-models/{model_id}/tags")
def set_tags(call: Call) -> Json:
    given = dict(wire.given_pairs(call, "tags"))
    call.tracking.set_model_tags(call.caller, call.path["model_id"], given)
    return {}


@route("DELETE", "logged-models/{model_id}/tags/{key:path}")
def delete_tag(call: Call) -> Json:
    call.tracking.delete_model_tag(call.caller, call.path["model_id"], call.path["key"])
    return {}


@route("POST", "logged-models/search")
def search(call: Call) -> Json:
    if "experiment_ids" not in call.parameters:
        raise missing_parameter("experiment_ids")
    limit, offset = wire.given_limit(call, 100), pages.start(call)
    found = call.tracking.search_logged_models(
        call.caller,
        call.texts("experiment_ids"),
        filter_text=call.optional("filter"),
        datasets=[
            OnDataset(one.dataset_name or "", one.dataset_digest or "")
            for one in call.convert("datasets", list[_Dataset]) or []
        ],
        order=[_order(one) for one in call.convert("order_by", list[_Order]) or []],
        limit=limit,
        offset=offset,
    )
    token = pages.following(call, offset + limit) if found.more else None
    return wire.page("models", [wire.logged_model(one) for one in found.items], token)


def _order(one: _Order) -> Order:
    on = OnDataset(one.dataset_name or "", one.dataset_digest or "")
    return Order(one.field_name, one.ascending, on if on.name or on.digest else None)


@route("GET", "logged-models/{model_id}/artifacts/directories")
def list_artifacts(call: Call) -> Json:
    uri, root = call.tracking.model_folder(call.caller, call.path["model_id"])
    folder = call.optional("artifact_directory_path") or ""
    return wire.folder(call.tracking, call.caller, uri, root, folder)
