"""Run a program that must not outlive us: `python -m modelfleet.engines.local.guard SECONDS ARGV`.

The program and all that it starts end when it takes longer than SECONDS (exit code 124), when the
guard is told to end (SIGTERM), or when the guard's parent is gone. Orphans of the program become
children of the guard, so that none is missed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

TOOK_TOO_LONG = 124
_SUBREAPER = 36
_EVERY = 0.1
"""seconds between looks at the parent and the clock"""


def command(argv: Sequence[str], seconds: float) -> list[str]:
    """The command line that runs `argv` guarded."""
    return [sys.executable, "-P", "-m", "modelfleet.engines.local.guard", f"{seconds:g}", *argv]


def main() -> None:
    seconds, argv = float(sys.argv[1]), sys.argv[2:]
    parent, ends = os.getppid(), time.monotonic() + seconds
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    child = subprocess.Popen(argv)
    code = None
    while code is None and not told and os.getppid() == parent and time.monotonic() < ends:
        try:
            code = child.wait(_EVERY)
        except subprocess.TimeoutExpired:
            continue
    late = code is None and time.monotonic() >= ends
    _end_all()
    if code is None:
        code = TOOK_TOO_LONG if late else 128 + signal.SIGTERM
    sys.exit(code if code >= 0 else 128 - code)


def _end_all() -> None:
    """Those that are started meanwhile, too."""
    while children := psutil.Process().children(recursive=True):
        for one in children:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(children, timeout=1.0)


if __name__ == "__main__":
    main()
