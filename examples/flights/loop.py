"""The closed loop: what one model drifts away from, a training run learns, and the judge lets in.

The model's document says how it is trained, and that drift is a reason to. From then on nobody
does anything: the alert starts the run, the run registers a version, the version is rolled out.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flights.data import FEATURES, Flights
from flights.models import FIRST_HALF
from modelfleet.client import Client

RECENT_DAYS = 92
PROGRAM = '''\
"""Train on the last quarter. Runs in the model's own environment, as the document says."""

import csv
import json

import joblib
import lightgbm
import numpy as np


def train(recent, output):
    with open(recent) as file:
        names, *lines = csv.reader(file)
    rows = np.array(lines, dtype=float)
    x, late = rows[:, :-1], rows[:, -1].astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=60, num_leaves=15, n_jobs=1, verbose=-1)
    model.fit(x, late)
    joblib.dump(model, output / "model.joblib")
    np.save(output / "example.npy", x[:256])
    np.save(output / "reference.npy", x)
    (output / "features.json").write_text(json.dumps(names[:-1]))
    return {"rows": len(x)}
'''
DOCUMENT = """\
apiVersion: modelfleet.dev/v1
kind: Model
metadata: {{name: {name}, owner: {team}}}
gates:
  - infrastructure
  - signature: {{compatible_with: champion}}
rollout:
  strategy: canary
  steps: [{{weight: 50%, for: 8s}}, {{weight: 100%, bake: 8s}}]
  analysis: {{without: [predictions]}}
  on_inconclusive: {{after: 10m, do: hold}}
train:
  entry: training:train
  code: [training.py]
  inputs: {{recent: recent.csv}}
  requirements: {requirements}
  python: "{python}"
  cooldown: 1h
  triggers: {{drift: true}}
"""


def close(
    home: Path, folder: Path, flights: Flights, name: str, requirements: Sequence[str], team: str
) -> None:
    """Write the document with its program and data, and apply it."""
    folder.mkdir()
    _, origin, carrier = name.split("-")
    days = (flights.day > FIRST_HALF) & (flights.day <= FIRST_HALF + RECENT_DAYS)
    own = flights.where(
        days & (flights.origin == origin) & (flights.carrier == carrier) & ~flights.cancelled
    )
    with (folder / "recent.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*FEATURES, "late"])
        writer.writerows([*row, int(late)] for row, late in zip(own.x, own.late, strict=True))
    (folder / "training.py").write_text(PROGRAM)
    (folder / "fleet.yaml").write_text(
        "apiVersion: modelfleet.dev/v1\nkind: Fleet\nmetadata: {name: flights}\n"
    )
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    told = DOCUMENT.format(
        name=name, team=team, requirements=json.dumps(list(requirements)), python=python
    )
    (folder / f"{name}.model.yaml").write_text(told)
    command = [sys.executable, "-m", "modelfleet.cli.main", "apply", str(folder), "--yes"]
    done = subprocess.run([*command, "--home", str(home)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"The document could not be applied:\n{done.stdout}{done.stderr}")


def outcome(client: Client, name: str, seconds: float) -> tuple[str, str]:
    """What became of the run that drift started, and why; waits so long at most."""
    end = time.monotonic() + seconds
    while True:
        found = client.api.get("/v1/trainings", model=name)
        assert isinstance(found, list)
        if found and (found[0]["ended_at"] or time.monotonic() > end):
            return str(found[0]["state"]), str(found[0]["sentence"])
        if time.monotonic() > end:
            return "never started", "No alert of drift came."
        time.sleep(0.5)
