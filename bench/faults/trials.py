"""What clients feel: kills, hangs, replacement and overload, at known load."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from typing import Any

from faults.fleet import (
    HOME,
    MODEL,
    body,
    deploy,
    headers,
    pids,
    trained,
    until,
    url,
)
from modelfleet.client import Client
from wrk import Outcome, Wrk

CONNECTIONS = 64


def peak(client: Client, model: str, seconds: float = 3.0, connections: int = 16) -> float:
    """Good answers a second, as many as it takes."""
    load = Wrk(url(client, model), body(), headers(), connections=connections, seconds=seconds)
    return load.wait().good_per_second


def kills(client: Client, at: float, seconds: float) -> tuple[Outcome, int]:
    """A random worker dies every second, if another one is ready. Outcome and number of kills."""
    load = Wrk(
        url(client, MODEL),
        body(),
        headers(),
        connections=CONNECTIONS,
        seconds=seconds + 2,
        per_second=at,
    )
    time.sleep(1)
    count, end, gone = 0, time.monotonic() + seconds, 0
    while time.monotonic() < end:
        began = time.monotonic()
        until(partial(_two_ready, gone))
        gone = random.choice(pids("worker"))
        os.kill(gone, signal.SIGKILL)
        count += 1
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
    return load.wait(), count


def _two_ready(but: int) -> bool:
    """The agent may not have seen yet that the last victim is gone."""
    found = pids("worker")
    return len(found) >= 2 and but not in found


def hangs(client: Client, at: float, times: int) -> Outcome:
    """A worker stands still for 2.5 s, again and again; another one is asked after 0.3 s."""
    policy = {"per_try_timeout_ms": 300}
    client.api.patch(f"/v1/endpoints/{MODEL}/traffic", policy)
    time.sleep(1.0)
    load = Wrk(
        url(client, MODEL),
        body(),
        headers(),
        connections=CONNECTIONS,
        seconds=times * 6 + 2,
        per_second=at,
    )
    time.sleep(1)
    for turn in range(times):
        until(lambda: len(pids("worker")) >= 2)
        time.sleep(1)
        victim = pids("worker")[turn % 2]
        os.kill(victim, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(victim, signal.SIGCONT)
        time.sleep(1)
    outcome = load.wait()
    client.api.patch(f"/v1/endpoints/{MODEL}/traffic", {"per_try_timeout_ms": None})
    return outcome


def replacement(client: Client, at: float) -> Outcome:
    """Everything is restarted by turns, then three versions follow each other by blue-green."""
    load = Wrk(
        url(client, MODEL),
        body(),
        headers(),
        connections=CONNECTIONS,
        seconds=600,
        per_second=at,
    )
    command = [sys.executable, "-m", "modelfleet.cli.main", "restart", "--rolling"]
    subprocess.run([*command, "--home", str(HOME)], check=True, stderr=subprocess.DEVNULL)
    for seed in range(1, 4):
        deploy(client, MODEL, trained(seed), strategy="blue-green", bake_seconds=2.0)
    time.sleep(1)
    load.stop()
    return load.wait()


def overload(
    client: Client, name: str, model: Any, factor: float, seconds: float
) -> tuple[float, Outcome]:
    """It is asked `factor` times as often as it can answer. Peak, and outcome."""
    deploy(client, name, model)
    best = peak(client, name, seconds=5.0, connections=32)
    load = Wrk(
        url(client, name),
        body(),
        headers(**{"x-mf-timeout-ms": "250"}),
        connections=600,
        seconds=seconds,
        per_second=best * factor,
    )
    return best, load.wait()
