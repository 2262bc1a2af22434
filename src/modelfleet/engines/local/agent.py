"""The host agent: keeps the platform's processes and the pools' workers alive.

One thread, no state that matters: what was started stands in records, what is wanted in files.
So the agent may die at any moment; its successor takes over what runs. SIGTERM stops everything
in order, SIGHUP replaces the agent by a fresh one of the same pid and disturbs nothing.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from modelfleet.core.files import hold, write_atomically
from modelfleet.engines.engine import Observed, ProcessObserved
from modelfleet.engines.local.child import Child
from modelfleet.engines.local.engine import read_demand, read_observed
from modelfleet.engines.local.pools import Pool, WorkerKit, strays
from modelfleet.engines.local.processes import Files, myself, write_record
from modelfleet.engines.local.spec import ProcessSpec

_TICK_SECONDS = 0.1
_SETTLED_SECONDS = 0.5

End = Literal["stopped", "replace", "taken"]
"""`taken`: another agent serves this home."""


class Agent:
    def __init__(self, files: Files, specs: Sequence[ProcessSpec], kit: WorkerKit | None) -> None:
        self._files = files
        self._kit = kit
        self._children = [Child(spec, files) for spec in specs]
        self._pools: dict[str, Pool] = {}
        self._seen: dict[Path, tuple[int, int]] = {}
        self._written: Observed | None = None
        self._end: End | None = None
        self._hurry = False
        self._bell, self._ringer = socket.socketpair()

    def run(self, started: Callable[[], None] = lambda: None) -> End:
        """Serve until a signal ends it. Must be called from the main thread."""
        lock = hold(self._files.agent_lock)
        if lock is None:
            return "taken"
        self._listen_to_signals()
        write_record(self._files.agent, myself("agent", time.time_ns() // 1_000_000))
        self._take_over()
        started()
        while self._end is None:
            self._read_desired()
            self._step()
            self._publish()
            self._wait(_TICK_SECONDS)
        if self._end == "stopped":
            self._stop_all()
            self._files.agent.unlink(missing_ok=True)
        os.close(lock)
        return self._end

    def _listen_to_signals(self) -> None:
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: self._asked_to("stopped"))
        signal.signal(signal.SIGINT, lambda *_: self._asked_to("stopped"))
        signal.signal(signal.SIGHUP, lambda *_: self._asked_to("replace"))
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _asked_to(self, end: End) -> None:
        if end == "stopped" and self._end == "stopped":
            self._hurry = True
        if self._end != "stopped":
            self._end = end

    def _take_over(self) -> None:
        before = read_observed(self._files.observed)
        for child in self._children:
            known = before.processes.get(child.spec.name)
            if child.adopt() and known is not None:
                child.restarts = known.restarts
            child.start()
        if self._kit is None:
            return
        living = strays(self._files)
        wanted = {path.stem for path in self._files.desired.glob("*.json")}
        for name, numbers in living.items():
            pool = self._pools[name] = Pool(name, self._files, self._kit)
            pool.adopt(numbers, before.pools.get(name))
            if name not in wanted:
                pool.want(None)

    def _read_desired(self) -> None:
        """Follow the files; one that can't be read leaves its pool as it was."""
        if self._kit is None:
            return
        found: dict[Path, tuple[int, int]] = {}
        for path in self._files.desired.glob("*.json"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found[path] = (status.st_mtime_ns, status.st_ino)
            if self._seen.get(path) != found[path]:
                self._read_pool(path, self._kit)
        for path in self._seen.keys() - found.keys():
            if path.stem in self._pools:
                self._pools[path.stem].want(None)
        self._seen = found

    def _read_pool(self, path: Path, kit: WorkerKit) -> None:
        pool = self._pools.get(path.stem)
        if pool is None:
            pool = self._pools[path.stem] = Pool(path.stem, self._files, kit)
        try:
            pool.want(read_demand(path))
            pool.error = ""
        except (OSError, msgspec.DecodeError) as error:
            pool.error = f"{path.name}: {error}"

    def _step(self) -> None:
        for child in self._children:
            child.step()
        self._renew()
        for pool in self._pools.values():
            pool.step()
        for name in [name for name, pool in self._pools.items() if pool.empty]:
            if self._files.desired / f"{name}.json" not in self._seen:
                del self._pools[name]

    def _renew(self) -> None:
        """Replace one process that is outdated, once all others are well."""
        outdated = [child for child in self._children if child.outdated]
        if outdated and all(child.settled(_SETTLED_SECONDS) for child in self._children):
            outdated[0].renew("replaced by its new form")

    def _publish(self) -> None:
        observed = Observed(
            pools={name: pool.observed() for name, pool in sorted(self._pools.items())},
            processes={
                child.spec.name: ProcessObserved(
                    child.pid, child.state, child.restarts, child.last_exit
                )
                for child in self._children
            },
        )
        if observed != self._written:
            write_atomically(self._files.observed, msgspec.json.encode(observed))
            self._written = observed

    def _everyone(self) -> list[Child]:
        return [*self._children, *(c for pool in self._pools.values() for c in pool.children)]

    def _wait(self, seconds: float) -> None:
        """Until something ends, a signal comes, or the time is over."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        for child in self._everyone():
            if child.handle is not None:
                poll.register(child.handle, select.POLLIN)
        poll.poll(seconds * 1000)
        try:
            while self._bell.recv(4096):
                pass
        except BlockingIOError:
            return

    def _stop_all(self) -> None:
        """Workers, gateway and control plane first; then those who look after what they left."""
        for last in (False, True):
            group = [c for c in self._everyone() if c.spec.last == last]
            for child in group:
                child.stop()
            while any(child.state != "stopped" for child in group):
                for child in group:
                    if self._hurry and child.pid is not None:
                        child.kill("stopped in a hurry")
                    child.step()
                self._publish()
                self._wait(0.05)
