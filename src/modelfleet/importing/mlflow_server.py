"""A running MLflow server: every model, version and run, by MLflow's REST protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

from modelfleet.client.errors import ApiError
from modelfleet.importing.mlflow_api import MlflowApi, artifact_root
from modelfleet.importing.mlflow_files import fetch
from modelfleet.importing.names import model_name
from modelfleet.importing.runs import carried, number, tags_of
from modelfleet.importing.types import (
    Attention,
    Found,
    Item,
    LoggedModel,
    MetricPoint,
    RunRecord,
)

_PROMPT = "mlflow.prompt.is_prompt"
_SEMVER = "modelfleet.semver"
_STAGES = {"Production": "prod", "Staging": "staging", "Archived": "archived"}
_MADE = "modelfleet.import.created_at"
_MADE_BY = "modelfleet.import.created_by"


class MlflowServer:
    """local: read artifacts that the server names by a path from this machine's disk. runs: all of
    them, and logged models; else only those that versions come from."""

    name = "mlflow"
    fetches = True

    def __init__(self, api: MlflowApi, *, runs: bool = True, local: bool = False) -> None:
        self._api = api
        self._runs = runs
        self._local = local
        self._models: dict[str, dict[str, Any]] = {}
        self._versions: dict[str, dict[str, Any]] = {}
        self._found_runs: dict[str, dict[str, Any]] = {}
        self._experiments: dict[str, str] = {}
        self._experiment_tags: dict[str, dict[str, str]] = {}
        self._logged: dict[str, dict[str, Any]] = {}

    def items(self) -> Iterator[Item]:
        """Runs, then what they logged, then the versions that come from them."""
        versions = list(self._version_items())
        if self._runs:
            yield from self._run_items()
        for key in versions:
            run_id = str(self._versions[key.key].get("run_id") or "")
            if run_id and run_id not in self._found_runs and self._run_of(run_id):
                yield self._run_item(self._found_runs[run_id])
        if self._runs:
            yield from self._logged_items()
        yield from versions

    def _version_items(self) -> Iterator[Item]:
        host = urlsplit(self._api.url).netloc
        for model in self._api.pages("registered-models/search", "registered_models"):
            if any(tag["key"] == _PROMPT for tag in model.get("tags", [])):
                continue
            name = str(model["name"])
            self._models[model_name(name)] = model
            for version in self._versions_of(name):
                sequence = int(version["version"])
                key = f"mlflow:version:{host}:{name}:{sequence}"
                self._versions[key] = version
                asked = tags_of(version).get(_SEMVER)
                title = f"{name} {sequence}"
                yield Item(key, model_name(name), asked, title=title, sequence=sequence)

    def _versions_of(self, name: str) -> list[dict[str, Any]]:
        quote = '"' if "'" in name else "'"
        found = self._api.pages(
            "model-versions/search", "model_versions", filter=f"name={quote}{name}{quote}"
        )
        return sorted(found, key=lambda one: int(one["version"]))

    def _run_items(self) -> Iterator[Item]:
        listed = self._api.posted_pages(
            "experiments/search", "experiments", {"max_results": 1000, "view_type": "ACTIVE_ONLY"}
        )
        for experiment in listed:
            self._note_experiment(experiment)
        for one in sorted(self._experiments):
            body = {"experiment_ids": [one], "max_results": 1000, "order_by": ["start_time ASC"]}
            for run in self._api.posted_pages("runs/search", "runs", body):
                self._found_runs[str(run["info"]["run_id"])] = run
                yield self._run_item(run)

    def _note_experiment(self, experiment: Mapping[str, Any]) -> None:
        one = str(experiment["experiment_id"])
        self._experiments[one] = str(experiment["name"])
        self._experiment_tags[one] = tags_of(experiment)

    def _run_item(self, run: Mapping[str, Any]) -> Item:
        run_id, name = str(run["info"]["run_id"]), self._experiment_of(run)
        title = f"run {run['info'].get('run_name') or run_id} of {name}"
        return Item(_run_key(run_id), name, what="run", title=title)

    def _logged_items(self) -> Iterator[Item]:
        """Servers of before 3.0 have none."""
        for one, name in sorted(self._experiments.items()):
            try:
                found = list(
                    self._api.posted_pages(
                        "logged-models/search", "models", {"experiment_ids": [one]}
                    )
                )
            except ApiError as error:
                if error.status not in (404, 405, 501):
                    raise
                return
            for model in found:
                info = model["info"]
                key = f"mlflow:model:{info['model_id']}"
                self._logged[key] = model
                title = f"logged model {info.get('name') or info['model_id']} of {name}"
                yield Item(key, name, what="model", title=title)

    def model_facts(self, model: str) -> Mapping[str, object]:
        found = self._models.get(model, {})
        tags = tags_of(found)
        if found and str(found["name"]) != model:
            tags["mlflow.name"] = str(found["name"])
        return {"description": found.get("description", ""), "tags": tags}

    def take(self, item: Item, work: Path) -> Found | RunRecord | LoggedModel:
        work.mkdir(parents=True)
        if item.what == "run":
            return self._run(item, work)
        if item.what == "model":
            return self._logged_model(item, work)
        version = self._versions[item.key]
        folder = work / "model"
        folder.mkdir()
        found = self._described(item, version, folder)
        try:
            run = self._run_of(version.get("run_id"))
            uri = fetch(self._api, version, run, folder, local=self._local)
        except Attention as error:
            found.unserved, found.elsewhere = str(error), str(version.get("source") or "")
            return found
        if (folder / "MLmodel").exists():
            said = yaml.safe_load((folder / "MLmodel").read_text("utf-8"))
            flavors = said.get("flavors") if isinstance(said, dict) else None
            found.origin = {**found.origin, "flavors": sorted(flavors or {})}
            return found
        names = sorted(path.name for path in folder.iterdir())
        found.unserved = (
            f"Its format is not served here: no MLmodel, just {', '.join(names[:8]) or 'nothing'}."
        )
        found.elsewhere = "" if names else uri
        return found

    def _described(self, item: Item, version: Mapping[str, Any], folder: Path) -> Found:
        run = self._run_of(version.get("run_id"))
        data = run.get("data", {})
        parameters = {str(one["key"]): str(one["value"]) for one in data.get("params", [])}
        tags = carried(tags_of(version))
        tags.pop(_SEMVER, None)
        stage = str(version.get("current_stage") or "None")
        made_by = version.get("user_id") or tags_of(data).get("mlflow.user", "")
        said = {_MADE: _moment(version.get("creation_timestamp")), _MADE_BY: str(made_by)}
        has_example = (folder / "serving_input_example.json").exists()
        model = self._models[item.model]
        return Found(
            path=folder,
            kind="mlflow",
            example_from="MLflow's input example" if has_example else "",
            aliases=[
                str(one["alias"])
                for one in model.get("aliases", [])
                if str(one["version"]) == str(version["version"])
            ],
            experiment=self._experiment_of(run),
            description=str(version.get("description") or ""),
            tags={**tags, **{key: value for key, value in said.items() if value}},
            stage=_STAGES.get(stage, "" if stage == "None" else stage),
            run_key=_run_key(str(version["run_id"])) if run else "",
            source_uri=f"{self._api.url}/#/models/{quote(model['name'])}/versions/{item.sequence}",
            parameters=parameters,
            metrics={str(one["key"]): float(one["value"]) for one in data.get("metrics", [])},
            origin={
                "name": model["name"],
                "version": version["version"],
                "run_id": version.get("run_id"),
                "source": version.get("source"),
                "created_ms": version.get("creation_timestamp"),
            },
        )

    def _run_of(self, run_id: object) -> dict[str, Any]:
        if not run_id:
            return {}
        if str(run_id) not in self._found_runs:
            try:
                found = self._api.get("runs/get", run_id=str(run_id))["run"]
            except ApiError as error:
                if error.status != 404:
                    raise
                return {}  # deleted for good
            self._found_runs[str(run_id)] = found
        return self._found_runs[str(run_id)]

    def _experiment_of(self, run: Mapping[str, Any]) -> str:
        one = str(run.get("info", {}).get("experiment_id", ""))
        if one and one not in self._experiments:
            found = self._api.get("experiments/get", experiment_id=one)["experiment"]
            self._note_experiment(found)
        return self._experiments.get(one, "imported")

    def _logged_model(self, item: Item, work: Path) -> LoggedModel:
        info, data = self._logged[item.key]["info"], self._logged[item.key].get("data", {})
        model_id, uri = str(info["model_id"]), str(info.get("artifact_uri", ""))
        root = artifact_root(uri)
        if root is None:
            raise Attention(f"Its artifacts lie at {uri}, which the server does not hand out.")
        artifacts = {}
        for path, _ in self._api.list_files(root):
            target = work / "artifacts" / path
            self._api.fetch(root, path, target)
            artifacts[path] = str(target)
        source = str(info.get("source_run_id") or "")
        measured = [one for one in data.get("metrics", []) if one.get("run_id")]
        made = _moment(info.get("creation_timestamp_ms"))
        return LoggedModel(
            key=item.key,
            experiment=item.model,
            name=str(info.get("name") or model_id),
            model_type=str(info.get("model_type") or ""),
            status=str(info.get("status", "READY")).removeprefix("LOGGED_MODEL_"),
            run_key=_run_key(source) if source else "",
            parameters={str(p["key"]): str(p["value"]) for p in data.get("params", [])},
            tags=tags_of(info) | {"mlflow.imported.model_id": model_id, _MADE: made},
            metrics=[(_run_key(one["run_id"]), self._metric_of_model(one)) for one in measured],
            links=list(self._links(model_id)),
            artifacts=artifacts,
        )

    def _metric_of_model(self, one: Mapping[str, Any]) -> dict[str, Any]:
        """With the value that the run has: of models, MLflow forgets that it is no number."""
        wanted = ("key", "timestamp", "step", "dataset_name", "dataset_digest")
        found = {key: one[key] for key in wanted if one.get(key) not in (None, "")}
        step, moment = int(one.get("step") or 0), int(one["timestamp"])
        same = [
            point.value
            for point in self._history(str(one["run_id"]), one)
            if (point.step, point.timestamp) == (step, moment)
        ]
        value = float(one["value"])
        return {**found, "value": number(same[0] if same and value not in same else value)}

    def _links(self, model_id: str) -> Iterator[tuple[str, str, int]]:
        """Runs that took or made it."""
        for run_id, run in self._found_runs.items():
            for way in ("input", "output"):
                for one in run.get(f"{way}s", {}).get(f"model_{way}s", []):
                    if one.get("model_id") == model_id:
                        yield _run_key(run_id), way, int(one.get("step") or 0)

    def _run(self, item: Item, work: Path) -> RunRecord:
        run_id = item.key.rpartition(":")[2]
        run = self._run_of(run_id)
        info, data = run["info"], run.get("data", {})
        artifacts = {}
        for path, _ in self._api.list_of_run(run_id):
            target = work / "artifacts" / path
            self._api.fetch_of_run(run_id, path, target)
            artifacts[path] = str(target)
        return RunRecord(
            key=item.key,
            experiment=self._experiments[str(info["experiment_id"])],
            name=str(info.get("run_name") or run_id),
            status=str(info.get("status", "FINISHED")),
            started=int(info.get("start_time") or 0),
            ended=int(info["end_time"]) if info.get("end_time") else None,
            parameters={str(one["key"]): str(one["value"]) for one in data.get("params", [])},
            tags=tags_of(data) | {"mlflow.imported.run_id": run_id},
            datasets=list(run.get("inputs", {}).get("dataset_inputs", [])),
            experiment_tags=self._experiment_tags.get(str(info["experiment_id"]), {}),
            metrics=[
                point for one in data.get("metrics", []) for point in self._history(run_id, one)
            ],
            artifacts=artifacts,
        )

    def _history(self, run_id: str, metric: Mapping[str, Any]) -> Iterator[MetricPoint]:
        key = str(metric["key"])
        pages = self._api.pages(
            "metrics/get-history", "metrics", run_id=run_id, metric_key=key, max_results=10_000
        )
        for one in pages:
            step, moment = int(one.get("step") or 0), int(one["timestamp"])
            yield MetricPoint(key, float(one["value"]), moment, step)


def _run_key(run_id: str) -> str:
    return f"mlflow:run:{run_id}"


def _moment(milliseconds: object) -> str:
    """ISO 8601; empty if it is not known."""
    if not milliseconds:
        return ""
    return datetime.fromtimestamp(int(str(milliseconds)) / 1000, UTC).isoformat()
