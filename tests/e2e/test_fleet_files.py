"""A fleet from files to serving, through the real command line and platform."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pytest
from load import rows
from running import Platform, eventually
from sklearn.linear_model import LinearRegression

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("e2e-fleet-files"),
]
X = np.random.default_rng(0).normal(size=(80, 2))
FLEET = """apiVersion: modelfleet.dev/v1
kind: Fleet
metadata: {name: shop}
defaults:
  metadata: {owner: e2e}
  rollout: {strategy: immediate, bake: 1s}
stages:
  prod: {models: {base: {serve: {timeout: 900ms}}}}
"""
MODEL = """apiVersion: modelfleet.dev/v1
kind: Model
metadata: {{name: {name}, description: {text}}}
source: {{path: ./{name}.joblib, example: ./rows.npy}}
{more}
"""
PIPELINE = """apiVersion: modelfleet.dev/v1
kind: Pipeline
metadata: {name: both, owner: e2e}
inputs: [{name: x, datatype: FP64, shape: [-1, 2]}]
steps:
  - {name: first, model: base, inputs: {x: input.x}}
  - {name: second, model: upper, inputs: {x: input.x}}
outputs: {a: first.prediction, b: second.prediction}
timeout: 2s
"""


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    made = Platform()
    try:
        made.up()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "fleet.yaml").write_text(FLEET)
    np.save(folder / "rows.npy", X[:20])
    for name, slope in (("base", 1.0), ("upper", 2.0)):
        train(folder, name, slope)
    write(folder, "base")
    write(folder, "upper", more='uses: [{model: base, version: "^1"}]\nconsumers: [{app: crm}]')
    (folder / "both.pipeline.yaml").write_text(PIPELINE)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "first")
    return folder


def train(folder: Path, name: str, slope: float) -> None:
    joblib.dump(LinearRegression().fit(X, X @ [slope, 0.5]), folder / f"{name}.joblib")


def write(folder: Path, name: str, text: str = "first", more: str = "") -> None:
    (folder / f"{name}.model.yaml").write_text(MODEL.format(name=name, text=text, more=more))


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def applied(platform: Platform, files: Path) -> str:
    """What the first plan said; it was applied."""
    shown = platform.run("plan", str(files))
    assert shown.returncode == 1, shown.stderr
    made = platform.run("apply", str(files), "--yes", "--wait", timeout=240)
    assert made.returncode == 0, made.stdout + made.stderr
    return shown.stdout


def test_a_fleet_from_files_serves_and_a_second_apply_does_nothing(
    platform: Platform, files: Path, applied: str
) -> None:
    assert "3 to create" in applied
    for name in ("base", "upper", "both"):
        eventually(lambda name=name: platform.ask(name, body()).status == 200)
    answer = platform.ask("both", body()).body["outputs"]
    found = {one["name"]: one["data"][0] for one in answer}
    assert found == {"a": pytest.approx(1.5), "b": pytest.approx(2.5)}
    again = platform.run("plan", str(files))
    assert again.returncode == 0, again.stdout
    second = platform.run("apply", str(files), "--yes", "--json")
    assert (second.returncode, json.loads(second.stdout)) == (0, [])
    standings = json.loads(platform.run("applied", "--json").stdout)
    assert {one["state"] for one in standings} == {"ok"}
    known = [one["object"] for one in standings]
    assert {one["commit"] for one in known} == {git(files, "rev-parse", "HEAD")}
    assert [one["resolved"]["version"] for one in known if one["kind"] == "Model"] == ["1.0.0"] * 2
    edges = json.loads(platform.run("lineage", "show", "model", "base", "--json").stdout)
    assert any(edge["destination"]["name"] == "upper" for edge in edges)


def body() -> dict[str, object]:
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1.0, 1.0]}]}


@pytest.mark.usefixtures("applied")
def test_new_files_are_a_new_version_that_is_rolled_out(platform: Platform, files: Path) -> None:
    train(files, "base", 3.0)
    shown = platform.run("plan", str(files), "-o", "md")
    assert shown.returncode == 1
    assert "| `~` | `source.digest` |" in shown.stdout
    made = platform.run("apply", str(files), "--yes", "--wait", "--json", timeout=240)
    assert made.returncode == 0, made.stdout + made.stderr
    [result] = json.loads(made.stdout)
    assert result["version"] not in ("", "1.0.0")
    assert result["rollout"]
    answer = platform.ask("base", body()).body["outputs"][0]
    assert answer["data"] == [pytest.approx(3.5)]
    assert platform.run("plan", str(files)).returncode == 0


@pytest.mark.usefixtures("applied")
def test_a_plan_forecasts_its_proofs_from_the_traffic_there_is(
    platform: Platform, files: Path
) -> None:
    with platform.load("base", rows(2), pause=0.005):
        time.sleep(12)
    before = (files / "base.model.yaml").read_text()
    model = (files / "base.joblib").read_bytes()
    canary = "rollout: {strategy: canary, steps: [{weight: 10%, for: 1m}, {weight: 100%}], "
    canary += "analysis: {errors: {max_increase: 0.2pp}}, on_inconclusive: {after: 1m, do: hold}}"
    write(files, "base", more=canary)
    train(files, "base", 4.0)
    shown = platform.run("plan", str(files), "--json")
    (files / "base.joblib").write_bytes(model)
    (files / "base.model.yaml").write_text(before)
    [found] = [o for o in json.loads(shown.stdout)["objects"] if o["name"] == "base"]
    assert found["version"]["state"] == "unmade"
    assert set(found["affected"]) >= {"model upper", "application crm", "pipeline both"}
    seconds = {one["metric"]: one["seconds"] for one in found["samples"]}
    assert set(seconds) == {"errors", "latency", "predictions"}
    assert all(one is not None and one > 0 for one in seconds.values())
    assert any("errors: half of all proofs take over" in one for one in found["warnings"])
    assert found["replicas"] > 0


@pytest.mark.usefixtures("applied")
def test_drift_is_shown_and_export_and_stages(
    platform: Platform, files: Path, tmp_path: Path
) -> None:
    platform.run("models", "update", "base", "--description", "by hand")
    shown = platform.run("diff", str(files))
    assert shown.returncode == 1
    assert "~ metadata.description: by hand → first" in shown.stdout
    assert "drift" in shown.stdout
    assert platform.run("apply", str(files), "--yes").returncode == 0
    assert platform.run("diff", str(files)).returncode == 0
    prod = platform.run("plan", str(files), "--stage", "prod", "--json")
    assert prod.returncode == 1
    [changed] = [o for o in json.loads(prod.stdout)["objects"] if o["action"] == "update"]
    assert [c["path"] for c in changed["changes"]] == ["serve.timeout"]
    unknown = platform.run("plan", str(files), "--stage", "prd")
    assert unknown.returncode == 2
    assert "did you mean prod?" in unknown.stderr
    out = tmp_path / "out"
    assert platform.run("export", str(out), "--fleet", "shop").returncode == 0
    for name in ("base.joblib", "upper.joblib", "rows.npy"):
        (out / name).write_bytes((files / name).read_bytes())
    back = platform.run("plan", str(out))
    assert back.returncode == 0, back.stdout + back.stderr


@pytest.mark.usefixtures("applied")
def test_a_plan_that_somebody_made_stale_is_refused(
    platform: Platform, files: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "plan.json"
    write(files, "base", "planned")
    assert platform.run("plan", str(files), "--out", str(kept)).returncode == 1
    write(files, "base", "meanwhile")
    assert platform.run("apply", str(files), "--yes").returncode == 0
    late = platform.run("apply", str(kept), "--yes")
    assert late.returncode == 5
    assert "admin applied generation" in late.stdout
    assert platform.client.model("base").description == "meanwhile"
    write(files, "base", "planned again")
    assert platform.run("plan", str(files), "--out", str(kept)).returncode == 1
    done = platform.run("apply", str(kept), "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert platform.client.model("base").description == "planned again"
    twice = platform.run("apply", str(kept), "--yes")
    assert twice.returncode == 0, twice.stdout
    nobody = platform.run("apply", str(files / "base.model.yaml"))
    assert nobody.returncode == 0, "there is nothing to ask about"


def test_killed_while_applying_it_goes_on(platform: Platform, tmp_path: Path) -> None:
    count = 300
    (tmp_path / "fleet.yaml").write_text(FLEET.replace("name: shop", "name: many"))
    for n in range(count):
        (tmp_path / f"k{n}.model.yaml").write_text(
            f"apiVersion: modelfleet.dev/v1\nkind: Model\nmetadata: {{name: k{n:03}}}\n"
            "endpoint: {priority: low}\n"
        )
    running = subprocess.Popen(
        [*platform.command, "apply", str(tmp_path), "--yes", "--home", str(platform.home)],
        stdout=subprocess.DEVNULL,
        env=platform.environment,
    )
    eventually(lambda: 20 <= len(many(platform)) < count, 60)
    running.send_signal(signal.SIGKILL)
    running.wait(10)
    before = platform.kill("control-plane")
    platform.until_back("control-plane", before)
    half = many(platform)
    assert 0 < len(half) < count
    names = {one["name"] for one in half}
    have = {one.name for one in platform.client.models() if one.name.startswith("k")}
    assert have == names, "a model without its record, or a record without its model"
    went_on = platform.run("apply", str(tmp_path), "--yes", "--json")
    assert went_on.returncode == 0, went_on.stderr
    results = json.loads(went_on.stdout)
    assert len(results) == count - len(half)
    assert {one["generation"] for one in many(platform)} == {1}
    assert platform.run("plan", str(tmp_path)).returncode == 0
    (tmp_path / "k0.model.yaml").unlink()
    kept = platform.run("plan", str(tmp_path))
    assert kept.returncode == 0, "removal takes --prune"
    gone = platform.run("apply", str(tmp_path), "--yes", "--prune")
    assert gone.returncode == 0, gone.stdout
    assert len(many(platform)) == count - 1


def many(platform: Platform) -> list[dict[str, object]]:
    try:
        found = platform.client.api.get("/v1/fleet/objects", name="many")
    except Exception:  # noqa: BLE001 - it is just being replaced
        return []
    assert isinstance(found, list)
    return found


@pytest.mark.usefixtures("applied")
def test_destroy_takes_prune_and_refuses_what_others_use(platform: Platform, files: Path) -> None:
    shown = platform.run("destroy", "base")
    assert shown.returncode == 1
    assert "with --prune" in shown.stdout
    refused = platform.run("destroy", "base", "--prune", "--yes")
    assert refused.returncode == 5
    assert "upper" in refused.stdout
    done = platform.run("destroy", "--fleet", "shop", "--prune", "--yes")
    assert done.returncode == 0, done.stdout
    assert platform.client.version("base").version != ""
    eventually(lambda: platform.ask("base", body()).status == 404)
    assert platform.run("plan", str(files)).returncode == 1
