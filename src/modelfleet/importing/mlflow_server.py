"""A running MLflow server: every model, version and run, by MLflow's REST protocol."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from modelfleet.client.errors import ApiError
from modelfleet.core.archives import refuse_links
from modelfleet.importing.mlflow_api import MlflowApi, artifact_root
from modelfleet.importing.names import model_name, semver
from modelfleet.importing.types import Attention, Found, Item, MetricPoint, RunRecord

_PROMPT = "mlflow.prompt.is_prompt"
_UNSERVED = "Its format is not served here"


class MlflowServer:
    """local: read artifacts that the server names by a path from this machine's disk."""

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

    def items(self) -> Iterator[Item]:
        for model in self._api.pages("registered-models/search", "registered_models"):
            if any(tag["key"] == _PROMPT for tag in model.get("tags", [])):
                continue
            name = str(model["name"])
            self._models[model_name(name)] = model
            for version in self._versions_of(name):
                key = f"mlflow:version:{name}:{version['version']}"
                self._versions[key] = version
                number = semver(str(version["version"]))
                yield Item(key, model_name(name), number, title=f"{name} {version['version']}")
        if self._runs:
            yield from self._run_items()

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
            self._experiments[str(experiment["experiment_id"])] = str(experiment["name"])
        for number, name in sorted(self._experiments.items()):
            body = {"experiment_ids": [number], "max_results": 1000, "order_by": ["start_time ASC"]}
            for run in self._api.posted_pages("runs/search", "runs", body):
                run_id = str(run["info"]["run_id"])
                self._found_runs[run_id] = run
                title = f"run {run['info'].get('run_name') or run_id} of {name}"
                yield Item(f"mlflow:run:{run_id}", name, what="run", title=title)

    def model_facts(self, model: str) -> Mapping[str, object]:
        found = self._models.get(model, {})
        tags = {str(tag["key"]): str(tag["value"]) for tag in found.get("tags", [])}
        for version in self._versions.values():
            stage = version.get("current_stage") or "None"
            if model_name(str(version["name"])) == model and stage != "None":
                tags[f"mlflow.stage.{stage}"] = str(version["version"])
        if found and str(found["name"]) != model:
            tags["mlflow.name"] = str(found["name"])
        return {"description": found.get("description", ""), "tags": tags}

    def take(self, item: Item, work: Path) -> Found | RunRecord:
        work.mkdir(parents=True)
        if item.what == "run":
            return self._run(item, work)
        version = self._versions[item.key]
        folder = work / "model"
        self._fetch(version, folder)
        if not (folder / "MLmodel").exists():
            self._keep_note(folder)
        found = self._described(item, version, folder)
        said = yaml.safe_load((folder / "MLmodel").read_text("utf-8")) or {}
        flavors = sorted(said.get("flavors") or {})
        found.origin = {**found.origin, "flavors": flavors}
        return found

    def _keep_note(self, folder: Path) -> None:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        raise Attention(
            f"{_UNSERVED}: it has no MLmodel, just {', '.join(names[:8]) or 'nothing'}."
        )

    def _described(self, item: Item, version: Mapping[str, Any], folder: Path) -> Found:
        run = self._run_of(version.get("run_id"))
        data = run.get("data", {})
        parameters = {str(one["key"]): str(one["value"]) for one in data.get("params", [])}
        tags = {str(one["key"]): str(one["value"]) for one in version.get("tags", [])}
        stage = version.get("current_stage") or "None"
        said = {
            "mlflow.version": str(version["version"]),
            "mlflow.run_id": str(version.get("run_id") or ""),
            "mlflow.description": str(version.get("description") or ""),
            "mlflow.stage": "" if stage == "None" else str(stage),
            **{f"mlflow.tag.{key}": value for key, value in tags.items()},
        }
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
            parameters={**parameters, **{k: v for k, v in said.items() if v}},
            metrics={str(one["key"]): float(one["value"]) for one in data.get("metrics", [])},
            origin={
                "name": model["name"],
                "version": version["version"],
                "run_id": version.get("run_id"),
                "source": version.get("source"),
                "created_ms": version.get("creation_timestamp"),
                "description": version.get("description", ""),
                "tags": tags,
                "stage": stage,
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
        number = str(run.get("info", {}).get("experiment_id", ""))
        if number and number not in self._experiments:
            found = self._api.get("experiments/get", experiment_id=number)["experiment"]
            self._experiments[number] = str(found["name"])
        return self._experiments.get(number, "imported")

    def _fetch(self, version: Mapping[str, Any], folder: Path) -> None:
        """The version's files, by whatever way the server opens to them."""
        said = self._api.get(
            "model-versions/get-download-uri", name=version["name"], version=version["version"]
        )
        uri = str(said.get("artifact_uri", ""))
        root = artifact_root(uri)
        if root is not None:
            for path, _ in self._api.list_files(root):
                self._api.fetch(root, path, folder / path)
            return
        if uri.startswith("runs:/"):
            run_id, _, below = uri.removeprefix("runs:/").strip("/").partition("/")
            self._fetch_of_run(run_id, below, folder)
            return
        run = self._run_of(version.get("run_id"))
        of_run = str(run.get("info", {}).get("artifact_uri", "")).rstrip("/")
        if of_run and uri.startswith(f"{of_run}/"):
            self._fetch_of_run(str(version["run_id"]), uri.removeprefix(f"{of_run}/"), folder)
            return
        parts = urlsplit(uri)
        if parts.scheme in ("", "file") and self._local:
            place = Path(unquote(parts.path))
            if not place.is_dir():
                raise Attention(f"Its artifacts should lie in {place}, which is not here.")
            refuse_links(place)
            shutil.copytree(place, folder)
            return
        how = (
            "if they are on this machine, pass --local-artifacts"
            if parts.scheme in ("", "file")
            else "copy them here and use `modelfleet import files`"
        )
        raise Attention(f"Its artifacts lie at {uri}, which the server does not hand out: {how}.")

    def _fetch_of_run(self, run_id: str, below: str, folder: Path) -> None:
        for path, _ in self._api.list_of_run(run_id):
            if not below or path.startswith(f"{below}/"):
                target = folder / path.removeprefix(f"{below}/")
                self._api.fetch_of_run(run_id, path, target)

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
            tags={str(one["key"]): str(one["value"]) for one in data.get("tags", [])}
            | {"mlflow.imported.run_id": run_id},
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
