"""Each process is killed under load, one kind after the other: how long until it is back?"""

from __future__ import annotations

import http.client
import os
import signal
import statistics
import threading
import time
from dataclasses import dataclass
from functools import partial

from faults.fleet import MODEL, body, headers, pids, until

PARTS = ("control-plane", "collector", "agent", "gateway", "worker")
CONNECTIONS = 8
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Repair:
    part: str
    kills: int
    median_s: float
    worst_s: float
    longest_gap_s: float
    """between two good answers, over all connections"""
    requests: int
    failed: int


class Load:
    """Keep-alive connections, each in a thread, one request after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._body, self._headers = body(), headers()
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


def others(part: str, gone: int, count: int) -> bool:
    """Is everything ready again, without the process that was killed?"""
    now = pids(part)
    return len(now) == count and gone not in now


def measure(part: str, kills: int, port: int) -> Repair:
    took: list[float] = []
    with Load(port) as load:
        for turn in range(kills):
            until(partial(pids, part))
            time.sleep(SETTLE_SECONDS)
            before = pids(part)
            victim = before[turn % len(before)]
            begun = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            until(partial(others, part, victim, len(before)))
            took.append(time.monotonic() - begun)
        time.sleep(SETTLE_SECONDS)
    return Repair(
        part,
        kills,
        statistics.median(took),
        max(took),
        load.gap,
        load.good + load.failed,
        load.failed,
    )
