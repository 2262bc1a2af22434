"""Experiments."""

from __future__ import annotations

from modelfleet.compat.mlflow import pages, wire
from modelfleet.compat.mlflow.routing import Call, route
from modelfleet.compat.mlflow.wire import Json


@route("POST", "experiments/create")
def create(call: Call) -> Json:
    made = call.tracking.create_experiment(
        call.caller,
        call.text("name"),
        artifact_location=call.optional("artifact_location") or "",
        tags=dict(wire.given_pairs(call, "tags")),
    )
    return {"experiment_id": str(made.number)}


@route("GET", "experiments/get")
def get(call: Call) -> Json:
    found = call.tracking.get_experiment(call.caller, call.text("experiment_id"))
    return {"experiment": wire.experiment(found)}


@route("GET", "experiments/get-by-name")
def get_by_name(call: Call) -> Json:
    found = call.tracking.find_experiment(call.caller, call.text("experiment_name"))
    return {"experiment": wire.experiment(found)}


@route("GET+POST", "experiments/search")
def search(call: Call) -> Json:
    limit, offset = wire.given_limit(call, 0), pages.start(call)
    found = call.tracking.search_experiments(
        call.caller,
        filter_text=call.optional("filter"),
        order=call.texts("order_by"),
        view=wire.given_view(call, "view_type"),
        limit=limit,
        offset=offset,
    )
    token = pages.following(call, offset + limit) if found.more else None
    return wire.page("experiments", [wire.experiment(one) for one in found.items], token)


@route("POST", "experiments/update")
def update(call: Call) -> Json:
    call.tracking.rename_experiment(call.caller, call.text("experiment_id"), call.text("new_name"))
    return {}


@route("POST", "experiments/delete")
def delete(call: Call) -> Json:
    call.tracking.delete_experiment(call.caller, call.text("experiment_id"))
    return {}


@route("POST", "experiments/restore")
def restore(call: Call) -> Json:
    call.tracking.restore_experiment(call.caller, call.text("experiment_id"))
    return {}


@route("POST", "experiments/set-experiment-tag")
def set_tag(call: Call) -> Json:
    number, key = call.text("experiment_id"), call.text("key")
    call.tracking.set_experiment_tag(call.caller, number, key, call.optional("value") or "")
    return {}


@route("POST", "experiments/delete-experiment-tag")
def delete_tag(call: Call) -> Json:
    number, key = call.text("experiment_id"), call.text("key")
    call.tracking.delete_experiment_tag(call.caller, number, key)
    return {}
