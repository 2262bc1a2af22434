"""Runs: their life, what they log, finding them."""

from __future__ import annotations

from typing import Any

import msgspec

from modelfleet.compat.mlflow import pages, wire
from modelfleet.compat.mlflow.errors import invalid
from modelfleet.compat.mlflow.routing import Call, missing_parameter, route, wrong_type
from modelfleet.compat.mlflow.wire import Json
from modelfleet.registry.tracking.types import RUN_STATUSES, Dataset, Input, ModelLink, Point

_MODEL_FIELDS = {"artifact_path", "flavors", "utc_time_created", "run_id"}


class _Metric(msgspec.Struct, frozen=True):
    key: str | None = None
    value: float | str | None = None
    timestamp: int | None = None
    step: int | None = None
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class _Dataset(msgspec.Struct, frozen=True):
    name: str = ""
    digest: str = ""
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None


class _Input(msgspec.Struct, frozen=True):
    dataset: _Dataset = _Dataset()
    tags: list[wire.Pair] = []


class _Model(msgspec.Struct, frozen=True):
    model_id: str = ""
    step: int = 0


def _run_id(call: Call) -> str:
    return call.text("run_id", "run_uuid")


@route("POST", "runs/create")
def create(call: Call) -> Json:
    made = call.tracking.create_run(
        call.caller,
        call.optional("experiment_id") or "0",
        name=call.optional("run_name") or "",
        user=call.optional("user_id") or "",
        started_at=call.integer("start_time", 0),
        tags=dict(wire.given_pairs(call, "tags")),
    )
    return {"run": wire.new_run(made)}


@route("GET", "runs/get")
def get(call: Call) -> Json:
    return {"run": wire.run(call.tracking.get_run(call.caller, _run_id(call)))}


@route("POST", "runs/update")
def update(call: Call) -> Json:
    status: Any = call.parameters.get("status")
    if isinstance(status, int) and 1 <= status <= len(RUN_STATUSES):
        status = RUN_STATUSES[status - 1]
    if status is not None and not isinstance(status, str):
        raise wrong_type("status", status)
    ended = call.parameters.get("end_time")
    found = call.tracking.update_run(
        call.caller,
        _run_id(call),
        status=status,
        ended_at=None if ended is None else call.integer("end_time"),
        name=call.optional("run_name"),
    )
    return {"run_info": wire.run_info(found)}


@route("POST", "runs/delete")
def delete(call: Call) -> Json:
    call.tracking.delete_run(call.caller, _run_id(call))
    return {}


@route("POST", "runs/restore")
def restore(call: Call) -> Json:
    call.tracking.restore_run(call.caller, _run_id(call))
    return {}


@route("POST", "runs/search")
def search(call: Call) -> Json:
    if call.integer("max_results", 1000) > 50_000:
        raise wrong_type("max_results", call.parameters["max_results"])
    for name in ("experiment_ids", "order_by"):
        if not isinstance(call.parameters.get(name) or [], list):
            raise wrong_type(name, call.parameters[name])
    limit, offset = wire.given_limit(call, 1000), pages.start(call)
    found = call.tracking.search_runs(
        call.caller,
        call.texts("experiment_ids"),
        filter_text=call.optional("filter"),
        order=call.texts("order_by"),
        view=wire.given_view(call, "run_view_type"),
        limit=limit,
        offset=offset,
    )
    token = pages.following(call, offset + limit) if found.more else None
    return wire.page("runs", [wire.run(one, searched=True) for one in found.items], token)


@route("POST", "runs/set-tag")
def set_tag(call: Call) -> Json:
    run_id, key = _run_id(call), call.text("key")
    call.tracking.set_run_tag(call.caller, run_id, key, call.optional("value") or "")
    return {}


@route("POST", "runs/delete-tag")
def delete_tag(call: Call) -> Json:
    call.tracking.delete_run_tag(call.caller, _run_id(call), call.text("key"))
    return {}


@route("POST", "runs/log-metric")
def log_metric(call: Call) -> Json:
    run_id, key = _run_id(call), call.text("key")
    made = Point(
        key,
        wire.given_number("value", call.parameters.get("value")),
        call.integer("timestamp"),
        call.integer("step", 0),
        call.optional("model_id") or "",
        call.optional("dataset_name") or "",
        call.optional("dataset_digest") or "",
    )
    call.tracking.log_metric(call.caller, run_id, made)
    return {}


@route("POST", "runs/log-parameter")
def log_parameter(call: Call) -> Json:
    run_id, key = _run_id(call), call.text("key")
    call.tracking.log_parameter(call.caller, run_id, key, call.optional("value") or "")
    return {}


@route("POST", "runs/log-batch")
def log_batch(call: Call) -> Json:
    run_id = _run_id(call)
    call.tracking.log_batch(
        call.caller,
        run_id,
        points=_points(call),
        parameters=wire.given_pairs(call, "params"),
        tags=wire.given_pairs(call, "tags"),
    )
    return {}


def _points(call: Call) -> list[Point]:
    given = call.parameters.get("metrics")
    if given is not None and not isinstance(given, list):
        raise wrong_type("metrics", given)
    points = []
    for index, one in enumerate(call.convert("metrics", list[_Metric]) or []):
        place = f"metrics[{index}]"
        if not one.key:
            raise missing_parameter(f"{place}.key")
        value = wire.given_number(f"{place}.value", one.value)
        if one.timestamp is None:
            raise missing_parameter(f"{place}.timestamp")
        points.append(
            Point(
                one.key,
                value,
                one.timestamp,
                one.step or 0,
                one.model_id or "",
                one.dataset_name or "",
                one.dataset_digest or "",
            )
        )
    return points


@route("POST", "runs/log-inputs")
def log_inputs(call: Call) -> Json:
    run_id = _run_id(call)
    inputs = [
        Input(
            Dataset(**msgspec.structs.asdict(one.dataset)),
            {pair.key or "": pair.value or "" for pair in one.tags},
        )
        for one in call.convert("datasets", list[_Input]) or []
    ]
    models = [one.model_id for one in call.convert("models", list[_Model]) or []]
    call.tracking.log_inputs(call.caller, run_id, inputs=inputs, models=models)
    return {}


@route("POST", "runs/outputs")
def log_outputs(call: Call) -> Json:
    run_id = _run_id(call)
    models = call.convert("models", list[_Model])
    if models is None:
        raise missing_parameter("models")
    links = [ModelLink(one.model_id, "output", one.step) for one in models]
    call.tracking.log_outputs(call.caller, run_id, links)
    return {}


@route("POST", "runs/log-model")
def log_model(call: Call) -> Json:
    """What clients of before 3.0 told of a model that they had logged."""
    run_id, text = _run_id(call), call.text("model_json")
    try:
        model = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise invalid(f"Malformed model info. \n {text[:1000]} \n is not a valid JSON.") from error
    absent = _MODEL_FIELDS - set(model if isinstance(model, dict) else ())
    if absent:
        raise invalid(f"Model json is missing mandatory fields: {sorted(absent)}")
    call.tracking.record_model(call.caller, run_id, model)
    return {}
