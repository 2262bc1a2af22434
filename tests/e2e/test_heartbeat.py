"""Somebody hears when the platform is silent: a real listener, a real modelfleet."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import SETTINGS, Platform, eventually, say

sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
from test_heartbeat import Listener

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-heartbeat")]
PING, FAIL = "/ping/3f2b", "/ping/3f2b/fail"


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture(scope="module")
def platform(listener: Listener) -> Iterator[Platform]:
    more = f'\n[heartbeat]\nurl = "{listener.url}{PING}"\ninterval_seconds = 0.5\n'
    made = Platform(SETTINGS + more)
    try:
        made.up()
        yield made
    finally:
        made.end()


def until_pinged(listener: Listener) -> None:
    listener.heard.clear()
    eventually(lambda: [path for path, _ in listener.heard].count(PING) >= 2, 30)


def get(port: int, path: str, key: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"authorization": f"Bearer {key}"} if key else {})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_pings_come_and_metrics_tell(platform: Platform, listener: Listener) -> None:
    until_pinged(listener)
    _, text = get(platform.ports()["metrics"], "/metrics")
    lines = dict(line.split(" ") for line in text.decode().splitlines() if line.startswith("model"))
    assert lines["modelfleet_watchdog"] == "1"
    assert time.time() - float(lines["modelfleet_heartbeat_timestamp_seconds"]) < 10


def test_health_is_public_and_its_details_are_not(platform: Platform) -> None:
    api = platform.ports()["api"]
    assert get(api, "/v1/health") == (200, b'{"status":"ok"}')
    assert get(api, "/v1/health/details")[0] == 401
    status, body = get(api, "/v1/health/details", platform.key)
    found = json.loads(body)
    assert (status, found["status"]) == (200, "ok")
    assert {p["name"] for p in found["parts"]} == {"api", "gateway", "collector", "reconciler"}


@pytest.mark.parametrize(
    ("process", "part"),
    [("collector", "collector"), ("control-plane", "api"), ("gateway", "gateway")],
)
def test_who_hangs_is_told(platform: Platform, listener: Listener, process: str, part: str) -> None:
    until_pinged(listener)
    pid = platform.pid_of(process)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        eventually(lambda: any(path == FAIL for path, _ in listener.heard), 60)
        say(f"{process} hangs: told after {time.monotonic() - began:.1f} s")
        reason = next(text for path, text in listener.heard if path == FAIL)
        assert f"{part}: no answer" in reason
        listener.heard.clear()
        time.sleep(3)
        assert PING not in [path for path, _ in listener.heard]  # silence, but for failures
        if process == "collector":
            assert get(platform.ports()["api"], "/v1/health") == (503, b'{"status":"trouble"}')
    finally:
        os.kill(pid, signal.SIGCONT)
    until_pinged(listener)


def test_a_collector_that_can_not_start_again_is_told(
    platform: Platform, listener: Listener
) -> None:
    """It comes back, and dies again: its database is none."""
    until_pinged(listener)
    database, aside = platform.home / "evidence.db", platform.home / "aside.db"
    os.rename(database, aside)
    database.mkdir()
    try:
        platform.kill("collector")
        eventually(lambda: any(path == FAIL for path, _ in listener.heard), 60)
        assert "collector" in next(text for path, text in listener.heard if path == FAIL)
    finally:
        database.rmdir()
        os.rename(aside, database)
    until_pinged(listener)


def test_a_listener_that_hangs_harms_nobody(platform: Platform, listener: Listener) -> None:
    heartbeat = platform.pid_of("heartbeat")
    os.kill(heartbeat, signal.SIGSTOP)
    try:
        eventually(lambda: platform.run("status").returncode == 0)
        platform.kill("collector")
        eventually(lambda: _restarted(platform.observed()))  # the agent does what it does
    finally:
        os.kill(heartbeat, signal.SIGCONT)
    before = platform.kill("heartbeat")
    platform.until_back("heartbeat", before)
    until_pinged(listener)


def _restarted(observed: Any) -> bool:
    found = observed["processes"]["collector"]
    return found["state"] == "ready" and found["restarts"] >= 1
