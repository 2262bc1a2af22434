"""Batches on a real modelfleet: the same answers as online, each row once, whatever is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import Platform, eventually, processes_of
from zoo import EXAMPLE, Deliberate, Linear

from modelfleet.client.errors import ApiError

pytestmark = pytest.mark.e2e
ROWS = 4000
FEATURES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def serving(platform: Platform) -> Platform:
    platform.serve("linear", Linear(), {"x": EXAMPLE}, features=FEATURES)
    platform.serve("slow", Deliberate(), {"x": EXAMPLE}, features=FEATURES)
    return platform


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    x = np.random.default_rng(11).normal(size=(ROWS, 3))
    columns = {name: x[:, k] for k, name in enumerate(FEATURES)}
    found = pa.table({"id": np.arange(ROWS), **columns})
    pq.write_table(found, tmp_path / "in.parquet", row_group_size=700)
    return found


def start(platform: Platform, model: str, tmp_path: Path, *more: str) -> dict[str, Any]:
    """The summary of a run that went well."""
    done = platform.run("batch", "run", model, *paths(tmp_path), "--json", *more)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def paths(tmp_path: Path) -> list[str]:
    return ["--input", str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out")]


def online(platform: Platform, endpoint: str, table: pa.Table, rows: int) -> list[float]:
    x = np.stack([table.column(name).to_numpy()[:rows] for name in FEATURES], axis=1)
    tensor = {"name": "x", "datatype": "FP64", "shape": [rows, 3], "data": x.tolist()}
    answer = platform.ask(endpoint, {"inputs": [tensor]})
    assert answer.status == 200, answer.body
    found: list[float] = answer.body["outputs"][0]["data"]
    return found


def batch_rows(platform: Platform, model: str) -> int:
    port = platform.ports()["metrics"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    start = f'mf_batch_rows_total{{model="{model}"'
    return sum(int(line.split()[-1]) for line in lines if line.startswith(start))


def logged(platform: Platform, run: str) -> list[tuple[bytes, int]]:
    """Id and rows of the run's records in Parquet."""
    found: list[tuple[bytes, int]] = []
    with closing(sqlite3.connect(f"file:{platform.home}/evidence.db?mode=ro", uri=True)) as asked:
        paths = asked.execute("SELECT path FROM file WHERE kind = 'predictions'").fetchall()
    for (path,) in paths:
        part = pq.read_table(platform.home / "evidence" / path, partitioning=None).to_pylist()
        found += [
            (one["prediction_id"], one["rows"]) for one in part if one["endpoint"] == f"batch:{run}"
        ]
    return found


def manifest(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    return found


def test_parquet_is_as_online_logged_and_in_the_lineage(serving, table, tmp_path):
    before = batch_rows(serving, "linear")
    found = start(serving, "linear", tmp_path, "--key", "id", "--chunk-rows", "900")
    assert (found["rows"], found["rejected"], found["state"]) == (ROWS, 0, "succeeded")
    out = pq.read_table(tmp_path / "out")
    assert out.column("id").to_pylist() == list(range(ROWS))
    assert out.column("score").to_pylist()[:200] == online(serving, "linear", table, 200)
    assert set(out.column("model_version").to_pylist()) == {"1.0.0"}
    assert len(set(out.column("prediction_id").to_pylist())) == ROWS
    eventually(lambda: batch_rows(serving, "linear") == before + ROWS)
    # Outcomes find their row.
    one = out.column("prediction_id")[1234].as_py()
    serving.client.report_outcomes([{"prediction_id": one, "value": 1.0}])
    eventually(lambda: _joined(serving) >= 1)
    events = json.loads(serving.run("audit", "list", "--json").stdout)
    assert {"start-batch", "end-batch-succeeded"} <= {event["action"] for event in events}
    # The same command again does nothing twice.
    again = start(serving, "linear", tmp_path, "--key", "id", "--chunk-rows", "900")
    assert (again["rows"], again["id"] != found["id"]) == (ROWS, True)
    assert pq.read_table(tmp_path / "out").num_rows == ROWS


def _joined(platform: Platform) -> int:
    port = platform.ports()["metrics"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    return next(int(one.split()[-1]) for one in lines if one.startswith("mf_outcomes_joined_total"))


def test_csv_is_as_online(serving, table, tmp_path):
    import pyarrow.csv

    pyarrow.csv.write_csv(table.slice(0, 300), tmp_path / "in.csv")
    source = ["--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")]
    done = serving.run("batch", "run", "linear", *source, "--keep", "--json")
    assert done.returncode == 0, done.stderr
    (part,) = (tmp_path / "out.csv").glob("part-*.csv")
    with part.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == [str(k) for k in range(300)]
    assert [float(row["score"]) for row in rows] == online(serving, "linear", table, 300)
    assert float(rows[7]["b"]) == table.column("b")[7].as_py()


@pytest.mark.parametrize("victim", ["modelfleet.batch", "modelfleet_worker.batch", "control-plane"])
def test_killed_in_the_middle_every_row_is_there_once(serving, table, tmp_path, victim):
    more = ["--chunk-rows", "100", "--key", "id"]
    done = serving.run("batch", "run", "slow", *paths(tmp_path), *more, "--detach", "--json")
    batch = json.loads(done.stdout)["id"]
    kills = 0
    for at in (5, 15, 25):
        eventually(lambda at=at: _chunks(tmp_path) >= at)
        if victim == "control-plane":
            serving.until_back(victim, serving.kill(victim))
            kills += 1
            continue
        for pid, line in processes_of(serving.home).items():
            if f"-m {victim} " in line and "confined" not in line:
                os.kill(pid, signal.SIGKILL)
                kills += 1
    assert kills >= 3
    # The same command follows the job that runs.
    found = start(serving, "slow", tmp_path, *more)
    assert (found["id"], found["rows"]) == (batch, ROWS)
    out = pq.read_table(tmp_path / "out")
    assert sorted(out.column("id").to_pylist()) == list(range(ROWS))
    run = manifest(tmp_path)["run"]
    eventually(lambda: sum(rows for _, rows in logged(serving, run)) >= ROWS)
    ids = logged(serving, run)
    assert len({one for one, _ in ids}) == len(ids) == ROWS // 100
    assert {text.split("#")[0] for text in out.column("prediction_id").to_pylist()} == {
        _text(one) for one, _ in ids
    }


def _text(raw: bytes) -> str:
    from modelfleet_worker.wire.ids import format_id

    return format_id(raw)


def _chunks(tmp_path: Path) -> int:
    try:
        return int(manifest(tmp_path)["chunks"])
    except FileNotFoundError:
        return 0


def test_cancelled_and_run_again_it_goes_on(serving, table, tmp_path):
    more = ["--chunk-rows", "200"]
    done = serving.run("batch", "run", "slow", *paths(tmp_path), *more, "--detach", "--json")
    batch = json.loads(done.stdout)["id"]
    eventually(lambda: _chunks(tmp_path) >= 3)
    api = serving.client.api  # the command line takes a second to start, and the batch goes on
    with pytest.raises(ApiError) as held:
        api.delete("/v1/models/slow/versions/1")
    stopped = api.post(f"/v1/batches/{batch}/cancel")
    assert held.value.status == 409
    assert stopped["state"] == "cancelled"
    eventually(lambda: not any(batch in line for line in processes_of(serving.home).values()))
    assert serving.run("batch", "cancel", batch).returncode == 5
    other = serving.run("batch", "run", "slow", *paths(tmp_path), "--chunk-rows", "100")
    assert other.returncode == 5
    assert "chunk_rows is 200, not 100" in other.stderr
    found = start(serving, "slow", tmp_path, *more)
    assert found["resumed_rows"] >= 600
    assert pq.read_table(tmp_path / "out").column("row").to_pylist() == list(range(1, ROWS + 1))


def test_bad_rows_are_told_by_number_or_skipped(serving, tmp_path):
    lines = ["a,b,c", "1,2,3", "x,2,3", "1,2", "99,0,0", "4,5,"]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    source = ["--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out")]
    failed = serving.run("batch", "run", "slow", *source)
    assert failed.returncode == 2
    assert "Row 2: column 'a': 'x' is not FP64." in failed.stderr
    done = serving.run("batch", "run", "slow", *source, "--on-error", "skip", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["rejected"]) == (2, 3)
    assert pq.read_table(tmp_path / "out").column("row").to_pylist() == [1, 5]
    rejected = pq.read_table(tmp_path / "out" / "_rejected").to_pylist()
    assert [row["row"] for row in rejected] == [2, 3, 4]
    assert rejected[0]["a"] == "x"
    assert "2 fields" in rejected[1]["reason"]
    assert "above fifty" in rejected[2]["reason"]


def test_what_is_not_there_is_said(serving, table, tmp_path):
    unknown = serving.run("batch", "run", "nobody", *paths(tmp_path))
    assert (unknown.returncode, "no model nobody" in unknown.stderr) == (5, True)
    renamed = serving.run("batch", "run", "linear", *paths(tmp_path), "--columns", "a=z")
    assert (renamed.returncode, "no column 'z'" in renamed.stderr) == (2, True)
    nowhere = ["--input", str(tmp_path / "no.parquet"), "--output", str(tmp_path / "o2")]
    missing = serving.run("batch", "run", "linear", *nowhere)
    assert (missing.returncode, "There is no Parquet" in missing.stderr) == (5, True)
    ours = ["--input", str(serving.home / "fleet.db"), "--output", str(tmp_path / "o3")]
    assert serving.run("batch", "run", "linear", *ours).returncode == 4
    start(serving, "linear", tmp_path)
    pq.write_table(table.slice(1), tmp_path / "in.parquet")
    changed = serving.run("batch", "run", "linear", *paths(tmp_path))
    assert (changed.returncode, "have changed since" in changed.stderr) == (5, True)


def test_delta_in_and_out(serving, table, tmp_path):
    import deltalake

    deltalake.write_deltalake(str(tmp_path / "in"), table.slice(0, 1000))
    deltalake.write_deltalake(str(tmp_path / "in"), table.slice(1000), mode="append")
    source = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out.delta")]
    more = ["--chunk-rows", "100", "--key", "id", "--json"]
    done = serving.run("batch", "run", "slow", *source, *more, "--detach")
    assert done.returncode == 0, done.stderr
    log = tmp_path / "out.delta" / "_delta_log"
    eventually(lambda: len(list(log.glob("*.json"))) >= 5)
    for pid, line in processes_of(serving.home).items():
        if "-m modelfleet.batch " in line:
            os.kill(pid, signal.SIGKILL)
    done = serving.run("batch", "run", "slow", *source, *more)
    assert done.returncode == 0, done.stderr
    out = deltalake.DeltaTable(str(tmp_path / "out.delta")).to_pyarrow_table()
    assert sorted(out.column("id").to_pylist()) == list(range(ROWS))
    assert len(list(log.glob("*.json"))) == ROWS // 100


def test_tuned_versions_run_as_they_were_tuned(serving, tmp_path):
    said = serving.run("tune", "linear", "--concurrency", "2", "--output", str(tmp_path / "c.svg"))
    assert said.returncode == 0, said.stderr
    assert "US A ROW" in said.stdout
    assert (tmp_path / "c.svg").read_text().startswith("<svg")
    done = serving.run("tune", "linear", "--concurrency", "2", "--apply", "--json")
    found = json.loads(done.stdout)
    assert (found["now"], found["place"], found["gain"] > 1.1) == ("lane", "inline", True)

    def inline() -> list[bool | None]:
        pools = (serving.home / "run" / "desired").glob("*.json")
        versions = [one for pool in pools for one in json.loads(pool.read_text())["versions"]]
        return [one["inline"] for one in versions if one["model"] == "linear"]

    eventually(lambda: inline() == [True])
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [0.1, 0.2, 0.3]}
    assert serving.ask("linear", {"inputs": [tensor]}).status == 200
    assert serving.run("tune", "linear", "--reset").returncode == 0
    eventually(lambda: inline() == [None])
