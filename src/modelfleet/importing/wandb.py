"""Runs of Weights & Biases that somebody exported.

Three forms: the folders that wandb itself leaves, with their `.wandb` log (offline runs have
nothing else); folders with config.yaml and wandb-summary.json without it, and the history beside
them as `history.jsonl` or the Parquet of the run's history artifact; and a `runs.jsonl` (or a JSON
list) with `id`, `name`, `config`, `summary` of each run, as exports by the public API are commonly
written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from modelfleet.client.errors import ClientError
from modelfleet.importing import wandb_log
from modelfleet.importing.types import Attention, Item, MetricPoint, RunRecord

_HISTORIES = ("history.jsonl", "wandb-history.jsonl", "history.parquet")


class Wandb:
    name = "wandb"
    fetches = False

    def __init__(self, root: Path, project: str = "wandb") -> None:
        self._root = root
        self._project = project
        self._runs: dict[str, Mapping[str, Any] | Path] = {}

    def items(self) -> Iterator[Item]:
        for key, run in self._listed():
            self._runs[key] = run
            title = run.name if isinstance(run, Path) else str(run.get("name") or key)
            yield Item(key, self._project, what="run", title=f"run {title}")

    def _listed(self) -> Iterator[tuple[str, Mapping[str, Any] | Path]]:
        files = [self._root] if self._root.is_file() else sorted(self._root.rglob("runs.json*"))
        for file in files:
            for run in _read_runs(file):
                name = str(run.get("id") or run.get("run_id") or run.get("name"))
                yield f"wandb:{self._project}:{name}", run
        logged = set()
        for path in self._logs():
            try:
                log = wandb_log.read(path)
            except wandb_log.BadLog as error:
                raise ClientError(f"{path.name} can't be read: {error}") from error
            logged.add(path.parent)
            yield f"wandb:{log.project or self._project}:{log.id or path.stem}", path
        if self._root.is_dir():
            for summary in sorted(self._root.rglob("wandb-summary.json")):
                folder = summary.parent
                place = folder.parent if folder.name == "files" else folder
                if place in logged:
                    continue
                yield f"wandb:{self._project}:{place.name.rpartition('-')[2]}", folder

    def _logs(self) -> Iterator[Path]:
        """Each once: wandb links its latest run."""
        if self._root.suffix == ".wandb":
            yield self._root
        elif self._root.is_dir():
            found = sorted(self._root.rglob("run-*.wandb"))
            yield from (path for path in found if path.parent.name != "latest-run")

    def model_facts(self, model: str) -> Mapping[str, object]:
        return {}

    def take(self, item: Item, work: Path) -> RunRecord:
        run = self._runs[item.key]
        if isinstance(run, Path):
            return self._of_log(item, run) if run.is_file() else self._of_folder(item, run)
        return self._of_export(item, run)

    def _of_export(self, item: Item, run: Mapping[str, Any]) -> RunRecord:
        summary = _mapping(run.get("summary") or run.get("summary_metrics"))
        history = run.get("history")
        rows = history if isinstance(history, list) else []
        started = _moment(run.get("created_at") or run.get("createdAt"))
        tags = {f"wandb.tag.{tag}": "true" for tag in run.get("tags") or []}
        return RunRecord(
            item.key,
            str(run.get("project") or self._project),
            str(run.get("name") or run.get("id")),
            _state(str(run.get("state") or "finished")),
            started,
            _moment(run.get("heartbeat_at") or run.get("heartbeatAt")) or None,
            _flat(_mapping(run.get("config"))),
            {**tags, "wandb.id": str(run.get("id") or "")},
            _points(rows, summary, started),
            notes=[] if rows else ["only the last value of each metric: the export has no history"],
        )

    def _of_log(self, item: Item, path: Path) -> RunRecord:
        log = wandb_log.read(path)
        config = {k: v for k, v in log.config.items() if k != "_wandb"}
        ended = int(float(log.summary.get("_timestamp") or 0) * 1000)
        state = {None: "KILLED", 0: "FINISHED"}.get(log.exit_code, "FAILED")
        return RunRecord(
            item.key,
            log.project or self._project,
            log.name or log.id,
            state,
            log.started,
            ended or None,
            _flat(config),
            {**{f"wandb.tag.{tag}": "true" for tag in log.tags}, "wandb.id": log.id},
            _points(log.history, log.summary, log.started),
            _files_of(path.parent / "files"),
        )

    def _of_folder(self, item: Item, folder: Path) -> RunRecord:
        try:
            summary = _mapping(json.loads((folder / "wandb-summary.json").read_text("utf-8")))
            config = _config(folder / "config.yaml")
            meta = _mapping(_json_if_there(folder / "wandb-metadata.json"))
        except (ValueError, yaml.YAMLError) as error:
            raise Attention(f"{folder.name} can't be read: {error}") from error
        rows = _history(folder)
        started = _moment(meta.get("startedAt"))
        tags = {
            f"wandb.{key}": str(meta[key])
            for key in ("host", "program", "python", "gpu")
            if key in meta
        }
        git = _mapping(meta.get("git"))
        if git.get("commit"):
            tags["mlflow.source.git.commit"] = str(git["commit"])
        return RunRecord(
            item.key,
            self._project,
            item.key.rpartition(":")[2],
            started=started,
            ended=started + int(float(summary.get("_runtime") or 0) * 1000) if started else None,
            parameters=_flat(config),
            tags=tags,
            metrics=_points(rows, summary, started),
            artifacts=_files_of(folder),
            notes=[] if rows else ["only the last value of each metric: there is no history file"],
        )


def _files_of(folder: Path) -> dict[str, str]:
    """What the run left, without what became parameters and metrics."""
    known = {"config.yaml", "wandb-summary.json", *_HISTORIES}
    return {
        str(path.relative_to(folder)): str(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name not in known
    }


def _read_runs(file: Path) -> list[Mapping[str, Any]]:
    try:
        text = file.read_text("utf-8")
        listed = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if file.suffix == ".jsonl"
            else json.loads(text)
        )
    except (OSError, ValueError) as error:
        raise ClientError(f"{file.name} can't be read: {error}") from error
    if isinstance(listed, dict):
        listed = listed.get("runs", [])
    return [one for one in listed if isinstance(one, dict)]


def _history(folder: Path) -> list[Mapping[str, Any]]:
    for name in _HISTORIES:
        for place in (folder, folder.parent):
            path = place / name
            if path.exists():
                if path.suffix == ".parquet":
                    import pyarrow.parquet as parquet

                    rows: list[Mapping[str, Any]] = parquet.read_table(path).to_pylist()
                    return rows
                return _read_runs(path)
    return []


def _points(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], started: int
) -> list[MetricPoint]:
    """Numbers of the history; what the summary alone has, once."""
    found = []
    for count, row in enumerate(rows):
        step = int(row.get("_step") or count)
        moment = int(float(row.get("_timestamp") or started / 1000) * 1000)
        found += [MetricPoint(k, v, moment, step) for k, v in _numbers(row)]
    seen = {point.key for point in found}
    last = int(summary.get("_step") or 0)
    moment = int(float(summary.get("_timestamp") or started / 1000) * 1000)
    found += [MetricPoint(k, v, moment, last) for k, v in _numbers(summary) if k not in seen]
    return found


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in row.items():
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        if plain and not key.startswith("_") and math.isfinite(value):
            yield key, float(value)


def _config(path: Path) -> Mapping[str, Any]:
    """`key: {value: ...}`, without what wandb notes for itself."""
    if not path.exists():
        return {}
    said = _mapping(yaml.safe_load(path.read_text("utf-8")))
    plain = {}
    for key, value in said.items():
        if key in ("_wandb", "wandb_version"):
            continue
        plain[key] = value["value"] if isinstance(value, dict) and "value" in value else value
    return plain


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= _flat(value, f"{name}.")
        elif not name.startswith("_wandb"):
            found[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return found


def _json_if_there(path: Path) -> object:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _mapping(value: object) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _moment(text: object) -> int:
    """Milliseconds since 1970; 0 if it is no time."""
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return 0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)


def _state(text: str) -> str:
    return {"finished": "FINISHED", "running": "RUNNING", "killed": "KILLED"}.get(text, "FAILED")
