"""Imports into a real modelfleet: from a real MLflow server, and from files of real tools."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from running import Platform, eventually, say

from modelfleet.importing import RunRecord
from modelfleet.importing.mlflow_api import MlflowApi
from modelfleet.importing.runs import RunSink
from modelfleet.importing.types import Item, MetricPoint
from modelfleet.importing.wandb import Wandb

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("e2e-importing"),
]
PACKAGES = ("mlflow==3.17.2", "scikit-learn==1.9.1", "xgboost-cpu", "skops")
DATA = Path(__file__).parents[1] / "data" / "importing"


def in_mlflow(*command: str) -> list[str]:
    """The command in an environment with MLflow."""
    uv = str(Path(sys.executable).parent / "uv")
    wanted = [part for one in PACKAGES for part in ("--with", one)]
    return [
        *(uv, "run", "--quiet", "--no-project", "--isolated", "--python", "3.11"),
        *wanted,
        *command,
    ]


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a filled server, and the folder of what its models answered."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    store = ("--backend-store-uri", "sqlite:///m.db", "--artifacts-destination", "./art")
    place = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            in_mlflow("mlflow", "server", *store, *place),
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        eventually(lambda: is_up(url), 300, 0.5)
        filler = Path(__file__).with_name("mlflow_filler.py")
        done = subprocess.run(
            in_mlflow("python", str(filler), url, str(folder)),
            capture_output=True,
            text=True,
            timeout=300,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        yield url, folder
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def report(platform: Platform, *arguments: str, code: int) -> dict[str, Any]:
    done = platform.run("import", *arguments, "--json", timeout=500)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "SANDBOX" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def states(found: dict[str, Any], what: str = "version") -> dict[str, str]:
    items = [one for one in found["items"] if one["what"] == what]
    if what == "version":
        return {f"{one['model']} {one['sequence']}": one["state"] for one in items}
    return {one["key"]: one["state"] for one in items}


def test_everything_of_an_mlflow_server(platform: Platform, mlflow: tuple[str, Path]) -> None:
    url, truth = mlflow
    listed = report(platform, "mlflow", url, "--dry-run", code=1)
    assert states(listed)["churn 2"] == "imported"
    assert states(listed)["far 1"] == "attention"
    assert platform.client.models() == []

    journal = platform.home / "journal"
    command = [*platform.command, "import", "mlflow", url, "--home", str(platform.home)]
    begun = time.monotonic()
    for lines in (3, 14):  # within the runs, and within the versions
        killed = subprocess.Popen(
            [*command, "--journal", str(journal)],
            env=platform.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        file = journal / "journal.jsonl"
        eventually(partial(has_lines, file, lines), 200)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    whole = report(platform, "mlflow", url, "--journal", str(journal), code=1)
    say(f"import of an MLflow server: {time.monotonic() - begun:.1f} s with two kills in between")
    assert states(whole) == {
        "churn 2": "imported",
        "churn 3": "imported",
        "far 1": "attention",
        "notes 1": "attention",
        "odd 1": "attention",
        "price 1": "imported",
        "sums 1": "attention",
    }
    assert set(states(whole, "run").values()) == {"imported"}
    assert set(states(whole, "model").values()) == {"imported"}
    by_name = {one["model"]: one for one in whole["items"] if one["what"] == "version"}
    assert "code of its own" in by_name["sums"]["reason"]
    assert "no MLmodel" in by_name["notes"]["reason"]
    assert "does not hand out" in by_name["far"]["reason"]
    assert not any(one["kept"] for one in whole["items"])
    check_versions(platform)
    check_runs(platform, url)
    again = report(platform, "mlflow", url, "--journal", str(platform.home / "other"), code=1)
    assert states(again) == states(whole)
    check_versions(platform)
    check_runs(platform, url)

    sums = report(platform, "mlflow", url, "--unlisted-pickles", "--no-runs", code=1)
    assert states(sums)["sums 1"] == "imported"
    for name, version in (("churn", "2"), ("churn", "3"), ("price", "1")):
        agrees(platform, truth / f"{name}-{version}.npz", name, version)


def has_lines(file: Path, number: int) -> bool:
    return file.exists() and file.read_bytes().count(b"\n") >= number


def check_versions(platform: Platform) -> None:
    """Once each, with their numbers and with what the server knew of them."""
    model = platform.client.model("churn")
    assert model.description == "who leaves"
    assert model.tags == {"owner": "growth"}
    found = {one.sequence: one for one in platform.client.versions("churn")}
    assert set(found) == {2, 3}, "the deleted version leaves a gap"
    assert found[2].aliases == ["champion"]
    assert found[2].metrics["auc"] == pytest.approx(0.902)
    assert (found[2].description, found[2].stage) == ("the good one", "prod")
    assert found[2].tags["approved"] == "yes"
    assert found[2].tags["modelfleet.import.created_at"].startswith("20")
    assert (found[3].description, found[3].stage, found[3].aliases) == ("", "", [])
    details: Any = platform.client.api.get("/v1/models/churn/versions/2")
    assert "import.json" in {file["path"] for file in details["files"]}
    run: Any = platform.client.api.get(f"/v1/runs/{details['version']['run_id']}")
    assert (run["experiment"], run["parameters"]) == ("training", {"C": "0.2"})
    loads = next(gate for gate in details["gates"] if gate["gate"] == "loads")
    assert loads["evidence"]["sandbox"]["missing"] == []
    assert [one.version for one in platform.client.versions("price")] == ["4.2.0"]
    for name, files in (("odd", {"MLmodel", "weights.bin"}), ("notes", {"readme.txt"})):
        (one,) = platform.client.versions(name)
        kept: Any = platform.client.api.get(f"/v1/models/{name}/versions/1")
        assert (one.sequence, one.status) == (1, "registered")
        assert {file["path"] for file in kept["files"]} == files
        assert one.run_id
    far: Any = platform.client.api.get("/v1/models/far/versions/1")
    assert far["version"]["status"] == "external"
    assert far["version"]["source_uri"] == "s3://bucket/far/model"


def runs_of(api: MlflowApi) -> dict[str, Any]:
    place = api.get("experiments/get-by-name", experiment_name="training")["experiment"]
    body = {"experiment_ids": [place["experiment_id"]], "max_results": 1000}
    runs = api.post("runs/search", body)["runs"]
    assert len({run["info"]["run_name"] for run in runs}) == len(runs)
    return {run["info"]["run_name"]: run for run in runs}


def check_runs(platform: Platform, url: str) -> None:
    """Each is there once, and the same as where it comes from."""
    there, here = MlflowApi(url), MlflowApi(platform.client.api.url, token=platform.client.api.key)
    wanted, found = runs_of(there), runs_of(here)
    assert set(found) == set(wanted)
    for name, run in wanted.items():
        mine = found[name]
        for key in ("status", "start_time", "end_time"):
            assert mine["info"][key] == run["info"][key]
        assert mine["data"].get("params") == run["data"].get("params")
        for metric in run["data"].get("metrics", []):
            assert history(here, mine, metric["key"]) == history(there, run, metric["key"])
        said = [run["info"]["run_id"], mine["info"]["run_id"]]
        files = [sorted(api.list_of_run(one)) for api, one in zip((there, here), said, strict=True)]
        assert files[0] == files[1]
    inputs = [one["try-2"]["inputs"]["dataset_inputs"] for one in (wanted, found)]
    assert inputs[0] == inputs[1]
    tags = {one["key"]: one["value"] for one in found["part-2"]["data"]["tags"]}
    assert tags["mlflow.parentRunId"] == found["try-2"]["info"]["run_id"]
    logged = [models_of(api, runs) for api, runs in ((there, wanted), (here, found))]
    assert logged[0] == logged[1]
    assert len(logged[0]) == 5
    version: Any = platform.client.api.get("/v1/models/churn/versions/2")
    assert version["version"]["run_id"] == found["try-2"]["info"]["run_id"]
    there.close()
    here.close()


def history(api: MlflowApi, run: dict[str, Any], key: str) -> list[Any]:
    run_id = run["info"]["run_id"]
    pages = api.pages("metrics/get-history", "metrics", run_id=run_id, metric_key=key)
    return [(one["key"], str(one["value"]), one["timestamp"], one["step"]) for one in pages]


def measured(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Without what is not a number: of models, MLflow calls that 0."""
    return [one for one in model.get("data", {}).get("metrics", []) if one["key"] != "odd"]


def models_of(api: MlflowApi, runs: dict[str, Any]) -> list[Any]:
    """Logged models: of which run, with what."""
    places = [next(iter(runs.values()))["info"]["experiment_id"]]
    names = {run["info"]["run_id"]: name for name, run in runs.items()}
    found = api.post("logged-models/search", {"experiment_ids": places})["models"]
    made = {
        one["model_id"]: name
        for name, run in runs.items()
        for one in run.get("outputs", {}).get("model_outputs", [])
    }
    return sorted(
        (
            names[one["info"]["source_run_id"]],
            made.get(one["info"]["model_id"], ""),
            one["info"]["name"],
            one["info"]["status"],
            sorted((m["key"], m["step"], m["value"]) for m in measured(one)),
            sorted((p["key"], p["value"]) for p in one.get("data", {}).get("params", [])),
        )
        for one in found
    )


def agrees(platform: Platform, file: Path, name: str, version: str) -> None:
    """Deployed, it answers as the original did."""
    ended = platform.client.deploy(name, version, wait=True)
    assert ended.state == "succeeded", ended
    with np.load(file) as rows:
        given: Any = {key[3:]: rows[key] for key in rows.files if key.startswith("in_")}
        wanted = {key[4:]: rows[key] for key in rows.files if key.startswith("out_")}
    outputs: Any = platform.client.predict(name, given)["outputs"]
    answers = {one["name"]: np.array(one["data"]) for one in outputs}
    got = answers.get("prediction", answers.get("label"))
    assert got is not None
    np.testing.assert_allclose(got, next(iter(wanted.values())), rtol=1e-3, atol=1e-4)


def test_runs_are_written_by_mlflows_protocol(mlflow: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = mlflow
    (tmp_path / "log.txt").write_text("done")
    points = [MetricPoint("loss", 1 / (k + 1), 1_700_000_000_000 + k, k) for k in range(2500)]
    record = RunRecord(
        "neptune:ws/churn:RUN-1",
        "ws/churn/trial",
        "RUN-1",
        started=1_700_000_000_000,
        ended=1_700_000_009_000,
        parameters={f"p{k}": str(k) for k in range(150)},
        tags={"who": "ann"},
        metrics=points,
        artifacts={"logs/log.txt": str(tmp_path / "log.txt")},
    )
    api = MlflowApi(url)
    item = Item(record.key, "ws/churn", what="run")
    for _ in range(2):
        outcome = RunSink(api).write(item, record, tmp_path)
        assert (outcome.state, outcome.version) == ("imported", "RUN-1")
    experiment = api.get("experiments/get-by-name", experiment_name="ws/churn/trial")["experiment"]
    found = api.post("runs/search", {"experiment_ids": [experiment["experiment_id"]]})["runs"]
    assert len(found) == 1, "a run that is there is not written again"
    run = found[0]
    assert (run["info"]["run_name"], run["info"]["end_time"]) == ("RUN-1", 1_700_000_009_000)
    assert len(run["data"]["params"]) == 150
    history = api.pages(
        "metrics/get-history",
        "metrics",
        run_id=run["info"]["run_id"],
        metric_key="loss",
        max_results=1000,
    )
    assert [one["step"] for one in history] == list(range(2500))
    assert list(api.list_of_run(run["info"]["run_id"])) == [("logs/log.txt", 4)]
    api.close()


WANDB = """
import sys, wandb
with wandb.init(project="churn", name="sunny", config={"lr": 0.1, "net": {"layers": [4, 2]}},
                tags=["old"], mode="offline", dir=sys.argv[1]) as run:
    for k in range(3):
        run.log({"loss": 1 / (k + 1)})
    run.summary["best"] = 0.3
"""


def test_an_offline_run_of_wandb(platform: Platform, tmp_path: Path) -> None:
    uv = str(Path(sys.executable).parent / "uv")
    made = (uv, "run", "--quiet", "--no-project", "--isolated", "--python", "3.11")
    script = ("--with", "wandb", "python", "-c", WANDB, str(tmp_path))
    done = subprocess.run([*made, *script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    source = Wandb(tmp_path)
    (item,) = source.items()
    run = source.take(item, tmp_path / "work")
    assert (run.experiment, run.name, run.status) == ("churn", "sunny", "FINISHED")
    assert run.parameters == {"lr": "0.1", "net.layers": "[4, 2]"}
    assert [(p.value, p.step) for p in run.metrics if p.key == "loss"] == [
        (1.0, 0),
        (0.5, 1),
        (pytest.approx(1 / 3), 2),
    ]
    assert run.tags["wandb.tag.old"] == "true"
    found = report(platform, "runs", str(tmp_path), "--from", "wandb", "--dry-run", code=0)
    assert found["imported"] == 1


def test_files_of_other_tools(platform: Platform, tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestRegressor

    rows = np.random.default_rng(0).normal(size=(60, 4))
    forest = RandomForestRegressor(5, random_state=0).fit(rows, rows[:, 0])
    joblib.dump(forest, tmp_path / "forest.joblib", compress=3)
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch " + b"x'\ntR.")
    stream = io.BytesIO()
    joblib.dump(forest, stream)
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("model.joblib")
        member.size = len(stream.getvalue())
        archive.addfile(member, io.BytesIO(stream.getvalue()))
    np.save(tmp_path / "rows.npy", rows[:8])
    (tmp_path / "models.yaml").write_text(
        f"- {{path: model.tar.gz, name: packed, example: rows.npy, version: 4.2.0}}\n"
        f"- {{path: {DATA / 'churn.bentomodel'}, name: bento}}\n"
    )
    found = report(
        platform,
        *("files", str(tmp_path), str(DATA / "churn.bentomodel")),
        *("--map", str(tmp_path / "models.yaml"), "--team", "e2e"),
        code=1,
    )
    items = {one["model"]: one for one in found["items"]}
    assert {name: one["state"] for name, one in items.items()} == {
        "forest": "imported",
        "packed": "imported",
        "bento": "imported",
        "evil": "refused",
    }
    assert "os.system" in items["evil"]["reason"]
    assert (items["packed"]["example"], items["packed"]["version"]) == ("recorded", "4.2.0")
    assert items["forest"]["example"] == "made up"
    np.savez(tmp_path / "t.npz", in_x=rows[:8], out_prediction=forest.predict(rows[:8]))
    given = {"x": rows[:8]}
    platform.client.deploy("packed", "4.2.0", wait=True)
    answer: Any = platform.client.predict("packed", given)["outputs"]
    np.testing.assert_allclose(answer[0]["data"], forest.predict(rows[:8]), rtol=1e-4)
    again = report(
        platform,
        *("files", str(tmp_path), str(DATA / "churn.bentomodel")),
        *("--map", str(tmp_path / "models.yaml"), "--team", "e2e"),
        code=1,
    )
    assert [one["earlier"] for one in again["items"] if one["state"] == "imported"] == [True] * 3
    for name in ("forest", "packed", "bento"):
        assert len(platform.client.versions(name)) == 1


def test_a_server_that_is_not_there(platform: Platform) -> None:
    done = platform.run("import", "mlflow", "http://127.0.0.1:1")
    assert done.returncode == 3
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr
