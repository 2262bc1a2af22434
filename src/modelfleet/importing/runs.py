"""Training runs, written through MLflow's protocol: to our server where it speaks it.

Where it does not, each run is kept as a file that a later import takes up.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from modelfleet.client import Client
from modelfleet.client.errors import ApiError
from modelfleet.importing.mlflow_api import MlflowApi, artifact_root, code_of
from modelfleet.importing.types import (
    ATTENTION,
    IMPORTED,
    Item,
    LoggedModel,
    Outcome,
    RunRecord,
)

KEY_TAG = "modelfleet.import.key"
DONE_TAG = "modelfleet.import.complete"
_PARENT = "mlflow.parentRunId"
_BATCH = 900
_STATES = {"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"}


class RunSink:
    """api: None if there is no server that takes runs."""

    def __init__(self, api: MlflowApi | None) -> None:
        self._api = api
        self._speaks: bool | None = None
        self._experiments: dict[str, str] = {}
        self._ids: dict[str, str] = {}

    @classmethod
    def of(cls, client: Client) -> RunSink:
        return cls(MlflowApi(client.api.url, token=client.api.key))

    def write(self, item: Item, record: RunRecord, kept: Path) -> Outcome:
        """Write it whole. A run that was written half by a killed import is finished."""
        if self._api is None or not self._is_there(self._api):
            place = _keep(record, kept / "runs" / file_name(record.key))
            reason = "This modelfleet takes no runs without a version; it is kept as a file."
            return _outcome(item, record, ATTENTION, reason, str(place))
        self._write(self._api, record)
        return _outcome(item, record, IMPORTED)

    def _is_there(self, api: MlflowApi) -> bool:
        if self._speaks is None:
            try:
                api.post("experiments/search", {"max_results": 1})
                self._speaks = True
            except ApiError as error:
                if error.status not in (404, 405, 501):
                    raise
                self._speaks = False
        return self._speaks

    def _write(self, api: MlflowApi, record: RunRecord) -> None:
        experiment = self._experiment(api, record.experiment, record.experiment_tags)
        known = self._known(api, experiment, record.key)
        if known is not None and DONE_TAG in tags_of(known.get("data", {})):
            self._ids[record.key] = str(known["info"]["run_id"])
            return
        run = known or self._create(api, experiment, record)
        run_id = str(run["info"]["run_id"])
        self._log(api, run_id, record)
        if record.datasets:
            api.post("runs/log-inputs", {"run_id": run_id, "datasets": record.datasets})
        put_files(api, str(run["info"].get("artifact_uri", "")), record.artifacts)
        ended = {"end_time": record.ended} if record.ended else {}
        api.post("runs/update", {"run_id": run_id, "status": _state(record), **ended})
        api.post("runs/set-tag", {"run_id": run_id, "key": DONE_TAG, "value": "true"})
        self._ids[record.key] = run_id

    def run_id(self, key: str, experiment: str) -> str | None:
        """What the run with that key is called here; None if it was not imported."""
        if not key or self._api is None or not self._is_there(self._api):
            return None
        if key not in self._ids:
            place = self._experiment(self._api, experiment)
            known = self._known(self._api, place, key)
            if known is None:
                return None
            self._ids[key] = str(known["info"]["run_id"])
        return self._ids[key]

    def write_model(self, item: Item, record: LoggedModel) -> Outcome:
        """A logged model, after its runs. One that was written half is finished."""
        api = self._api
        if api is None or not self._is_there(api):
            return model_outcome(item, record, ATTENTION, "This modelfleet takes no logged models.")
        place = self._experiment(api, record.experiment)
        quoted = record.key.replace("'", "")
        asked = {"experiment_ids": [place], "filter": f"tags.`{KEY_TAG}` = '{quoted}'"}
        known = api.post("logged-models/search", asked).get("models", [])
        if known and DONE_TAG in tags_of(known[0]["info"]):
            return model_outcome(item, record, IMPORTED)
        found = known[0] if known else self._create_model(api, place, record)
        self._fill_model(api, found["info"], record)
        return model_outcome(item, record, IMPORTED)

    def _create_model(self, api: MlflowApi, place: str, record: LoggedModel) -> dict[str, Any]:
        tags = [{"key": k, "value": v} for k, v in carried(record.tags).items()]
        body: dict[str, object] = {
            "experiment_id": place,
            "name": record.name,
            "model_type": record.model_type,
            "params": [{"key": k, "value": v} for k, v in record.parameters.items()],
            "tags": [*tags, {"key": KEY_TAG, "value": record.key}],
        }
        run_id = self.run_id(record.run_key, record.experiment)
        if run_id is not None:
            body["source_run_id"] = run_id
        made: dict[str, Any] = api.post("logged-models", body)["model"]
        return made

    def _fill_model(self, api: MlflowApi, info: dict[str, Any], record: LoggedModel) -> None:
        model_id = str(info["model_id"])
        if info["status"] != "LOGGED_MODEL_READY":
            put_files(api, str(info.get("artifact_uri", "")), record.artifacts)
            if record.status != "PENDING":
                status = f"LOGGED_MODEL_{record.status}"
                api.patch(f"logged-models/{model_id}", {"model_id": model_id, "status": status})
        for run_key, metric in record.metrics:
            run_id = self.run_id(run_key, record.experiment)
            if run_id is not None:
                points = [{**metric, "model_id": model_id}]
                api.post("runs/log-batch", {"run_id": run_id, "metrics": points})
        for run_key, way, step in record.links:
            run_id = self.run_id(run_key, record.experiment)
            if run_id is not None and way == "output":
                link: dict[str, object] = {"model_id": model_id, "step": step}
                api.post("runs/outputs", {"run_id": run_id, "models": [link]})
            elif run_id is not None:
                taken = [{"model_id": model_id}]
                api.post("runs/log-inputs", {"run_id": run_id, "models": taken})
        done = {"tags": [{"key": DONE_TAG, "value": "true"}]}
        api.patch(f"logged-models/{model_id}/tags", done)

    def _create(self, api: MlflowApi, experiment: str, record: RunRecord) -> dict[str, Any]:
        said = carried(record.tags)
        if _PARENT in said:
            key = f"{record.key.rpartition(':')[0]}:{said[_PARENT]}"
            said[_PARENT] = self.run_id(key, record.experiment) or said[_PARENT]
        tags = [{"key": k, "value": v} for k, v in said.items()]
        body: dict[str, object] = {
            "experiment_id": experiment,
            "run_name": record.name,
            "start_time": record.started,
            "tags": [*tags, {"key": KEY_TAG, "value": record.key}],
        }
        found: dict[str, Any] = api.post("runs/create", body)["run"]
        return found

    def _known(self, api: MlflowApi, experiment: str, key: str) -> dict[str, Any] | None:
        quoted = key.replace("'", "")
        body = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{KEY_TAG}` = '{quoted}'",
            "max_results": 1,
            "run_view_type": "ALL",
        }
        found = api.post("runs/search", body).get("runs", [])
        return found[0] if found else None

    def _log(self, api: MlflowApi, run_id: str, record: RunRecord) -> None:
        parameters = [{"key": k, "value": v[:6000]} for k, v in record.parameters.items()]
        metrics = [
            {**msgspec.structs.asdict(point), "value": number(point.value)}
            for point in record.metrics
        ]
        for start in range(0, max(len(parameters), 1), 100):
            body = {"run_id": run_id, "params": parameters[start : start + 100]}
            api.post("runs/log-batch", body)
        for start in range(0, len(metrics), _BATCH):
            api.post(
                "runs/log-batch", {"run_id": run_id, "metrics": metrics[start : start + _BATCH]}
            )

    def _experiment(self, api: MlflowApi, name: str, tags: Mapping[str, str] = {}) -> str:
        if name not in self._experiments:
            try:
                found = api.get("experiments/get-by-name", experiment_name=name)["experiment"]
                self._experiments[name] = str(found["experiment_id"])
            except ApiError as error:
                if code_of(error) != "RESOURCE_DOES_NOT_EXIST":
                    raise
                said = [{"key": k, "value": v} for k, v in tags.items()]
                made = api.post("experiments/create", {"name": name, "tags": said})
                self._experiments[name] = str(made["experiment_id"])
        return self._experiments[name]


def _keep(record: RunRecord, folder: Path) -> Path:
    """The run as `run.json`, its files beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    artifacts = {}
    for path, file in record.artifacts.items():
        target = folder / "artifacts" / "/".join(file_name(part) for part in path.split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        artifacts[path] = str(target)
    folder.mkdir(parents=True, exist_ok=True)
    whole = msgspec.structs.replace(record, artifacts=artifacts)
    (folder / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(whole)))
    return folder


def put_files(api: MlflowApi, uri: str, artifacts: Mapping[str, str]) -> None:
    root = artifact_root(uri)
    for path, file in artifacts.items():
        if root is not None:
            api.put_file(root, path, Path(file))


def tags_of(info: Mapping[str, Any]) -> dict[str, str]:
    """Tags as the protocol tells them."""
    return {str(one["key"]): str(one.get("value", "")) for one in info.get("tags", [])}


def carried(tags: Mapping[str, str]) -> dict[str, str]:
    """Without the marks of an import into the source itself."""
    return {key: value for key, value in tags.items() if key not in (KEY_TAG, DONE_TAG)}


def number(value: float) -> float | str:
    """As the protocol writes it: JSON has no NaN."""
    if value != value:
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def model_outcome(item: Item, record: LoggedModel, state: str, reason: str = "") -> Outcome:
    return Outcome(item.key, "model", record.experiment, record.name, state, reason)


def _state(record: RunRecord) -> str:
    return record.status if record.status in _STATES else "FINISHED"


def file_name(key: str) -> str:
    """A file name for a key."""
    plain = "".join(one if one.isalnum() or one in "._-" else "-" for one in key)[-150:]
    return plain if plain.strip(".") else "-"


def _outcome(
    item: Item, record: RunRecord, state: str, reason: str = "", kept: str = ""
) -> Outcome:
    return Outcome(
        item.key,
        "run",
        record.experiment,
        record.name,
        state,
        reason,
        kept=kept,
        notes=record.notes,
    )
