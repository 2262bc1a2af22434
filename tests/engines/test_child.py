"""One supervised process, step by step."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_support import wait_until

from modelfleet.engines.local import Files, ProcessSpec
from modelfleet.engines.local.child import Child
from modelfleet.engines.local.processes import Record, boot_id, myself, start_time

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[Child]]:
    found: list[Child] = []
    yield found
    for child in found:
        if child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)


def settled(child: Child, state: str) -> bool:
    child.step()
    return child.state == state


def test_only_a_killing_by_others_acquits_what_was_running(
    tmp_path: Path, made: list[Child]
) -> None:
    murders: list[int] = []
    child = Child(
        ProcessSpec("x", SLEEP), Files(tmp_path, tmp_path), on_murder=lambda: murders.append(1)
    )
    made.append(child)
    child.start()
    ends: list[tuple[Callable[[int], None], str]] = [
        (lambda pid: os.kill(pid, signal.SIGKILL), "killed by SIGKILL"),
        (lambda pid: os.kill(pid, signal.SIGSEGV), "killed by SIGSEGV"),
        (lambda pid: child.kill("no heartbeat"), "no heartbeat"),
    ]
    for end, reason in ends:
        wait_until(lambda: settled(child, "ready"), "it")
        pid = child.pid
        assert pid is not None
        end(pid)
        wait_until(lambda: not settled(child, "ready"), "its end")
        assert child.last_exit == reason
        assert len(murders) == 1


def test_it_is_ready_once_its_port_accepts(tmp_path: Path, made: list[Child]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", int(listener.getsockname()[1]))
        child = Child(ProcessSpec("x", SLEEP, ready_at=address), Files(tmp_path, tmp_path))
        made.append(child)
        child.start()
        wait_until(lambda: settled(child, "starting") and child.pid, "the start")
        child.step()
        assert child.state == "starting"
        listener.listen()
        wait_until(lambda: settled(child, "ready"), "readiness")


def test_a_start_that_fails_is_tried_again_later_and_later(tmp_path: Path) -> None:
    moment = [100.0]
    spec = ProcessSpec("x", (str(tmp_path / "no-such-program"),))
    child = Child(spec, Files(tmp_path, tmp_path), now=lambda: moment[0])
    child.start()
    starts: list[float] = []
    while moment[0] < 160.0:
        before = child.restarts
        child.step()
        if child.restarts > before:
            starts.append(moment[0])
        moment[0] += 0.05
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps[0] == pytest.approx(0.1, abs=0.06)
    assert gaps[1] == pytest.approx(0.1, abs=0.06)
    assert gaps[2] == pytest.approx(0.25, abs=0.06)
    assert max(gaps) <= 15.1
    assert "FileNotFoundError" in child.last_exit


def test_a_process_is_known_by_more_than_its_pid() -> None:
    me = myself("me")
    assert me.alive()
    other = Record("me", me.pid, me.start + 1, me.boot, 0, "")
    assert not other.alive()
    assert not Record("me", me.pid, me.start, "another boot", 0, "").alive()
    other.signal(signal.SIGKILL)  # goes to nobody
    assert start_time(os.getpid()) == me.start
    assert boot_id() == me.boot
