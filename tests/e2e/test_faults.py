"""Processes die; requests don't."""

from __future__ import annotations

import json
import os
import pwd
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from load import Load, rows
from running import Platform, eventually, processes_of, say
from zoo import EXAMPLE, Linear, Scarce, Spy

from modelfleet.serving.gateway import GatewayFiles, admin
from modelfleet.telemetry.evidence import EvidenceReader

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-faults")]
NAME = "steady"
REPAIR_SECONDS = 3.0
"""promised for the gateway and the host agent"""


@pytest.fixture(scope="module")
def served(platform: Platform) -> Platform:
    platform.serve(NAME, Linear(), EXAMPLE, reference=EXAMPLE)
    return platform


@pytest.fixture
def load(served: Platform) -> Iterator[Load]:
    with served.load(NAME, rows(3)) as made:
        made.wait_for(100)
        yield made


def assert_unharmed(load: Load) -> None:
    load.wait_for(100)
    assert load.tally.bad == 0, f"{load.tally}"


def two_workers(platform: Platform) -> list[int]:
    """Their pids, once both are ready and the gateway knows it."""
    found = eventually(lambda: pids if len(pids := platform.workers()) == 2 else None)
    platform.until_gateway_has(*platform.observed()["pools"], healthy=2)
    return found


def test_the_control_plane_is_killed(served: Platform, load: Load) -> None:
    before = served.kill("control-plane")
    served.until_back("control-plane", before)
    assert served.client.model(NAME).name == NAME
    assert_unharmed(load)


def test_the_gateway_is_killed(served: Platform, load: Load) -> None:
    before = served.kill("gateway")
    eventually(lambda: load.tally.bad > 0)
    load.wait_for(100)
    say(f"gateway killed: {load.tally.longest_gap:.2f} s without an answer")
    assert load.tally.longest_gap < REPAIR_SECONDS
    served.until_back("gateway", before)


def test_the_host_agent_is_killed(served: Platform, load: Load) -> None:
    workers = sorted(served.workers())
    began = time.monotonic()
    before = served.kill("agent")
    served.until_back("agent", before)
    took = time.monotonic() - began
    say(f"agent killed: ready again after {took:.2f} s")
    assert took < REPAIR_SECONDS
    assert sorted(served.workers()) == workers
    assert_unharmed(load)


def test_the_host_agent_is_restarted(served: Platform, load: Load) -> None:
    workers = sorted(served.workers())
    done = served.run("restart")
    assert done.returncode == 0, done.stderr
    eventually(lambda: served.run("status").returncode == 0)
    assert sorted(served.workers()) == workers
    assert_unharmed(load)


def counted(platform: Platform) -> int:
    """Predictions that the collector has counted so far."""
    reader = EvidenceReader(platform.layout().evidence_database)
    try:
        return sum(total.requests for total in reader.totals().values())
    finally:
        reader.close()


def settled(platform: Platform) -> int:
    """The count once it has not changed for two seconds."""
    seen, since = counted(platform), time.monotonic()
    while time.monotonic() - since < 2.0:
        time.sleep(0.1)
        if (now := counted(platform)) != seen:
            seen, since = now, time.monotonic()
    return seen


def test_the_collector_is_killed_and_counts_each_prediction_once(served: Platform) -> None:
    two_workers(served)
    before = settled(served)
    with served.load(NAME, rows(3)) as load:
        for _ in range(3):
            load.wait_for(200)
            served.until_back("collector", served.kill("collector"))
        load.wait_for(200)
    assert load.tally.bad == 0, f"{load.tally}"
    eventually(lambda: counted(served) >= before + load.tally.good)
    assert settled(served) == before + load.tally.good


def test_what_a_model_can_not_answer_is_refused_by_the_gateway(served: Platform) -> None:
    """Two workers answer a hundred a second; six times as many are asked, by one caller."""
    served.serve("scarce", Scarce(), EXAMPLE)
    served.client.api.patch("/v1/endpoints/scarce/traffic", {"timeout_ms": 500})
    gateway, admin_socket = GatewayFiles(served.layout()), served.layout().gateway_admin_socket

    def refused_there() -> int:
        found = admin.statistics(admin_socket, "^shed.http_local_rate_limit.rate_limited$")
        return sum(map(int, (found or {}).values()))

    with served.load("scarce", rows(3), connections=64, pause=0.1) as load:
        (share,) = eventually(gateway.shares)
        assert share.endpoint == "scarce"
        time.sleep(3.0)
        before, there, began = load.tally.statuses.copy(), refused_there(), time.monotonic()
        time.sleep(4.0)
        refused, there = load.tally.statuses[429] - before[429], refused_there() - there
        good = (load.tally.good - before[200]) / (time.monotonic() - began)
        said = served.run("gateway", "explain", "scarce").stdout
        told = json.loads(served.run("gateway", "explain", "scarce", "--json").stdout)
        fleet: Any = served.client.fleet()
        (row,) = [one for one in fleet["rows"] if one["endpoint"] == "scarce"]
        alert = eventually(lambda: overload_of(served, "scarce"), 15)
    say(f"overload: {good:.0f} of 100 a second, {there} of {refused} refusals by the gateway")
    assert good >= 70
    assert there >= 0.7 * refused > 0
    assert "for now each caller gets" in " ".join(said.split())
    assert "overload: beyond the caller's fair share" in said
    assert "overloaded since 20" in said
    assert told["refusals"]["known"]
    assert told["refusals"]["reasons"][0]["reason"] == "overload"
    for shed in (told["refusals"]["shed"], row["shed"]):
        assert shed["refused_per_second"] > 50
        assert shed["of_a_caller_per_second"] < 400
    assert "is asked for more than" in alert
    eventually(lambda: not gateway.shares(), 20)
    eventually(lambda: refused_by_metrics(served, "scarce", "overload") == refused_there())


def overload_of(platform: Platform, endpoint: str) -> str:
    """What its alert says, be it pending or firing."""
    found: Any = platform.client.api.get("/v1/alerts")
    return next((one["summary"] for one in found if one["endpoint"] == endpoint), "")


def refused_by_metrics(platform: Platform, endpoint: str, reason: str) -> int:
    with urlopen(f"http://127.0.0.1:{platform.ports()['metrics']}/metrics") as page:
        text = page.read().decode()
    name = "modelfleet_gateway_refused_total"
    (value,) = re.findall(rf'{name}{{endpoint="{endpoint}",reason="{reason}"}} (\d+)', text)
    return int(value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up privileges")
def test_model_code_runs_without_privileges_and_sees_no_keys(served: Platform) -> None:
    served.serve("spy", Spy(str(served.home)), EXAMPLE)
    answer = served.client.predict("spy", EXAMPLE[:1].tolist())
    outputs = {one["name"]: one["data"] for one in answer["outputs"]}
    assert outputs["found"] == [0.0]
    assert outputs["user"] == [float(pwd.getpwnam("nobody").pw_uid)]
    for pid in served.workers():
        assert Path(f"/proc/{pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid


def test_down_leaves_nothing_behind(served: Platform) -> None:
    assert len(processes_of(served.home)) >= 6
    done = served.run("down")
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: not processes_of(served.home), 15)
    assert served.run("status").returncode == 1
