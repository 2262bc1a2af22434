"""A batch beside requests: rows per second against calling the endpoint, and what it costs online.

    make bench-batch                    a table
    make bench-batch ARGS=--json        one JSON document

Online latency is measured at a fixed pace of one client in turns without and with a batch running.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

from modelfleet.client import Client

HOME = Path(".bench").resolve() / "batch"
ROWS, LONG_ROWS, FEATURES = 1_000_000, 6_000_000, 8
TURNS, TURN_SECONDS, PACE = 4, 5.0, 200.0


@contextmanager
def platform() -> Iterator[Client]:
    shutil.rmtree(HOME, ignore_errors=True)
    arguments = ["--home", str(HOME / "home"), "--port", "0", "--gateway-port", "0"]
    command = [sys.executable, "-m", "modelfleet.cli.main", "up", *arguments]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    try:
        while "Metrics" not in (line := up.stdout.readline()):
            if not line:
                raise SystemExit("modelfleet did not start")
        with Client(home=HOME / "home", timeout=60) as client:
            yield client
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(30)
        shutil.rmtree(HOME, ignore_errors=True)


class Online:
    """One connection to the endpoint."""

    def __init__(self) -> None:
        ports = json.loads((HOME / "home" / "run" / "ports.json").read_text())
        self._key = (HOME / "home" / "admin.key").read_text().strip()
        self._connection = http.client.HTTPConnection("127.0.0.1", ports["gateway"], timeout=30)

    def ask(self, rows: np.ndarray) -> float:
        """Seconds of one request."""
        tensor = {"name": "x", "datatype": "FP64", "shape": list(rows.shape)}
        body = json.dumps({"inputs": [tensor | {"data": rows.tolist()}]})
        begun = time.perf_counter()
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        self._connection.request("POST", "/v2/models/scorer/infer", body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{answer.status} {text[:200]!r}")
        return time.perf_counter() - begun

    def paced(self, seconds: float) -> list[float]:
        """Latencies of single rows at a fixed pace."""
        row, found = np.zeros((1, FEATURES)), []
        due = time.perf_counter()
        end = due + seconds
        while due < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            found.append(self.ask(row))
            due += 1 / PACE
        return found

    def rows_per_second(self, rows: int, seconds: float) -> float:
        table = np.zeros((rows, FEATURES))
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            self.ask(table)
            count += rows
        return count / (time.perf_counter() - begun)


def run(name: str, *, detach: bool = False) -> dict[str, object]:
    command = [sys.executable, "-m", "modelfleet.cli.main", "batch", "run", "scorer", "--json"]
    command += ["--input", str(HOME / f"{name}.parquet"), "--output", str(HOME / f"{name}-out")]
    command += ["--home", str(HOME / "home"), "--key", "id", *(["--detach"] if detach else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def write(name: str, rows: int) -> None:
    rng = np.random.default_rng(0)
    columns = {f"x_{k}": rng.normal(size=rows) for k in range(FEATURES)}
    pq.write_table(pa.table({"id": np.arange(rows), **columns}), HOME / f"{name}.parquet")


def measure(client: Client) -> dict[str, object]:
    x = np.random.default_rng(1).normal(size=(2000, FEATURES))
    model = LogisticRegression().fit(x, x[:, 0] > 0)
    names = [f"x_{k}" for k in range(FEATURES)]
    client.register(model, x, features=names, name="scorer", team="bench", wait=True)
    client.deploy("scorer", "1", wait=True)
    write("short", ROWS)
    write("long", LONG_ROWS)
    online = Online()
    online.paced(2.0)
    quiet: list[float] = []
    busy: list[float] = []
    pace = float(str(run("short")["rows_per_second"]))
    single, hundred = online.rows_per_second(1, 5.0), online.rows_per_second(100, 5.0)
    for turn in range(TURNS):
        quiet += online.paced(TURN_SECONDS)
        shutil.rmtree(HOME / "long-out", ignore_errors=True)
        batch = str(run("long", detach=True)["id"])
        time.sleep(3.0)  # its process has started
        busy += online.paced(TURN_SECONDS)
        state = client.api.get(f"/v1/batches/{batch}")
        assert isinstance(state, dict)
        if state["state"] != "running":
            raise SystemExit(f"turn {turn}: the batch ended before the measurement")
        client.api.post(f"/v1/batches/{batch}/cancel")
        time.sleep(2.0)
    return {
        "batch_rows_per_second": round(pace),
        "single_row_requests_per_second": round(single),
        "rows_per_second_in_requests_of_100": round(hundred),
        "p50_ms": quantiles(quiet, busy, 0.5),
        "p99_ms": quantiles(quiet, busy, 0.99),
    }


def quantiles(quiet: list[float], busy: list[float], q: float) -> dict[str, float]:
    made = {"without": quiet, "with": busy}
    return {name: round(float(np.quantile(one, q)) * 1e3, 3) for name, one in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    with platform() as client:
        found = measure(client)
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<36} {value}")


if __name__ == "__main__":
    main()
