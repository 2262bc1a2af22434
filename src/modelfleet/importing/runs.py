"""Training runs, written through MLflow's protocol: to our server where it speaks it.

Where it does not, each run is kept as a file that a later import takes up.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from modelfleet.client import Client
from modelfleet.client.errors import ApiError
from modelfleet.importing.mlflow_api import MlflowApi, artifact_root, code_of
from modelfleet.importing.types import ATTENTION, IMPORTED, Item, Outcome, RunRecord

KEY_TAG = "modelfleet.import.key"
_BATCH = 900
_STATES = {"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"}


class RunSink:
    """api: None if there is no server that takes runs."""

    def __init__(self, api: MlflowApi | None) -> None:
        self._api = api
        self._speaks: bool | None = None
        self._experiments: dict[str, str] = {}

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
        experiment = self._experiment(api, record.experiment)
        known = self._known(api, experiment, record.key)
        if known is not None and known["info"].get("status") == _state(record):
            return
        run = known or self._create(api, experiment, record)
        run_id = str(run["info"]["run_id"])
        self._log(api, run_id, record)
        root = artifact_root(str(run["info"].get("artifact_uri", "")))
        for path, file in record.artifacts.items():
            if root is not None:
                api.put_file(root, path, Path(file).read_bytes())
        ended = {"end_time": record.ended} if record.ended else {}
        api.post("runs/update", {"run_id": run_id, "status": _state(record), **ended})

    def _create(self, api: MlflowApi, experiment: str, record: RunRecord) -> dict[str, Any]:
        tags = [{"key": k, "value": v} for k, v in record.tags.items()]
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
        }
        found = api.post("runs/search", body).get("runs", [])
        return found[0] if found else None

    def _log(self, api: MlflowApi, run_id: str, record: RunRecord) -> None:
        parameters = [{"key": k, "value": v[:6000]} for k, v in record.parameters.items()]
        metrics = [msgspec.to_builtins(point) for point in record.metrics]
        for start in range(0, max(len(parameters), 1), 100):
            body = {"run_id": run_id, "params": parameters[start : start + 100]}
            api.post("runs/log-batch", body)
        for start in range(0, len(metrics), _BATCH):
            api.post(
                "runs/log-batch", {"run_id": run_id, "metrics": metrics[start : start + _BATCH]}
            )

    def _experiment(self, api: MlflowApi, name: str) -> str:
        if name not in self._experiments:
            try:
                found = api.get("experiments/get-by-name", experiment_name=name)["experiment"]
                self._experiments[name] = str(found["experiment_id"])
            except ApiError as error:
                if code_of(error) != "RESOURCE_DOES_NOT_EXIST":
                    raise
                made = api.post("experiments/create", {"name": name})
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
