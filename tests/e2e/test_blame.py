"""Whose fault was it that a worker died? Killed from outside, it was no request's: all are run
again. Killed by a request, that one is refused, and no other worker has to die of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from killers import CRASH, EXIT, HANG, Killer
from load import Load, rows
from running import SETTINGS, Answer, Platform, eventually, say
from zoo import EXAMPLE

from modelfleet.telemetry.evidence import EvidenceReader
from modelfleet_worker.wire.segment import CRASHED

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("e2e-blame"),
]
KILLER, NEIGHBOUR = "killer", "neighbour"
TIMEOUT = "request_timeout_ms = 3000\n"


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    made = Platform(SETTINGS.replace("[serving]\n", f"[serving]\n{TIMEOUT}"))
    try:
        made.up()
        for name in (KILLER, NEIGHBOUR):
            made.serve(name, Killer(), EXAMPLE)
        yield made
    finally:
        made.end()


@pytest.fixture
def neighbour(platform: Platform) -> Iterator[Load]:
    """Somebody who uses another model of the same pool all the while, without a failure."""
    both_ready(platform)
    with platform.load(NEIGHBOUR, rows(3), connections=4, pause=0.02) as load:
        load.wait_for(20)
        yield load
        load.wait_for(20)
    assert load.tally.bad == 0, f"{load.tally}"


def both_ready(platform: Platform) -> list[int]:
    """Pids of the two workers, once the gateway knows both of them to be well."""
    pids = eventually(lambda: found if len(found := platform.workers()) == 2 else None, 60)
    platform.until_gateway_has(*platform.observed()["pools"], healthy=2)
    return pids


def crashes(platform: Platform) -> dict[str, int]:
    """Requests that brought a worker down, by model, as the collector counted them."""
    indexes = {name: platform.client.version(name).index for name in (KILLER, NEIGHBOUR)}
    reader = EvidenceReader(platform.layout().evidence_database)
    try:
        totals = reader.totals()
    finally:
        reader.close()
    return {
        name: totals[index].codes.get(CRASHED, 0) if index in totals else 0
        for name, index in indexes.items()
    }


def provoke(platform: Platform, trigger: float) -> Answer:
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [trigger, 0.0, 0.0]}
    return platform.ask(KILLER, {"inputs": [tensor]})


def adopted(platform: Platform) -> list[int]:
    """Workers that the present agent has not started itself: it can't wait for their end."""
    before = both_ready(platform)
    platform.until_back("agent", platform.kill("agent"))
    assert sorted(both_ready(platform)) == sorted(before)
    return before


@pytest.mark.parametrize("trigger", [EXIT, CRASH], ids=["exit", "crash"])
def test_a_request_that_kills_is_refused_and_kills_one_worker(
    platform: Platform, neighbour: Load, trigger: float
) -> None:
    before, counted = both_ready(platform), crashes(platform)
    answer = provoke(platform, trigger)
    assert answer.status == 500, answer
    assert answer.body == {"error": "this request stopped the worker that ran it before"}
    after = eventually(lambda: gone if (gone := {*before} - {*platform.workers()}) else None)
    assert len(after) == 1
    assert {*both_ready(platform)} & {*before}  # the other one lives
    eventually(lambda: crashes(platform)[KILLER] == counted[KILLER] + 1)
    assert crashes(platform)[NEIGHBOUR] == counted[NEIGHBOUR]


def test_a_request_that_kills_a_worker_of_an_earlier_agent_is_refused(platform: Platform) -> None:
    before = adopted(platform)
    assert provoke(platform, CRASH).status == 500
    eventually(lambda: {*before} - {*platform.workers()})
    assert len({*both_ready(platform)} & {*before}) == 1


def test_the_third_crash_puts_the_version_in_quarantine(
    platform: Platform, neighbour: Load
) -> None:
    """Until somebody releases it, it is not run; its neighbours do not notice."""
    while crashes(platform)[KILLER] < 3:
        before = crashes(platform)[KILLER]
        both_ready(platform)
        assert provoke(platform, EXIT).status == 500
        eventually(lambda known=before: crashes(platform)[KILLER] > known)

    def refused() -> bool:
        answer = provoke(platform, 0.0)
        return answer.status == 500 and "in quarantine: it brought" in answer.body["error"]

    eventually(refused)
    both_ready(platform)
    listed = platform.run("quarantine", "list")
    assert KILLER in listed.stdout, listed
    version = platform.client.version(KILLER).version
    assert platform.run("quarantine", "release", KILLER, version).returncode == 0
    eventually(lambda: provoke(platform, 0.0).status == 200)


def test_killed_workers_of_an_earlier_agent_fail_no_request(platform: Platform) -> None:
    """All of them are busy with requests when they are killed."""
    victims = adopted(platform)
    with platform.load(NEIGHBOUR, rows(3), connections=16) as load:
        for victim in victims:
            both_ready(platform)
            load.wait_for(100)
            os.kill(victim, signal.SIGKILL)
            eventually(lambda gone=victim: gone not in platform.workers())
        both_ready(platform)
        load.wait_for(100)
    assert load.tally.bad == 0, f"{load.tally}"


def test_a_storm_of_kills_fails_no_request(platform: Platform) -> None:
    """Without a pause but for the second worker to come back."""
    kills, began, counted = 20, time.monotonic(), crashes(platform)
    with platform.load(NEIGHBOUR, rows(3), connections=16) as load:
        for turn in range(kills):
            victim = both_ready(platform)[turn % 2]
            os.kill(victim, signal.SIGKILL)
            eventually(lambda gone=victim: gone not in platform.workers())
            assert load.tally.bad == 0, f"kill {turn}: {load.tally}"
        both_ready(platform)
        load.wait_for(100)
    assert load.tally.bad == 0, f"{load.tally}"
    took = time.monotonic() - began
    assert crashes(platform) == counted
    say(f"{kills} kills in {took:.0f} s: {load.tally.good} answers, none failed")


def test_a_worker_with_a_model_that_hangs_is_replaced(platform: Platform, neighbour: Load) -> None:
    before = both_ready(platform)
    began = time.monotonic()
    assert provoke(platform, HANG).status == 504
    gone = eventually(lambda: found if (found := {*before} - {*platform.workers()}) else None, 90)
    say(f"a worker that hung was replaced after {time.monotonic() - began:.1f} s")
    assert len(gone) == 1
    assert {*both_ready(platform)} & {*before}
    assert provoke(platform, 0.0).status == 200
