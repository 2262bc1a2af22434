"""Exported runs: what is read from the files of Weights & Biases and of neptune-exporter."""

from __future__ import annotations

import json
import struct
import zlib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from modelfleet.client.errors import ClientError
from modelfleet.importing import Attention, RunRecord
from modelfleet.importing.neptune import Neptune
from modelfleet.importing.types import MetricPoint
from modelfleet.importing.wandb import Wandb

AT = datetime(2026, 1, 2, tzinfo=UTC)
MS = int(AT.timestamp() * 1000)


def wandb_folder(root: Path) -> Path:
    files = root / "offline-run-20260102_000000-abc123" / "files"
    files.mkdir(parents=True)
    (files / "config.yaml").write_text(
        "_wandb: {value: {cli_version: 0.2}}\nlr: {desc: null, value: 0.1}\n"
        "net: {value: {layers: [4, 2]}}\n"
    )
    (files / "wandb-summary.json").write_text(
        json.dumps({"loss": 0.2, "_step": 2, "_runtime": 5, "best": 0.1, "image": {"_type": "x"}})
    )
    (files / "wandb-metadata.json").write_text(
        json.dumps({"startedAt": "2026-01-02T00:00:00Z", "git": {"commit": "c0ffee"}})
    )
    rows = [{"_step": k, "_timestamp": MS / 1000 + k, "loss": 1 / (k + 1)} for k in range(3)]
    (files / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (files / "output.log").write_text("done")
    return root


def test_wandbs_own_folders(tmp_path: Path) -> None:
    source = Wandb(wandb_folder(tmp_path), "churn")
    (item,) = source.items()
    assert (item.key, item.what) == ("wandb:churn:abc123", "run")
    run = source.take(item, tmp_path / "work")
    assert run.parameters == {"lr": "0.1", "net.layers": "[4, 2]"}
    points = [(p.key, p.value, p.step, p.timestamp) for p in run.metrics]
    assert points[1] == ("loss", 0.5, 1, MS + 1000)
    assert [p[0] for p in points] == ["loss", "loss", "loss", "best"]
    assert (run.started, run.ended) == (MS, MS + 5000)
    assert set(run.artifacts) == {"output.log", "wandb-metadata.json"}
    assert run.tags["mlflow.source.git.commit"] == "c0ffee"
    (Path(next(iter(run.artifacts.values()))).parent / "wandb-summary.json").write_text("{")
    with pytest.raises(Attention):
        source.take(item, tmp_path / "work")


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def message(**fields: object) -> bytes:
    """`f3=b"..."`, `f1=7`: a protocol buffer."""
    found = b""
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            number = int(name[1:])
            if isinstance(value, int):
                found += varint(number << 3) + varint(value)
            elif isinstance(value, float):
                found += varint(number << 3 | 1) + struct.pack("<d", value)
            else:
                raw = value if isinstance(value, bytes) else str(value).encode()
                found += varint(number << 3 | 2) + varint(len(raw)) + raw
    return found


def framed(*records: bytes) -> bytes:
    """As LevelDB frames its logs: blocks of 32 KiB."""
    content = b":W&B\xe1\xbe\x00"
    for record in records:
        begun = False
        while True:
            room = 32768 - len(content) % 32768
            if room < 7:
                content += bytes(room)
                continue
            part, record = record[: room - 7], record[room - 7 :]
            kind = (3 if begun else 2) if record else (4 if begun else 1)
            checksum = zlib.crc32(part, zlib.crc32(bytes([kind])))
            content += struct.pack("<IHB", checksum, len(part), kind) + part
            begun = True
            if not record:
                break
    return content


def wandb_log(steps: int) -> bytes:
    config = message(f1=[message(f1="lr", f16="0.1"), message(f2=["net", "size"], f16="4")])
    run = message(f1="abc123", f3="churn", f8="sunny", f10=["old"], f17=message(f1=MS // 1000))
    rows = [
        message(
            f2=message(
                f1=[
                    message(f2=["loss"], f6=1 / (k + 1)),
                    message(f1="count", f5=k + 1),
                    message(f1="note", f7="x" * 100),
                    message(f1="_timestamp", f16=str(MS / 1000 + k)),
                ],
                f2=message(f1=k),
            )
        )
        for k in range(steps)
    ]
    summary = message(f3=message(f1=[message(f1="best", f16="0.5")]))
    return framed(message(f17=run), message(f5=config), *rows, summary, message(f18=message(f1=0)))


def test_wandbs_log(tmp_path: Path) -> None:
    folder = tmp_path / "offline-run-20260102_000000-abc123"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "output.log").write_text("done")
    log = folder / "run-abc123.wandb"
    log.write_bytes(wandb_log(1000))
    assert log.stat().st_size > 3 * 32768, "records must cross blocks"
    source = Wandb(tmp_path)
    (item,) = source.items()
    assert item.key == "wandb:churn:abc123"
    run = source.take(item, tmp_path / "work")
    assert (run.experiment, run.name, run.status, run.started) == ("churn", "sunny", "FINISHED", MS)
    assert run.parameters == {"lr": "0.1", "net.size": "4"}
    loss = [point for point in run.metrics if point.key == "loss"]
    assert [point.step for point in loss] == list(range(1000))
    assert loss[3] == MetricPoint("loss", 0.25, MS + 3000, 3)
    assert {point.key for point in run.metrics} == {"loss", "count", "best"}
    assert set(run.artifacts) == {"output.log"}
    content = log.read_bytes()
    log.write_bytes(content[: len(content) // 2])
    cut = source.take(item, tmp_path / "work")
    assert cut.status == "KILLED"
    assert 100 < len([point for point in cut.metrics if point.key == "loss"]) < 1000
    log.write_bytes(content[:500] + b"\0\0" + content[502:])
    with pytest.raises(ClientError, match="damaged"):
        list(Wandb(tmp_path).items())
    log.write_bytes(b"rubbish")
    with pytest.raises(ClientError, match="can't be read"):
        list(Wandb(tmp_path).items())


def test_wandbs_exported_list(tmp_path: Path) -> None:
    run = {
        "id": "r1",
        "name": "sunny-1",
        "project": "churn",
        "state": "crashed",
        "created_at": "2026-01-02T00:00:00",
        "config": '{"lr": 0.1}',
        "summary": {"loss": 0.3, "flag": True, "bad": float("nan")},
        "tags": ["old"],
    }
    (tmp_path / "runs.jsonl").write_text(json.dumps(run) + "\n")
    source = Wandb(tmp_path)
    (item,) = source.items()
    found = source.take(item, tmp_path)
    assert (found.experiment, found.name, found.status) == ("churn", "sunny-1", "FAILED")
    assert found.parameters == {"lr": "0.1"}
    assert [(p.key, p.value) for p in found.metrics] == [("loss", 0.3)]
    assert "no history" in found.notes[0]
    (tmp_path / "runs.jsonl").write_text("{")
    with pytest.raises(ClientError, match="can't be read"):
        list(Wandb(tmp_path).items())


SCHEMA = pa.schema(
    {
        "project_id": pa.string(),
        "run_id": pa.string(),
        "attribute_path": pa.string(),
        "attribute_type": pa.string(),
        "step": pa.decimal128(18, 6),
        "timestamp": pa.timestamp("ms", "UTC"),
        "int_value": pa.int64(),
        "float_value": pa.float64(),
        "string_value": pa.string(),
        "bool_value": pa.bool_(),
        "datetime_value": pa.timestamp("ms", "UTC"),
        "string_set_value": pa.list_(pa.string()),
        "file_value": pa.struct({"path": pa.string()}),
        "histogram_value": pa.struct({"type": pa.string()}),
    }
)


def neptune_data(root: Path, *rows: dict[str, Any]) -> Path:
    folder = root / "data" / "ws_churn_1a2b"
    folder.mkdir(parents=True)
    whole = [{"project_id": "ws/churn", "run_id": "RUN-1", **row} for row in rows]
    half = len(whole) // 2
    for number, part in enumerate((whole[:half], whole[half:])):
        table = pa.Table.from_pylist(part, schema=SCHEMA)
        parquet.write_table(table, folder / f"RUN-1_part_{number}.parquet")
    return root / "data"


def row(path: str, kind: str, **values: Any) -> dict[str, Any]:
    return {"attribute_path": path, "attribute_type": kind, **values}


def taken(source: Neptune, work: Path) -> RunRecord:
    (item,) = source.items()
    return source.take(item, work)


def test_neptune(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("x")
    data = neptune_data(
        tmp_path,
        row("sys/name", "string", string_value="trial"),
        row("sys/creation_time", "datetime", datetime_value=AT),
        row("sys/tags", "string_set", string_set_value=["old"]),
        row("lr", "float", float_value=0.1),
        *(
            row(
                "loss", "float_series", step=Decimal(k) / 2, timestamp=AT, float_value=1.0 / (k + 1)
            )
            for k in range(3)
        ),
        row("log", "string_series", step=Decimal(1), timestamp=AT, string_value="hello"),
        row("model", "file", file_value={"path": "a.txt"}),
        row("leak", "file", file_value={"path": "../../../etc/passwd"}),
    )
    run = taken(Neptune(data, tmp_path / "files", 2), tmp_path / "work")
    assert (run.experiment, run.name, run.started) == ("ws/churn/trial", "RUN-1", MS)
    assert run.parameters["lr"] == "0.1"
    assert [(p.key, p.step, p.timestamp) for p in run.metrics] == [
        ("loss", 0, MS),
        ("loss", 1, MS),
        ("loss", 2, MS),
    ]
    assert set(run.artifacts) == {"files/model", "series/log.jsonl"}
    assert any("is not there" in note for note in run.notes)
    assert run.tags["neptune.tag.old"] == "true"
    rounded = taken(Neptune(data), tmp_path / "work2")
    assert any("rounded" in note for note in rounded.notes)
    assert any("--files" in note for note in rounded.notes)


def test_parquet_of_somebody_else(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "x_part_0.parquet")
    with pytest.raises(ClientError, match="lacks the columns"):
        list(Neptune(tmp_path).items())
    (tmp_path / "x_part_0.parquet").write_bytes(b"rubbish")
    with pytest.raises(ClientError, match="can't be read"):
        list(Neptune(tmp_path).items())
