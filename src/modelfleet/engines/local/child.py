"""One supervised process: started, watched, brought back, stopped.

Level-triggered: `step` looks at what is and does the next thing. A process that ends unasked is
back after a tenth of a second, in which peers can still read what it was doing; after three ends
in thirty seconds the next start waits, longer each time.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from modelfleet.core.errors import FleetError
from modelfleet.engines.engine import State
from modelfleet.engines.local.launch import launch
from modelfleet.engines.local.processes import (
    Files,
    Record,
    ended,
    out_of_memory_kills,
    read_record,
    write_record,
    zombie_status,
)
from modelfleet.engines.local.spec import ProcessSpec

_PAUSE = 0.1
_LOOP_ENDS, _LOOP_SECONDS = 3, 30.0
_MURDER = "killed by SIGKILL"
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 15.0
_LONGEST_WAIT_IF_IT_WORKED = 1.0

Now = Callable[[], float]
"""monotonic seconds"""


class Child:
    """`before_start` prepares each start; `is_ready` is asked until it says yes.

    Of `on_murder` and `on_blame` one is called after each end: the first when somebody else killed
    the process, so that what it was doing did not bring it down; else the second.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        files: Files,
        *,
        before_start: Callable[[int], None] | None = None,
        on_murder: Callable[[], None] = lambda: None,
        on_blame: Callable[[], None] = lambda: None,
        is_ready: Callable[[Record], bool] | None = None,
        now: Now = time.monotonic,
    ) -> None:
        self.spec = spec
        self.state: State = "stopped"
        self.record: Record | None = None
        self.since = 0.0
        """when it was started or adopted"""
        self.restarts = 0
        self.last_exit = ""
        self.incarnation = 0
        self._files = files
        self._before_start = before_start
        self._on_murder = on_murder
        self._on_blame = on_blame
        self._is_ready = is_ready or (lambda _: _accepts(spec.ready_at))
        self._now = now
        self._handle: int | None = None
        self._wanted = False
        self._ends: deque[float] = deque(maxlen=20)
        self._was_ready = False
        self._not_before = 0.0
        self._kill_at = 0.0
        self._reason = ""
        self._starved = 0
        self._ready_at = 0.0
        self._parting: tuple[Record, int] | None = None

    @property
    def pid(self) -> int | None:
        return self.record.pid if self.record else None

    @property
    def handle(self) -> int | None:
        """A pidfd that becomes readable when the process ends."""
        return self._handle

    @property
    def outdated(self) -> bool:
        """It runs, but not what is wanted by now, and nobody tried in vain just now."""
        if self.record is None or self._now() < self._not_before:
            return False
        return self.record.digest != self.spec.digest()

    def adopt(self) -> bool:
        """Take over what an earlier agent started. False if it is not alive."""
        record = read_record(self._files.record(self.spec.name))
        if record is None:
            return False
        self.incarnation = record.incarnation
        try:
            handle = os.pidfd_open(record.pid)
        except ProcessLookupError:
            return False
        if not record.alive():
            os.close(handle)
            return False
        self._take(record, handle)
        self._wanted = True
        return True

    def start(self) -> None:
        """Want it to run; `step` does the rest."""
        self._wanted = True

    def stop(self, reason: str = "stopped") -> None:
        """Ask it to end (SIGTERM), and want it no more."""
        self._wanted = False
        self._terminate(reason)

    def restart(self, reason: str) -> None:
        """Ask it to end and bring it back."""
        self._wanted = True
        self._terminate(reason)

    def renew(self, reason: str) -> None:
        """Replace it by a fresh one; without a gap if it can hand over."""
        if self.spec.successor is None or self.record is None or self._handle is None:
            self.restart(reason)
            return
        before = self.record, self._handle
        try:
            argv = self.spec.successor(self.record.pid)
            self.incarnation = max(self.incarnation + 1, int(time.time()))
            record = launch(self.spec, self.incarnation, self._files, argv)
            handle = os.pidfd_open(record.pid)
        except (FleetError, OSError) as error:
            self._keep_the_old(before, str(error))
            return
        self._parting = before
        self._take(record, handle)

    def settled(self, seconds: float) -> bool:
        """Has it been ready for so long?"""
        return self.state == "ready" and self._now() - self._ready_at >= seconds

    def kill(self, reason: str) -> None:
        """End it at once. Counts as an unwanted end if it was wanted."""
        self._reason = reason
        self._signal(signal.SIGKILL)

    def step(self) -> None:
        now = self._now()
        if self._parting is not None and ended(self._parting[1]):
            _reap(self._parting[0].pid)
            os.close(self._parting[1])
            self._parting = None
        if self._handle is not None and ended(self._handle):
            self._gone(now)
        if self.record is None:
            if self._wanted and now >= self._not_before:
                self._launch(now)
        elif self.state == "stopping":
            if now >= self._kill_at:
                self.kill(f"{self._reason}; it did not end within {self.spec.stop_seconds:g} s")
                self._kill_at = now + 1.0
        elif self.state == "starting" and self._is_ready(self.record):
            self.state = "ready"
            self._was_ready = True
            self._ready_at = now

    def _launch(self, now: float) -> None:
        # Never repeats, not even when all records are lost: segments are named after it.
        self.incarnation = max(self.incarnation + 1, int(time.time()))
        self._was_ready = False
        try:
            if self._before_start is not None:
                self._before_start(self.incarnation)
            record = launch(self.spec, self.incarnation, self._files)
            handle = os.pidfd_open(record.pid)
        except (FleetError, OSError) as error:
            self.last_exit = str(error)
            self._count_end(now)
            return
        self._take(record, handle)

    def _take(self, record: Record, handle: int) -> None:
        self.record, self._handle = record, handle
        self.incarnation = record.incarnation
        self.state = "starting"
        self.since = self._now()
        self._reason = ""
        self._starved = out_of_memory_kills()

    def _terminate(self, reason: str) -> None:
        if self.record is None:
            self.state = "stopped" if not self._wanted else self.state
            self._not_before = 0.0
            return
        if self.state != "stopping":
            self.state = "stopping"
            self._reason = reason
            self._kill_at = self._now() + self.spec.stop_seconds
            self._signal(signal.SIGTERM)
            if self._parting is not None:
                self._parting[0].signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self._handle is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def _gone(self, now: float) -> None:
        assert self.record is not None
        assert self._handle is not None
        how = _reap(self.record.pid)
        asked = self.state == "stopping"
        os.close(self._handle)
        self.record = self._handle = None
        if self._parting is not None and not asked:
            before, self._parting = self._parting, None
            self._keep_the_old(before, f"it could not take over: {how}")
            return
        if how == _MURDER and not self._reason and self._starved == out_of_memory_kills():
            self._on_murder()
        else:
            self._on_blame()
        if asked:
            self.last_exit = self._reason
            self.state = "starting" if self._wanted else "stopped"
            return
        self.last_exit = self._reason or f"{how}{_last_words(self._files.log(self.spec.name))}"
        self._count_end(now)

    def _keep_the_old(self, before: tuple[Record, int], why: str) -> None:
        """The successor did not come: go on with the one that runs."""
        write_record(self._files.record(self.spec.name), before[0])
        self._take(*before)
        self.last_exit = why
        self._not_before = self._now() + _LONGEST_WAIT

    def _count_end(self, now: float) -> None:
        """An end that nobody asked for."""
        self.restarts += 1
        self._ends.append(now)
        recent = sum(1 for end in self._ends if now - end <= _LOOP_SECONDS)
        self.state = "starting"
        self._not_before = now + _PAUSE
        if recent >= _LOOP_ENDS:
            self.state = "backing-off"
            longest = _LONGEST_WAIT_IF_IT_WORKED if self._was_ready else _LONGEST_WAIT
            wait: float = _FIRST_WAIT * 2 ** (recent - _LOOP_ENDS)
            self._not_before = now + min(wait, longest)


def _reap(pid: int) -> str:
    """How it ended. What an earlier agent started has another parent, which leaves it to be seen
    for a moment (`keeper`)."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        seen = zombie_status(pid)
        done, status = (pid, seen) if seen is not None else (0, 0)
    if not done:
        return "ended"
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _last_words(log: Path) -> str:
    """The last line of the log, which is where a Python program says why it gave up."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 2000))
            lines = stream.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f": {lines[-1].strip()[:300]}" if lines else ""


def _accepts(address: tuple[str, int] | None) -> bool:
    if address is None:
        return True
    try:
        socket.create_connection(address, timeout=0.2).close()
    except OSError:
        return False
    return True
