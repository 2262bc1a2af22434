"""`python supervise.py SECONDS ARGV...`: a program with a time limit, and no rest.

Whatever the program started is ended with it, also what left its session: this process adopts the
orphans of its descendants. It ends all of them, too, when whoever started it is gone, and when it
is told to end. Exit: the program's own; 124 after the time is over, 127 if it can't be started, 143
if it was told to end. Imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
TIMED_OUT, NOT_STARTED, ENDED = 124, 127, 143
_POLL_SECONDS = 0.02
_ROUNDS = 200


def command(argv: Sequence[str], seconds: float) -> list[str]:
    """The command line that runs `argv` supervised."""
    return [sys.executable, "-IS", __file__, f"{seconds:.3f}", *argv]


def main() -> int:
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)  # Ctrl-C in the platform's terminal reaches this group
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        return NOT_STARTED
    end = time.monotonic() + float(sys.argv[1])
    try:
        program = subprocess.Popen(sys.argv[2:], start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"{sys.argv[2]} can't be started: {error.strerror}\n")
        return NOT_STARTED
    code = TIMED_OUT
    while time.monotonic() < end:
        found = program.poll()
        if found is not None:
            code = 128 - found if found < 0 else found
            break
        time.sleep(_POLL_SECONDS)
    clear()
    return code


def _end(_number: int, _frame: object) -> None:
    clear()
    os._exit(ENDED)


def clear() -> None:
    """Kill all that is left below us, until nothing is."""
    for _ in range(_ROUNDS):
        below = descendants(os.getpid())
        if not below:
            return
        for pid in below:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(_POLL_SECONDS)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    border = [pid]
    while border:
        one = border.pop()
        with suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                with suppress(OSError), open(f"/proc/{one}/task/{task}/children") as file:
                    children = [int(word) for word in file.read().split()]
                    found += children
                    border += children
    return found


if __name__ == "__main__":
    sys.exit(main())
