"""What a pipeline costs beside its models: one step, three in a row, three side by side.

Each pipeline is compared with a client that calls the same models itself, one after the other over
a kept connection, as one has to without pipelines. Interleaved rounds on one platform.

    make bench-pipelines                    a table
    make bench-pipelines ARGS=--json        one JSON document
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from sklearn.linear_model import LinearRegression

from modelfleet.client import Client

HOME = Path(".bench").resolve() / "pipelines"
MODELS = ("first", "second", "third")
ROW = [0.1, 0.2, 0.3]
ROUNDS = 5


@dataclass
class Result:
    shape: str
    clients: int
    way: str
    """`pipeline`, or `by hand`: the client calls the models one after the other"""
    p50_ms: float
    p99_ms: float
    requests_per_second: float
    executors_us: float
    gateway_us: float
    """CPU per request"""


@contextmanager
def platform() -> Iterator[tuple[int, str]]:
    """Port of the gateway and key."""
    shutil.rmtree(HOME, ignore_errors=True)
    up = subprocess.Popen(
        [sys.executable, "-m", "modelfleet.cli.main", "up", "--home", str(HOME)]
        + ["--port", "0", "--gateway-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert up.stdout is not None
    try:
        for line in up.stdout:
            if line.startswith("Key"):
                break
        rng = np.random.default_rng(0)
        x = rng.normal(size=(200, 3))
        with Client(home=HOME) as client:
            for k, name in enumerate(MODELS):
                model = LinearRegression().fit(x, x @ rng.normal(size=3) + k)
                client.register(model, x, name=name, team="bench", wait=True)
                client.deploy(name, wait=True)
            for name, steps in shapes().items():
                last = [step["name"] for step in steps]
                outputs = {f"o{k}": f"{one}.prediction" for k, one in enumerate(last)}
                client.define_pipeline(
                    {
                        "name": name,
                        "team": "bench",
                        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}],
                        "steps": steps,
                        "outputs": outputs,
                    },
                    wait=True,
                )
        ports = json.loads((HOME / "run" / "ports.json").read_text())
        yield ports["gateway"], (HOME / "admin.key").read_text().strip()
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()


def shapes() -> dict[str, list[dict[str, object]]]:
    def step(k: int, source: object) -> dict[str, object]:
        return {"name": f"s{k}", "model": MODELS[k], "inputs": {"x": source}}

    def after(k: int) -> object:
        columns = [{"select": "input.x", "column": column} for column in (1, 2)]
        return {"concat": [f"s{k}.prediction", *columns]}

    return {
        "one": [step(0, "input.x")],
        "three-in-a-row": [step(0, "input.x"), step(1, after(0)), step(2, after(1))],
        "three-side-by-side": [step(k, "input.x") for k in range(3)],
    }


class Caller:
    """One client with a connection that it keeps."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    def ask(self, endpoint: str, row: Sequence[float]) -> float:
        tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": list(row)}
        body = json.dumps({"inputs": [tensor]})
        self._connection.request("POST", f"/v2/models/{endpoint}/infer", body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return float(json.loads(content)["outputs"][-1]["data"][0])

    def by_hand(self, shape: str) -> float:
        if shape == "one":
            return self.ask("first", ROW)
        value = ROW[0]
        for name in MODELS:
            value = self.ask(name, [value if shape == "three-in-a-row" else ROW[0], *ROW[1:]])
        return value


def measure(
    port: int, key: str, clients: int, seconds: float, what: Callable[[Caller], float]
) -> tuple[list[float], float]:
    """Latencies in milliseconds, and requests per second."""
    found: list[list[float]] = [[] for _ in range(clients)]
    end = time.monotonic() + seconds

    def work(mine: list[float]) -> None:
        caller = Caller(port, key)
        while (began := time.monotonic()) < end:
            what(caller)
            mine.append((time.monotonic() - began) * 1000)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    merged = [one for mine in found for one in mine]
    return merged, len(merged) / seconds


def cpu_seconds() -> tuple[float, float]:
    """Of both executors, and of the gateway."""
    processes = json.loads((HOME / "run" / "observed.json").read_text())["processes"]

    def of(name: str) -> float:
        return sum(psutil.Process(processes[name]["pid"]).cpu_times()[:2])

    return of("pipelines-0") + of("pipelines-1"), of("gateway")


def run(seconds: float) -> Iterator[Result]:
    with platform() as (port, key):
        caller = Caller(port, key)
        for shape in shapes():
            by_hand, piped = caller.by_hand(shape), caller.ask(shape, ROW)
            assert abs(by_hand - piped) < 1e-9, (shape, by_hand, piped)
        for clients in (1, 8):
            for shape in shapes():
                ways: dict[str, Callable[[Caller], float]] = {
                    "by hand": lambda one, shape=shape: one.by_hand(shape),
                    "pipeline": lambda one, shape=shape: one.ask(shape, ROW),
                }
                taken: dict[str, list[float]] = {way: [] for way in ways}
                rates: dict[str, list[float]] = {way: [] for way in ways}
                spent = {way: [0.0, 0.0] for way in ways}
                for _ in range(ROUNDS):
                    for way, what in ways.items():
                        before = cpu_seconds()
                        latencies, rate = measure(port, key, clients, seconds, what)
                        for k, (now, then) in enumerate(zip(cpu_seconds(), before, strict=True)):
                            spent[way][k] += now - then
                        taken[way] += latencies
                        rates[way].append(rate)
                for way in ways:
                    ordered = sorted(taken[way])
                    yield Result(
                        shape,
                        clients,
                        way,
                        statistics.median(ordered),
                        ordered[int(len(ordered) * 0.99)],
                        statistics.median(rates[way]),
                        *(seconds_ / len(ordered) * 1e6 for seconds_ in spent[way]),
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of the five rounds")
    arguments = parser.parse_args()
    results = list(run(arguments.seconds))
    if arguments.json:
        print(json.dumps([asdict(one) for one in results], indent=2))
        return
    print(
        f"{'shape':<20} {'clients':>7}  {'way':<9} {'p50 ms':>7} {'p99 ms':>7} {'req/s':>7} "
        f"{'executors us':>12} {'gateway us':>10}"
    )
    for one in results:
        print(
            f"{one.shape:<20} {one.clients:>7}  {one.way:<9} {one.p50_ms:>7.2f} "
            f"{one.p99_ms:>7.2f} {one.requests_per_second:>7.0f} "
            f"{one.executors_us:>12.0f} {one.gateway_us:>10.0f}"
        )


if __name__ == "__main__":
    main()
