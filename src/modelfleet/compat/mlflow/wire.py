"""Experiments, runs and logged models as MLflow's JSON; what is empty is left out as it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelfleet.compat.mlflow.errors import invalid
from modelfleet.compat.mlflow.routing import Call, missing_parameter, wrong_type
from modelfleet.core.authorization import Principal
from modelfleet.registry.tracking import paths
from modelfleet.registry.tracking.service import TrackingService
from modelfleet.registry.tracking.types import (
    Experiment,
    FileInfo,
    Input,
    LoggedModel,
    Point,
    Run,
    View,
)

Json = dict[str, Any]
_VIEWS: dict[object, View] = {
    None: "active",
    "ACTIVE_ONLY": "active",
    "DELETED_ONLY": "deleted",
    "ALL": "all",
    1: "active",
    2: "deleted",
    3: "all",
}
MODEL_STATUSES = {
    "LOGGED_MODEL_PENDING": "PENDING",
    "LOGGED_MODEL_READY": "READY",
    "LOGGED_MODEL_UPLOAD_FAILED": "UPLOAD_FAILED",
    1: "PENDING",
    2: "READY",
    3: "UPLOAD_FAILED",
}


class Pair(msgspec.Struct, frozen=True):
    key: str | None = None
    value: str | None = None


def given_pairs(call: Call, name: str, *, numbered: bool = True) -> list[tuple[str, str]]:
    """A list of `{"key", "value"}`; each needs its key."""
    found = call.parameters.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise wrong_type(name, found)
    pairs = call.convert(name, list[Pair]) or []
    for index, pair in enumerate(pairs):
        if not pair.key:
            raise missing_parameter(f"{name}[{index}].key" if numbered else "key")
    return [(pair.key or "", pair.value or "") for pair in pairs]


def given_number(name: str, value: object) -> float:
    """A double, also as protobuf writes those that JSON has no number for."""
    if value is None or value == "":
        raise missing_parameter(name)
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise wrong_type(name, value)


def given_view(call: Call, name: str) -> View:
    value = call.parameters.get(name)
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if isinstance(value, (list, dict)) or value not in _VIEWS:
        raise wrong_type(name, value)
    return _VIEWS[value]


def given_limit(call: Call, default: int) -> int:
    """`max_results`, of searches."""
    found = call.integer("max_results", default)
    if found < 1:
        raise invalid(
            f"Invalid value {found} for parameter 'max_results' supplied. "
            "It must be a positive integer"
        )
    if found > 50_000:
        raise invalid(
            f"Invalid value {found} for parameter 'max_results' supplied. It must be at most 50000"
        )
    return found


def pairs(found: Mapping[str, str]) -> list[Json]:
    return [{"key": key, "value": value} for key, value in found.items()]


def filled(**values: Any) -> Json:
    """Without what is empty."""
    return {key: value for key, value in values.items() if value not in (None, "", [], ())}


def experiment(found: Experiment) -> Json:
    return {
        "experiment_id": str(found.number),
        "name": found.name,
        "artifact_location": found.artifact_location,
        "lifecycle_stage": "deleted" if found.deleted else "active",
        "last_update_time": found.updated_at,
        "creation_time": found.created_at,
        **filled(tags=pairs(found.tags)),
    }


def point(found: Point) -> Json:
    return {
        "key": found.key,
        "value": "NaN" if math.isnan(found.value) else found.value,
        "timestamp": found.timestamp,
        "step": found.step,
        **filled(
            dataset_name=found.dataset_name,
            dataset_digest=found.dataset_digest,
            model_id=found.model_id,
        ),
    }


def point_of_run(found: Point) -> Json:
    return {**point(found), "run_id": found.run_id}


def run_info(found: Run) -> Json:
    info = {
        "run_uuid": found.id,
        "experiment_id": str(found.experiment_number),
        "run_name": found.name,
        "user_id": found.user,
        "status": found.status,
        "start_time": found.started_at,
        "end_time": found.ended_at,
        "artifact_uri": found.artifact_uri,
        "lifecycle_stage": "active" if found.deleted_at is None else "deleted",
        "run_id": found.id,
    }
    return {key: value for key, value in info.items() if value is not None}


def run(found: Run, *, searched: bool = False) -> Json:
    """With its inputs and outputs. Searches don't tell which models it read."""
    read = [{"model_id": one.model_id} for one in found.models if one.direction == "input"]
    if searched:
        read = []
    return {
        **new_run(found),
        "inputs": filled(
            dataset_inputs=[dataset_input(one) for one in found.inputs], model_inputs=read
        ),
        "outputs": filled(
            model_outputs=[
                {"model_id": one.model_id, "step": one.step}
                for one in found.models
                if one.direction == "output"
            ]
        ),
    }


def new_run(found: Run) -> Json:
    return {
        "info": run_info(found),
        "data": filled(
            metrics=[point(one) for one in found.points],
            params=pairs(found.parameters),
            tags=pairs(found.tags),
        ),
        "inputs": {},
    }


def dataset_input(found: Input) -> Json:
    read = found.dataset
    optional = {"schema": read.schema, "profile": read.profile}
    return {
        **filled(tags=pairs(found.tags)),
        "dataset": {
            "name": read.name,
            "digest": read.digest,
            "source_type": read.source_type,
            "source": read.source,
            **{key: value for key, value in optional.items() if value is not None},
        },
    }


def logged_model(found: LoggedModel) -> Json:
    return {
        "info": {
            "model_id": found.id,
            "experiment_id": str(found.experiment_number),
            "name": found.name,
            "creation_timestamp_ms": found.created_at,
            "last_updated_timestamp_ms": found.updated_at,
            "artifact_uri": found.artifact_uri,
            "status": f"LOGGED_MODEL_{found.status}",
            "model_type": found.model_type,
            "source_run_id": found.source_run_id,
            **filled(status_message=found.status_message, tags=pairs(found.tags)),
        },
        "data": filled(
            params=pairs(found.parameters), metrics=[point_of_run(one) for one in found.metrics]
        ),
    }


def page(name: str, items: Sequence[Json], token: str | None) -> Json:
    return filled(**{name: list(items), "next_page_token": token})


def file_info(found: FileInfo, path: str) -> Json:
    size = {} if found.is_dir else {"file_size": found.size}
    return {"path": path, "is_dir": found.is_dir, **size}


def folder(tracking: TrackingService, caller: Principal, uri: str, root: str, path: str) -> Json:
    """What is directly in a folder below the files at `uri`."""
    inside = paths.clean(path)
    found = tracking.list_artifacts(caller, f"{root}/{inside}" if inside else root)
    start = f"{inside}/" if inside else ""
    files = [file_info(one, f"{start}{one.path}") for one in found]
    return {"root_uri": uri, **filled(files=files)}
