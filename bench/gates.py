"""What a gate run costs beyond its check: from the request to the verdict, as a client sees it.

    make bench-gates                    one JSON line

The check sleeps for a set time; the overhead is all the rest: the request, the wait, building the
case, keeping verdict and audit event, and being asked. Beside it: the first run, which builds the
version's environment (it serves in its compiled form); how soon a known verdict comes; and how long
a version that was just registered waits to be prepared while gates are queued.
"""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from modelfleet.client import Client

RUNS, CHECK_SECONDS, QUEUED = 8, 1.0, 20
CHECK = f"import time\ntime.sleep({CHECK_SECONDS})\n"
LIMIT_SECONDS = 2.0


@contextmanager
def platform() -> Iterator[Client]:
    home = Path(tempfile.mkdtemp(prefix="mfb"))
    home.chmod(0o755)
    arguments = ["--home", str(home), "--port", "0", "--gateway-port", "0"]
    command = [sys.executable, "-m", "modelfleet.cli.main", "up", *arguments]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert up.stdout is not None
    try:
        while "Metrics" not in (line := up.stdout.readline()):
            if not line:
                raise SystemExit("modelfleet did not start")
        with Client(home=home, timeout=60) as client:
            yield client
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def register(client: Client, seed: int, wait: bool = True) -> str:
    random = np.random.default_rng(seed)
    x = random.normal(size=(500, 4))
    model = LogisticRegression().fit(x, (x[:, 0] + random.normal(size=500) > 0).astype(int))
    return client.register(model, x[:20], name="bench", team="bench", wait=wait).version


def ask(client: Client, version: str, gates: list[object], **more: object) -> Any:
    path = f"/v1/models/bench/versions/{version}/gates"
    return client.api.post(path, {"gates": gates, **more})


def until_ended(client: Client, found: Any) -> Any:
    while not found["ended"]:
        time.sleep(0.02)
        found = client.api.get(f"/v1/gates/{found['request']['id']}")
    return found


def main() -> None:
    with platform() as client:
        client.ensure_model("bench", team="bench")
        version = register(client, 1)
        with tempfile.NamedTemporaryFile(suffix=".py") as file:
            file.write(CHECK.encode())
            file.flush()
            from modelfleet.cli.datasets import upload

            program = f"check.py@sha256:{upload(client, Path(file.name))}"
        gate = {"run": {"uses": program}}
        begun = time.perf_counter()
        until_ended(client, ask(client, version, [gate]))
        first_s = time.perf_counter() - begun - CHECK_SECONDS
        overheads, inside = [], []
        for _ in range(RUNS):
            begun = time.perf_counter()
            found = until_ended(client, ask(client, version, [gate], again=True))
            overheads.append(time.perf_counter() - begun - CHECK_SECONDS)
            inside.append(found["request"]["gates"][0]["run"]["seconds"] - CHECK_SECONDS)
        begun = time.perf_counter()
        known = ask(client, version, [gate])
        cached = time.perf_counter() - begun
        assert known["ended"], known
        many = [
            {"run": {"uses": program, "args": [str(k)], "name": f"g{k}"}} for k in range(QUEUED)
        ]
        queued = ask(client, version, many)
        begun = time.perf_counter()
        register(client, 2)
        prepared = time.perf_counter() - begun
        left = client.api.get(f"/v1/gates/{queued['request']['id']}")
        waiting = sum(one["run"] is None for one in left["request"]["gates"])  # type: ignore[index]
        print(
            json.dumps(
                {
                    "overhead_median_s": round(statistics.median(overheads), 3),
                    "overhead_max_s": round(max(overheads), 3),
                    "overhead_limit_s": LIMIT_SECONDS,
                    "inside_the_job_median_s": round(statistics.median(inside), 3),
                    "first_run_with_its_environment_s": round(first_s, 3),
                    "known_verdict_s": round(cached, 3),
                    "prepared_while_queued_s": round(prepared, 3),
                    "gates_still_waiting_then": waiting,
                    "within_limit": max(overheads) <= LIMIT_SECONDS,
                }
            )
        )


if __name__ == "__main__":
    main()
