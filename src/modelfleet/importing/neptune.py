"""Runs that `neptune-exporter` wrote: Parquet parts for each run, files beside them.

Columns as its README gives them: project_id, run_id, attribute_path, attribute_type, step,
timestamp, and a value column for each type. Decimal steps are multiplied to whole ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from modelfleet.client.errors import ClientError
from modelfleet.importing.runs import file_name
from modelfleet.importing.types import Item, MetricPoint, RunRecord

_VALUES = {
    "float": "float_value",
    "int": "int_value",
    "string": "string_value",
    "bool": "bool_value",
    "datetime": "datetime_value",
    "string_set": "string_set_value",
}
_COLUMNS = {"project_id", "run_id", "attribute_path", "attribute_type", "step", "timestamp"}


class Neptune:
    """data: the exporter's --data-path; files: its --files-path, None to leave them out.
    multiplier: what steps are multiplied by."""

    name = "neptune"
    fetches = False

    def __init__(self, data: Path, files: Path | None = None, multiplier: int = 1) -> None:
        self._data = data
        self._files = files
        self._multiplier = multiplier
        self._parts: dict[str, list[Path]] = {}

    def items(self) -> Iterator[Item]:
        import pyarrow.parquet as parquet

        for path in sorted(self._data.rglob("*_part_*.parquet")):
            try:
                table = parquet.ParquetFile(path)
                missing = _COLUMNS - set(table.schema_arrow.names)
                if missing:
                    raise ClientError(
                        f"{path.name} lacks the columns {', '.join(sorted(missing))}."
                    )
                head = next(table.iter_batches(1, columns=["project_id", "run_id"]), None)
            except (OSError, ValueError) as error:
                raise ClientError(f"{path.name} can't be read: {error}") from error
            if head is not None and len(head):
                row = head.to_pylist()[0]
                key = f"neptune:{row['project_id']}:{row['run_id']}"
                self._parts.setdefault(key, []).append(path)
        for key in self._parts:
            project, _, name = key.removeprefix("neptune:").rpartition(":")
            yield Item(key, project, what="run", title=f"run {name} of {project}")

    def model_facts(self, model: str) -> Mapping[str, object]:
        return {}

    def take(self, item: Item, work: Path) -> RunRecord:
        import pyarrow.parquet as parquet

        run = _Run(item, self._files, self._multiplier, work)
        for path in sorted(self._parts[item.key]):
            for batch in parquet.ParquetFile(path).iter_batches(20_000):
                for row in batch.to_pylist():
                    run.add(row)
        return run.record()


class _Run:
    def __init__(self, item: Item, files: Path | None, multiplier: int, work: Path) -> None:
        self._item = item
        self._files = files
        self._multiplier = multiplier
        self._work = work
        self._parameters: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._metrics: list[MetricPoint] = []
        self._series: dict[str, list[dict[str, Any]]] = {}
        self._artifacts: dict[str, str] = {}
        self._notes: set[str] = set()

    def add(self, row: Mapping[str, Any]) -> None:
        path, kind = str(row["attribute_path"]), str(row["attribute_type"])
        if kind in _VALUES:
            value = row.get(_VALUES[kind])
            self._parameters[path] = _text(value)
            if path == "sys/tags" and isinstance(value, list):
                self._tags |= {f"neptune.tag.{tag}": "true" for tag in value}
        elif kind == "float_series":
            self._metrics.append(
                MetricPoint(path, float(row["float_value"]), _ms(row["timestamp"]), self._step(row))
            )
        elif kind in ("string_series", "histogram_series"):
            value = row.get("string_value" if kind == "string_series" else "histogram_value")
            line = {"step": float(row["step"] or 0), "timestamp": _ms(row["timestamp"])}
            self._series.setdefault(path, []).append({**line, "value": value})
        elif kind in ("file", "file_series"):
            self._add_file(path, row)
        else:
            self._notes.add(f"attributes of the type {kind} are left out")

    def _step(self, row: Mapping[str, Any]) -> int:
        scaled = float(row["step"] or 0) * self._multiplier
        if scaled != int(scaled):
            self._notes.add("steps were rounded: use --step-multiplier")
        return round(scaled)

    def _add_file(self, path: str, row: Mapping[str, Any]) -> None:
        said = (row.get("file_value") or {}).get("path")
        if self._files is None or not said:
            self._notes.add("files are left out: name their folder with --files")
            return
        place = (self._files / str(said)).resolve()
        if not place.is_relative_to(self._files.resolve()) or not place.is_file():
            self._notes.add(f"the file {said} is not there")
            return
        step = f"_step_{float(row['step']):g}" if row["attribute_type"] == "file_series" else ""
        self._artifacts[f"files/{path}{step}"] = str(place)

    def record(self) -> RunRecord:
        for path, lines in self._series.items():
            self._work.mkdir(parents=True, exist_ok=True)
            file = self._work / f"{file_name(path)}.jsonl"
            file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
            self._artifacts[f"series/{path}.jsonl"] = str(file)
        project, _, name = self._item.key.removeprefix("neptune:").rpartition(":")
        experiment = self._parameters.get("sys/name")
        return RunRecord(
            self._item.key,
            f"{project}/{experiment}" if experiment else project,
            self._parameters.get("sys/custom_run_id") or name,
            "FAILED" if self._parameters.get("sys/failed") == "true" else "FINISHED",
            _moment(self._parameters.get("sys/creation_time")),
            _moment(self._parameters.get("sys/modification_time")) or None,
            self._parameters,
            {**self._tags, "neptune.run_id": name, "neptune.project": project},
            self._metrics,
            self._artifacts,
            sorted(self._notes),
        )


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (bool, list)):
        return json.dumps(value)
    return str(value)


def _ms(value: object) -> int:
    return int(value.timestamp() * 1000) if isinstance(value, datetime) else 0


def _moment(text: str | None) -> int:
    try:
        return _ms(datetime.fromisoformat(text)) if text else 0
    except ValueError:
        return 0
