"""A modelfleet with three models: one that costs nothing, one that works, one that is replaced."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from modelfleet.client import Client
from modelfleet.core.layout import Layout
from modelfleet.host import status

HOME = Path(".bench/faults").resolve()
MODEL = "steady"
ROW = [0.1, 0.2, 0.3, 0.4]
SETTINGS = "[serving]\nsegment_mb = 64\n"


class Busy:
    """So many milliseconds of linear algebra, roughly, for each row: batches win nothing."""

    def __init__(self, milliseconds: int) -> None:
        self.layers = 8 * milliseconds
        self.weights = np.random.default_rng(0).normal(size=(1024, 1024)) / 32

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        found = np.empty(len(inputs["x"]))
        for k, row in enumerate(inputs["x"]):
            state = np.resize(row, 1024)
            for _ in range(self.layers):
                state = np.tanh(self.weights @ state)
            found[k] = state.sum()
        return {"y": found}


class Waits:
    """Waits for so many milliseconds for each row, as for an answer from elsewhere."""

    def __init__(self, milliseconds: int) -> None:
        self.milliseconds = milliseconds

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        time.sleep(len(inputs["x"]) * self.milliseconds / 1000)
        return {"y": inputs["x"].sum(axis=1)}


@contextmanager
def platform() -> Iterator[Client]:
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    (HOME / "settings.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "modelfleet.cli.main", "up", "--home", str(HOME)]
    up = subprocess.Popen(
        [*command, "--port", "0", "--gateway-port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert up.stdout is not None
    try:
        if not any(line.startswith("Key") for line in up.stdout):
            raise SystemExit("modelfleet did not start")
        with Client(home=HOME) as client:
            deploy(client, MODEL, trained(0))
            yield client
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()


def trained(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, 4))
    return LogisticRegression().fit(x, x[:, 0] > 0)


def deploy(client: Client, name: str, model: Any, **how: Any) -> None:
    x = np.random.default_rng(0).normal(size=(400, 4))
    client.register(model, x, name=name, team="bench", reference=x, wait=True)
    client.deploy(name, wait=True, **how)


def url(client: Client, model: str) -> str:
    return f"{client.gateway_url}/v2/models/{model}/infer"


def body() -> str:
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 4], "data": ROW}
    return json.dumps({"inputs": [tensor]})


def headers(**more: str) -> dict[str, str]:
    key = (HOME / "admin.key").read_text().strip()
    return {"content-type": "application/json", "authorization": f"Bearer {key}", **more}


def pids(part: str) -> list[int]:
    """Of the ready processes of that kind; none while something else is amiss."""
    now = status(Layout(HOME))
    replicas = [one for pool in now.observed.pools.values() for one in pool.replicas]
    if not now.ready or any(one.state != "ready" for one in replicas):
        return []
    if part == "worker":
        return [one.pid for one in replicas if one.pid]
    pid = now.agent_pid if part == "agent" else now.observed.processes[part].pid
    return [pid] if pid else []


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not what():
        if time.monotonic() > end:
            raise SystemExit("a process did not come back within a minute")
        time.sleep(0.02)
