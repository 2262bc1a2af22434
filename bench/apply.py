"""What applying fleet files costs: `python bench/apply.py [--models 500]`.

A control plane of its own, over HTTP, with its reconciler; no workers, so rollouts start and wait.
Documents have every section. Ends with one JSON line; seconds, and those of the server's CPU (with
its reconciler's). `read` is the command line's own share; `double` plans twice as many documents.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import psutil

from modelfleet.client import Client
from modelfleet.client.errors import Unreachable
from modelfleet.core.settings import load_settings
from modelfleet.fleetfile.load import load
from modelfleet.fleetfile.sending import Applying, Draft, draft
from modelfleet.wiring import build
from registrar import Registrar

FLEET = """apiVersion: modelfleet.dev/v1
kind: Fleet
metadata: {name: bench}
defaults:
  metadata: {owner: bench}
  rollout:
    strategy: canary
    steps: [{weight: 5%, for: 15m}, {weight: 25%, for: 1h}, {weight: 100%, bake: 1h}]
    analysis: {errors: {max_increase: 1pp}, latency: {max_ratio: 1.5}}
    on_inconclusive: {after: 4h, do: hold}
"""
MODEL = """apiVersion: modelfleet.dev/v1
kind: Model
metadata: {{name: m{n}, description: "number {n}", tier: high, tags: {{group: "{group}"}}}}
source: {{version: "^1.0"}}
{uses}consumers: [{{app: shop}}]
serve: {{timeout: 200ms, isolation: team, resources: {{memory: 100Mi}}}}
endpoint: {{sticky: "header:x-user", rate_limit: {{requests: 100, per: 1s}}}}
scale: {{min: 1, max: 4}}
gates:
  - quality: {{dataset: eval@latest, metric: roc_auc, minimum: 0.7}}
  - signature
  - latency: {{p95: 30ms, vs_champion: 1.2x}}
monitor: [{{drift: {{window: 1d}}}}, {{slo: {{availability: 99.9%}}}}]
budget: {{monthly: 300 EUR}}
"""


def write(folder: Path, first: int, last: int) -> None:
    (folder / "fleet.yaml").write_text(FLEET)
    for n in range(first, last):
        uses = f'uses: [{{model: m{n - 1}, version: "^1"}}]\n' if n % 5 else ""
        text = MODEL.format(n=n, group=n % 7, uses=uses)
        (folder / f"m{n}.model.yaml").write_text(text)


@contextlib.contextmanager
def control_plane(home: Path) -> Iterator[tuple[Client, psutil.Process]]:
    fleet = build(load_settings(home))
    fleet.identity.bootstrap(fleet.layout)
    fleet.database.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "run").mkdir(exist_ok=True)
    (home / "run" / "ports.json").write_text(json.dumps({"api": port, "gateway": 1}))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelfleet.app", "--home", str(home)],
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            with Client(home=home, timeout=300) as client:
                _until_up(client)
                yield client, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _until_up(client: Client) -> None:
    for _ in range(200):
        try:
            client.api.get("/v1/models")
            return
        except Unreachable:
            time.sleep(0.1)
    raise SystemExit("the control plane did not start")


def planned(client: Client, folder: Path, times: dict[str, float], name: str) -> Draft:
    begin = time.perf_counter()
    loaded = load(folder)
    read = time.perf_counter()
    made = draft(client, loaded)
    times[f"{name}_read"] = read - begin
    times[f"{name}_plan"] = time.perf_counter() - read
    return made


def applied(
    client: Client, server: psutil.Process, made: Draft, times: dict[str, float], name: str
) -> list[Any]:
    begin, before = time.perf_counter(), server.cpu_times()
    run = Applying(client, made)
    run.run(lambda _: None)
    times[f"{name}_apply"] = time.perf_counter() - begin
    after = server.cpu_times()
    times[f"{name}_apply_cpu"] = after.user + after.system - before.user - before.system
    return run.results


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=500)
    given = parser.parse_args()
    half, times = given.models, {}
    with tempfile.TemporaryDirectory() as work:
        home, folder = Path(work) / "home", Path(work) / "files"
        home.mkdir()
        folder.mkdir()
        write(folder, 0, half)
        with control_plane(home) as (client, server):
            made = planned(client, folder, times, "first")
            results = applied(client, server, made, times, "first")
            assert {one["outcome"] for one in results} == {"created"}, results[0]
            made = planned(client, folder, times, "second")
            assert not made.changing
            assert applied(client, server, made, times, "second") == []
            fleet = build(load_settings(home))
            registrar = Registrar(fleet)
            for n in range(half):
                registrar.ready(f"m{n}")
            made = planned(client, folder, times, "rollouts")
            results = applied(client, server, made, times, "rollouts")
            assert all(one["rollout"] for one in results), results[0]
            fleet.database.close()
            write(folder, half, 2 * half)
            planned(client, folder, times, "double")
    print(json.dumps({"models": half, **{k: round(v, 3) for k, v in times.items()}}))


if __name__ == "__main__":
    main()
