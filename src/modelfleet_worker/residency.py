"""How a worker follows what its pool should hold, and what it holds of that.

`Residency` polls the desired file. New versions are loaded one at a time in a thread; each serves
as soon as it is warm, without waiting for the others. When all of a revision are in (or have
failed, each with its reason), the revision is acknowledged in the control block. Removed versions
answer for a little while longer, for requests that were on their way, and then go.

Models share a budget of bytes. When it is spent, the least valuable ones (see `eviction`) are let
go; they stay known, and the first request for one waits until it is loaded again. After a start,
models are loaded until the budget is spent, pinned ones first; the rest is loaded when asked for.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Optional, Protocol, Union

import msgspec

from modelfleet_worker import loading, log
from modelfleet_worker.eviction import Cache
from modelfleet_worker.lane import MAX_QUEUED, DeadlinePassed, Outcome, Overloaded
from modelfleet_worker.loading import Loaded
from modelfleet_worker.peers import fatal_loads
from modelfleet_worker.resident import Resident
from modelfleet_worker.wire import desired
from modelfleet_worker.wire.control import ControlBlock, Load
from modelfleet_worker.wire.desired import PoolSpec, VersionSpec

LINGER_SECONDS = 2.0
_LEAST_BYTES = 16 * 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")


class NotLoaded(Exception):
    """The version can't be loaded; the message says why."""


class Waiter(Protocol):
    """A request for a version that is being loaded. `loaded` or `answer` comes exactly once;
    `begun` and `ended` frame the loading that it waits for."""

    deadline: Optional[float]

    def begun(self, thread: int) -> None: ...

    def ended(self) -> None: ...

    def loaded(self, resident: Resident) -> None: ...

    def answer(self, outcome: Outcome) -> None: ...


class Residency:
    """acknowledged: called after each acknowledged revision."""

    def __init__(
        self,
        path: Path,
        control: ControlBlock,
        loop: asyncio.AbstractEventLoop,
        acknowledged: Callable[[], None],
    ) -> None:
        self.table: dict[int, Resident] = {}
        self._path = path
        self._control = control
        self._loop = loop
        self._acknowledged = acknowledged
        self._cache = Cache()
        self._seen: Optional[tuple[int, int, int]] = None
        self._target: Optional[PoolSpec] = None
        self._known: dict[int, VersionSpec] = {}
        self._pending: deque[VersionSpec] = deque()
        self._settled = True
        self._started = False
        self._loader: Optional[threading.Thread] = None
        self._loading: Optional[VersionSpec] = None
        self._failed: dict[int, str] = {}
        self._waiting: dict[int, list[Waiter]] = {}
        self._slot = -1

    def poll(self) -> None:
        """Look for a new desired file: one `stat` if there is none."""
        try:
            status = os.stat(self._path)
            mark = (status.st_mtime_ns, status.st_ino, status.st_size)
            if mark == self._seen:
                return
            self._seen = mark
            target = desired.load(self._path)
        except FileNotFoundError:
            return  # the pool was removed: the agent will stop us
        except (OSError, msgspec.DecodeError) as error:
            self._control.set_error(f"{self._path.name}: {error}")
            log.failure("the desired file can't be read; going on with the last one", error)
            return
        self._follow(target)

    def by_name(self, model: str, version: Optional[str]) -> Optional[int]:
        """The index of that model: of that semantic version, or the newest one."""
        fitting = [
            known
            for known in self._known.values()
            if known.model == model and version in (None, known.version)
        ]
        newest = max(fitting, key=lambda known: known.sequence, default=None)
        return None if newest is None else newest.index

    def spec(self, index: int) -> Optional[VersionSpec]:
        """What is known of a version that this pool should hold, resident or not."""
        return self._known.get(index)

    def failure(self, index: int) -> Optional[str]:
        """Why a version can't be had here; None if it can."""
        known = self._known.get(index)
        return (known.quarantined if known else "") or self._failed.get(index)

    def want(self, index: int, waiter: Waiter) -> None:
        """Load a version that is known but not resident. Overloaded if too many wait for it."""
        waiting = self._waiting.setdefault(index, [])
        if len(waiting) >= MAX_QUEUED:
            raise Overloaded("too many requests are waiting for this model to be loaded")
        waiting.append(waiter)
        if self._loading is not None and self._loading.index == index:
            waiter.begun(self._thread())
        self._advance()

    def sweep(self, now: float) -> None:
        """Answer those whose deadline has passed."""
        for index, waiting in list(self._waiting.items()):
            late = [w for w in waiting if w.deadline is not None and w.deadline <= now]
            self._waiting[index] = [w for w in waiting if w not in late]
            for waiter in late:
                waiter.ended()
                waiter.answer(DeadlinePassed())
        for resident in self.table.values():
            resident.lane.sweep(now)

    def loads(self) -> list[Load]:
        """What is asked of the models that had to refuse something."""
        return [
            Load(index, lane.tally.served, lane.tally.refused, int(lane.busy_s * 1e9))
            for index, lane in ((i, resident.lane) for i, resident in self.table.items())
            if lane.tally.refused
        ]

    def _follow(self, target: PoolSpec) -> None:
        before, again = self._known, {version.index for version in self._pending} | {*self._failed}
        self._failed = fatal_loads(self._control, target.pool) if self._target is None else {}
        self._target = target
        self._settled = False
        self._cache.budget = target.budget_mb << 20
        self._known = {version.index: version for version in target.versions}
        self._pending.clear()
        for version in sorted(target.versions, key=lambda v: not v.pinned):
            resident = self.table.get(version.index)
            if version.quarantined:
                self._drop(version.index)
            elif resident is not None and resident.is_of(version):
                resident.describe_as(version)
            elif version.index in again or before.get(version.index) != version:
                self._pending.append(version)
        self._advance()

    def _advance(self) -> None:
        """Start the next load, or settle the revision if nothing is left to load."""
        target = self._target
        if target is None or self._loading is not None:
            return
        for index in [index for index, waiting in self._waiting.items() if waiting]:
            version = self._known.get(index)
            reason = self.failure(index) if version else "it is no longer wanted here"
            if version is None or reason:
                self._give_up(index, NotLoaded(reason or ""))
            elif index in self.table:
                self._serve_waiting(index, self.table[index])
            else:
                self._start(version)
                return
        while self._pending:
            version = self._pending.popleft()
            resident = self.table.get(version.index)
            there = resident is not None and resident.is_of(version)
            if not there and not self.failure(version.index):
                self._start(version)
                return
        if not self._settled:
            self._settle(target)

    def _thread(self) -> int:
        return self._loader.ident or 0 if self._loader is not None else 0

    def _start(self, version: VersionSpec) -> None:
        self._loading = version
        told = threading.Event()
        self._loader = threading.Thread(
            target=self._load, args=(version, told), name=f"load {version.model}", daemon=True
        )
        self._loader.start()
        # If loading it ends this process, somebody must know what did.
        self._slot = self._control.occupy(version.index, b"", self._thread())
        for waiter in self._waiting.get(version.index, ()):
            waiter.begun(self._thread())
        told.set()

    def _load(self, version: VersionSpec, told: threading.Event) -> None:
        told.wait()
        outcome: Union[Loaded, BaseException]
        before = _resident_bytes()
        try:
            outcome = loading.load(version)
        except BaseException as error:  # noqa: BLE001  # whatever it does, the worker goes on
            outcome = error
        size = max(_resident_bytes() - before, _LEAST_BYTES)
        try:
            self._loop.call_soon_threadsafe(self._loaded, version, outcome, size)
        except RuntimeError:
            return  # the loop is closed: the process ends

    def _loaded(
        self, version: VersionSpec, outcome: Union[Loaded, BaseException], size: int
    ) -> None:
        self._loading = None
        self._control.release(self._slot)
        self._slot = -1
        names: dict[str, log.Value] = {
            "model": version.model,
            "version": version.version,
            "index": version.index,
        }
        if isinstance(outcome, Loaded):
            self._failed.pop(version.index, None)
            if version.index in self._known:
                self._admit(version, outcome, size, names)
        else:
            reason = f"{version.model} {version.version}: " + log.describe(outcome)
            self._failed[version.index] = reason
            self._control.set_error(reason)
            log.failure("a version could not be loaded", outcome, **names)
            self._give_up(version.index, NotLoaded(reason))
        self._advance()

    def _admit(
        self, version: VersionSpec, loaded: Loaded, size: int, names: dict[str, log.Value]
    ) -> None:
        old = self.table.get(version.index)
        entry = self._cache.add(version.index, size, loaded.load_s, version.pinned)
        resident = Resident(version, loaded, self._loop, entry)
        self.table[version.index] = resident
        if old is not None:
            old.lane.close()
        log.event(
            "info",
            "resident",
            **names,
            variant=version.variant,
            load_ms=round(loaded.load_s * 1e3, 1),
            row_us=round(loaded.row_s * 1e6, 1),
            kb=size >> 10,
            inline=resident.inline,
        )
        self._serve_waiting(version.index, resident)
        self._make_room(version.index)

    def _serve_waiting(self, index: int, resident: Resident) -> None:
        for waiter in self._waiting.pop(index, []):
            waiter.ended()
            waiter.loaded(resident)

    def _give_up(self, index: int, error: BaseException) -> None:
        for waiter in self._waiting.pop(index, []):
            waiter.ended()
            waiter.answer(error)

    def _make_room(self, newest: int) -> None:
        """Let go of the least valuable until the rest fits."""
        evicted = 0
        while True:
            busy = {index for index, resident in self.table.items() if resident.lane.busy}
            victim = self._cache.victim(busy | {newest})
            if victim is None:
                break
            log.event("info", "evicted", model=self.table[victim].version.model, index=victim)
            self._drop(victim)
            evicted += 1
        if evicted:
            _trim()
        if not self._started and (evicted or self._cache.full):
            self._pending = deque(version for version in self._pending if version.pinned)

    def _drop(self, index: int) -> None:
        resident = self.table.pop(index, None)
        self._cache.remove(index)
        if resident is not None:
            resident.lane.close()

    def _settle(self, target: PoolSpec) -> None:
        self._settled = self._started = True
        if any(index not in self._known for index in self.table):
            self._loop.call_later(LINGER_SECONDS, self._retire)
        failed = [index for index in self._failed if index in self._known]
        if not failed:
            self._control.set_error("")
        self._control.acknowledge(target.revision, failed)
        log.event("info", "revision", revision=target.revision, failed=len(failed))
        self._acknowledged()

    def _retire(self) -> None:
        """Drop what nobody wants any more; calls that are in still get their answers."""
        for index in [index for index in self.table if index not in self._known]:
            log.event("info", "dropped", model=self.table[index].version.model, index=index)
            self._drop(index)


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as stream:
        return int(stream.read().split()[1]) * _PAGE


def _trim() -> None:
    """Give freed memory back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
