"""Programs with a time limit: none of what they started outlives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelfleet.core import supervise

# A child that left the session of the program, as daemons do.
PROGRAM = """\
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                         start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(60)
"""


def start(tmp_path: Path, seconds: float) -> tuple[subprocess.Popen[bytes], int]:
    """The supervisor, and the pid of the program's child."""
    told = tmp_path / "pid"
    argv = [sys.executable, "-c", PROGRAM, str(told)]
    process = subprocess.Popen(supervise.command(argv, seconds))
    deadline = time.monotonic() + 10
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, int(told.read_text())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_ends_all_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    process, child = start(tmp_path, 60)
    process.send_signal(number)
    assert process.wait(10) == supervise.ENDED
    assert not is_alive(child)


def test_after_its_time_all_is_ended(tmp_path: Path) -> None:
    process, child = start(tmp_path, 1.0)
    assert process.wait(10) == supervise.TIMED_OUT
    assert not is_alive(child)


def test_the_programs_own_end() -> None:
    def code(*argv: str) -> int:
        return subprocess.run(supervise.command(argv, 10), capture_output=True).returncode

    assert code(sys.executable, "-c", "raise SystemExit(3)") == 3
    assert code("/nowhere/at/all") == supervise.NOT_STARTED
