"""Processes are killed under load, one kind after the other: how long until each is back, how long
did clients get no answer, how many requests failed?

    make bench-faults                       a table
    make bench-faults ARGS='--json'         one JSON document
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from modelfleet.client import Client
from modelfleet.core.layout import Layout
from modelfleet.host import status

HOME = Path(".bench/faults").resolve()
MODEL = "steady"
PARTS = ("control-plane", "collector", "agent", "gateway", "worker")
CONNECTIONS = 8
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Result:
    part: str
    kills: int
    repair_median_s: float
    repair_worst_s: float
    longest_gap_s: float
    """between two good answers, over all connections"""
    requests: int
    failed: int


class Load:
    """Keep-alive connections, each in a thread, one request after the other."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        tensor = {"name": "x", "datatype": "FP64", "shape": [1, 4], "data": [0.1, 0.2, 0.3, 0.4]}
        self._body = json.dumps({"inputs": [tensor]})
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self.good = self.failed = 0
        self.gap = 0.0
        self._threads = [threading.Thread(target=self._run) for _ in range(CONNECTIONS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._ending.is_set():
            try:
                connection.request("POST", f"/v2/models/{MODEL}/infer", self._body, self._headers)
                answer = connection.getresponse()
                answer.read()
                good = answer.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                good = False
                time.sleep(0.01)
            with self._lock:
                now = time.monotonic()
                if good:
                    self.good += 1
                    self.gap = max(self.gap, now - self._last)
                    self._last = now
                else:
                    self.failed += 1
        connection.close()


@contextmanager
def platform() -> Iterator[Client]:
    shutil.rmtree(HOME, ignore_errors=True)
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
        rng = np.random.default_rng(0)
        x = rng.normal(size=(400, 4))
        model = LogisticRegression().fit(x, x[:, 0] > 0)
        with Client(home=HOME) as client:
            client.register(model, x, name=MODEL, team="bench", reference=x, wait=True)
            client.deploy(MODEL, wait=True)
            yield client
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()


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


def others(part: str, gone: int, count: int) -> bool:
    """Is everything ready again, without the process that was killed?"""
    now = pids(part)
    return len(now) == count and gone not in now


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not what():
        if time.monotonic() > end:
            raise SystemExit("a process did not come back within a minute")
        time.sleep(0.02)


def measure(part: str, kills: int, port: int, key: str) -> Result:
    took: list[float] = []
    with Load(port, key) as load:
        for turn in range(kills):
            until(partial(pids, part))
            time.sleep(SETTLE_SECONDS)
            before = pids(part)
            victim = before[turn % len(before)]
            begun = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            until(partial(others, part, victim, len(before)))
            took.append(time.monotonic() - begun)
            sys.stderr.write(".")
            sys.stderr.flush()
        time.sleep(SETTLE_SECONDS)
    return Result(
        part,
        kills,
        statistics.median(took),
        max(took),
        load.gap,
        load.good + load.failed,
        load.failed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kills", type=int, default=10, help="of each process")
    given = parser.parse_args()
    with platform():
        port = json.loads((HOME / "run" / "ports.json").read_text())["gateway"]
        key = (HOME / "admin.key").read_text().strip()
        results = [measure(part, given.kills, port, key) for part in PARTS]
    sys.stderr.write("\n")
    if given.json:
        print(json.dumps([asdict(one) for one in results]))
        return
    print("| killed | times | back after, median s | worst s | longest gap s | requests | failed |")
    print("|---|---|---|---|---|---|---|")
    for one in results:
        print(
            f"| {one.part} | {one.kills} | {one.repair_median_s:.2f} | {one.repair_worst_s:.2f} "
            f"| {one.longest_gap_s:.3f} | {one.requests:,} | {one.failed} |"
        )


if __name__ == "__main__":
    main()
