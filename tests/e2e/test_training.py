"""A model's document says how it is trained: by hand, and when its input drifts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sklearn
from running import Platform, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-training")]

FLEET = """\
apiVersion: modelfleet.dev/v1
kind: Fleet
metadata: {name: lab}
"""
DOCUMENT = f"""\
apiVersion: modelfleet.dev/v1
kind: Model
metadata: {{name: rain, owner: e2e}}
rollout:
  strategy: canary
  on_inconclusive: {{after: 10m, do: hold}}
  steps: [{{weight: 50%, for: 1s}}, {{weight: 100%, bake: 1s}}]
  analysis: {{without: [predictions], errors: {{max_increase: 2%}}, latency: {{max_ratio: 50x}}}}
train:
  entry: training:train
  code: [training.py]
  inputs: {{rows: rows.csv}}
  requirements: ["scikit-learn=={sklearn.__version__}"]
  timeout: 5m
  cooldown: 1s
  triggers: {{drift: true, webhook: true}}
"""
PROGRAM = """\
import csv
import os

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression


def train(rows, output):
    with open(rows) as file:
        read = np.array([[float(v) for v in row] for row in list(csv.reader(file))[1:]])
    x, y = read[:, :3], read[:, 3].astype(int)
    if os.environ["MODELFLEET_CAUSE"].startswith("drift"):
        x = x + 4.0  # what the world looks like by now
    model = LogisticRegression().fit(x, y)
    joblib.dump(model, output / "model.joblib")
    np.save(output / "reference.npy", x)
    np.save(output / "example.npy", x[:20])
    print("trained on", len(x), "rows")
    return {"accuracy": model.score(x, y)}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "fleet.yaml").write_text(FLEET)
    (folder / "rain.model.yaml").write_text(DOCUMENT)
    (folder / "training.py").write_text(PROGRAM)
    chance = random.Random(1)
    lines = ["a,b,c,rain"]
    for _ in range(2000):
        row = [chance.gauss(0, 1) for _ in range(3)]
        lines.append(",".join(map(str, [*row, int(row[0] + chance.gauss(0, 0.3) > 0)])))
    (folder / "rows.csv").write_text("\n".join(lines))
    return folder


def shifted(by: float) -> Callable[[random.Random], bytes]:
    def make(chance: random.Random) -> bytes:
        data = [chance.gauss(by, 1.0) for _ in range(3)]
        tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": data}
        return json.dumps({"inputs": [tensor]}).encode()

    return make


def runs(platform: Platform) -> list[dict[str, Any]]:
    found: Any = platform.client.api.get("/v1/trainings", model="rain")
    return list(found)


def over(platform: Platform, state: str, **wanted: str) -> dict[str, Any]:
    """The newest run that has this `id` or `kind` of cause, once it is over."""

    def found() -> dict[str, Any] | None:
        known = [one for one in runs(platform) if wanted.items() <= told(one).items()]
        if not known or known[0]["ended_at"] is None:
            return None
        assert known[0]["state"] == state, known[0]
        return known[0]

    def told(one: dict[str, Any]) -> dict[str, str]:
        return {"id": one["id"], "kind": one["cause"]["kind"]}

    return eventually(found, 150, 0.5)


@pytest.fixture(scope="module")
def trained(platform: Platform, files: Path) -> dict[str, Any]:
    """The first run, started by hand; what it made serves."""
    applied = platform.run("apply", str(files), "--yes")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    done = platform.run("training", "start", "rain", "--wait", "--json", timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_training_makes_a_version_that_is_rolled_out(
    platform: Platform, trained: dict[str, Any]
) -> None:
    run = trained
    assert (run["state"], run["cause"]["kind"]) == ("promoted", "manual")
    assert "trained on 2000 rows" in platform.run("training", "log", run["id"]).stdout
    version = platform.client.version("rain", run["version"])
    assert version.metrics["accuracy"] > 0.8
    assert platform.ask("rain", shifted(0.0)(random.Random(1))).status == 200


@pytest.mark.usefixtures("trained")
def test_drift_is_answered_by_a_better_model(platform: Platform, files: Path) -> None:
    """The loop: an alarm, a training run, the canary, promotion; and the alarm is over."""
    with platform.load("rain", shifted(4.0), connections=2, pause=0.01) as load:
        run = over(platform, "promoted", kind="drift")
        assert run["cause"]["kind"] == "drift"
        assert load.tally.bad == 0, load.tally.trouble

        def calm() -> bool:
            alerts = platform.client.api.get("/v1/alerts", endpoint="rain")
            return all(one["state"] == "resolved" for one in alerts)  # type: ignore[union-attr]

        eventually(calm, 120, 1.0)
    assert load.tally.bad == 0, load.tally.trouble


@pytest.mark.usefixtures("trained")
def test_whoever_knows_the_hook_needs_no_key(platform: Platform) -> None:
    path = platform.run("training", "hook", "rain").stdout.strip()
    import urllib.error
    import urllib.request

    def post(where: str) -> int:
        request = urllib.request.Request(
            f"http://127.0.0.1:{platform.ports()['api']}{where}",
            b'{"detail": "new month"}',
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert post(path[:-3] + "abc") == 404
    assert post(path) == 201
    run = runs(platform)[0]
    assert run["cause"] == {"kind": "webhook", "detail": "new month"}
    cancelled = platform.run("training", "cancel", run["id"])
    assert cancelled.returncode == 0, cancelled.stderr
    assert runs(platform)[0]["state"] == "cancelled"


@pytest.mark.usefixtures("trained")
def test_a_program_that_fails_says_why(platform: Platform, files: Path) -> None:
    (files / "training.py").write_text("def train():\n    raise RuntimeError('no rows today')\n")
    assert platform.run("apply", str(files), "--yes").returncode == 0
    done = platform.run("training", "start", "rain", "--wait", "--json", timeout=100)
    assert done.returncode == 1
    assert "no rows today" in json.loads(done.stdout)["sentence"]


@pytest.mark.usefixtures("trained")
def test_a_program_outlives_no_control_plane(platform: Platform, files: Path) -> None:
    """Killed hard in the middle, it runs again, and makes its version once."""
    slow = PROGRAM.replace("    model = Log", "    import time; time.sleep(8)\n    model = Log")
    (files / "training.py").write_text(slow)
    assert platform.run("apply", str(files), "--yes").returncode == 0
    before = len(platform.client.versions("rain"))
    started = platform.run("training", "start", "rain", "--json")
    run = json.loads(started.stdout)["id"]

    def state() -> str:
        return str(platform.client.api.get(f"/v1/trainings/{run}")["state"])  # type: ignore[index,call-overload]

    eventually(lambda: state() == "training", 60)
    old = platform.kill("control-plane")
    platform.until_back("control-plane", old)
    with platform.load("rain", shifted(4.0), connections=2, pause=0.01):
        found = over(platform, "promoted", id=run)
    assert found["starts"] == 1
    assert len(platform.client.versions("rain")) == before + 1
