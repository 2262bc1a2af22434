"""The foreground process: a small parent that brings the agent back.

It adopts orphans (so that whatever the agent left is reaped), passes on the wish to stop, and
makes sure at the end that nothing is left. Its own violent death stops nothing but the gateway,
for a moment: the agent serves on.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from modelfleet.core.errors import Conflict, Unavailable
from modelfleet.core.files import hold
from modelfleet.engines.local import locks
from modelfleet.engines.local.processes import Files, myself, write_record
from modelfleet.engines.local.stop import sweep

_PR_SET_CHILD_SUBREAPER = 36
_STOP_SECONDS = 30.0
_HEALTHY_SECONDS = 5.0
_MOURNING_SECONDS = 0.05
"""how long a dead orphan stays, so that the agent can see how it ended"""
_LONGEST_WAIT = 2.0
_ALREADY = "modelfleet already runs on this home."
_HINT = "See modelfleet status; end it with modelfleet down."
_TOO_MANY = 10
"""starts in a row that did not live for five seconds"""


def refuse_if_served(files: Files) -> None:
    """Raises `Conflict` if a keeper or an agent holds this home."""
    if locks.held(files.keeper_lock) or locks.held(files.agent_lock):
        raise Conflict(_ALREADY, hint=_HINT)


def keep(
    argv: Sequence[str],
    files: Files,
    env: Mapping[str, str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Run the agent `argv` until SIGINT or SIGTERM, or until the agent has stopped on request.

    tick: called about ten times a second. Raises `Conflict` if this home is already served.
    """
    refuse_if_served(files)
    lock = hold(files.keeper_lock)
    if lock is None:
        raise Conflict(_ALREADY, hint=_HINT)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    write_record(files.keeper, myself("keeper"))
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # The caller may be started as something else later on: put its handlers back.
    before = {n: signal.signal(n, lambda number, _: asked.append(number)) for n in numbers}
    try:
        _watch(argv, files, env, tick, asked)
    finally:
        sweep(files)
        _reap_orphans()
        for number, handler in before.items():
            signal.signal(number, handler)
        files.keeper.unlink(missing_ok=True)
        os.close(lock)


def _watch(
    argv: Sequence[str],
    files: Files,
    env: Mapping[str, str] | None,
    tick: Callable[[], None],
    asked: list[int],
) -> None:
    failures = 0
    while not asked:
        started = time.monotonic()
        log = files.log("agent")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            agent = subprocess.Popen(
                list(argv),
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        with os.fdopen(os.pidfd_open(agent.pid)) as handle:
            while agent.poll() is None and not asked:
                tick()
                _reap_orphans(agent.pid, _MOURNING_SECONDS)
                select.select([handle], [], [], 0.1)
        if asked:
            _stop(agent, asked)
            return
        if agent.returncode == 0:
            return
        failures = failures + 1 if time.monotonic() - started < _HEALTHY_SECONDS else 0
        if failures > _TOO_MANY:
            raise Unavailable(f"The host agent does not start; see {log}.")
        sys.stderr.write(f"modelfleet: the host agent ended; starting it again ({log})\n")
        if failures:
            time.sleep(min(0.05 * 2**failures, _LONGEST_WAIT))


def _stop(agent: subprocess.Popen[bytes], asked: list[int]) -> None:
    """Pass the wish on; a second one makes the agent hurry."""
    passed = 0
    deadline = time.monotonic() + _STOP_SECONDS
    while agent.poll() is None:
        if passed < len(asked):
            passed += 1
            agent.send_signal(signal.SIGTERM)
        if time.monotonic() > deadline:
            agent.kill()
        _reap_orphans(agent.pid)
        time.sleep(0.02)


def _reap_orphans(but: int = 0, mourning: float = 0.0) -> None:
    """Collect the dead among our adopted children; the agent itself is left to its `Popen`."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == but:
            return
        time.sleep(mourning)
        os.waitpid(found.si_pid, 0)
