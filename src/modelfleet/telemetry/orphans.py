"""Reads the workers' control blocks: who lives, what was dropped, and which requests killed.

Before it calls a model, a worker notes the request in an in-flight slot. When a worker has died
by its own doing, the host agent puts its block aside (`.dead`): there stand the requests that
brought it down. Somebody who kills a worker from outside harms no version: its requests run
elsewhere, and its block is thrown away.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from modelfleet_worker.wire.control import DEAD_SUFFIX, ControlBlock, Slot, State
from modelfleet_worker.wire.ids import uuid7
from modelfleet_worker.wire.segment import CRASHED, Record

_RECENT_SECONDS = 600.0


@dataclass(frozen=True)
class Death:
    """A worker that brought itself down, and the requests to blame."""

    writer: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class WorkerStatus:
    """One replica, as its control block says."""

    worker: str
    """`<pool>-<replica>`"""
    writer: str
    """The same with its incarnation."""
    up: bool
    dropped: int


@dataclass
class _Watched:
    worker: str
    block: ControlBlock
    inode: int
    is_dead: bool = False

    def look(self) -> None:
        self.is_dead = self.is_dead or (bool(self.block.snapshot().pid) and not self.block.alive())


class ControlWatch:
    """Follows all control blocks of one folder. `poll` it a few times a second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._watched: dict[str, _Watched] = {}
        self._buried: dict[Path, int] = {}

    def poll(self) -> list[Death]:
        """Workers that brought themselves down since the last poll. After a start of ours, those
        of the last minutes once more."""
        present, dead = self._look_around()
        for path, watched in list(self._watched.items()):
            if present.get(path) != watched.inode:
                watched.block.close()
                del self._watched[path]
            else:
                watched.look()
        for path, inode in present.items():
            if path not in self._watched:
                self._watch(path, inode)
        found = (self._bury(Path(path)) for path in sorted(dead))
        return [death for death in found if death is not None]

    def _look_around(self) -> tuple[dict[str, int], list[str]]:
        """Paths of all blocks with their inodes, and of those that were put aside."""
        try:
            with os.scandir(self._folder) as entries:
                found = {entry.path: entry.inode() for entry in entries}
        except FileNotFoundError:
            return {}, []
        present = {path: inode for path, inode in found.items() if path.endswith(".ctl")}
        return present, [path for path in found if path.endswith(DEAD_SUFFIX)]

    def _watch(self, path: str, inode: int) -> None:
        try:
            self._watched[path] = _Watched(Path(path).stem, ControlBlock.open(Path(path)), inode)
        except (OSError, ValueError):
            return  # being created or gone again; the next poll looks once more

    def _bury(self, path: Path) -> Death | None:
        """None if it is known already, or died long ago or without a request."""
        try:
            status = path.stat()
            if self._buried.get(path) == status.st_ino:
                return None
            self._buried[path] = status.st_ino
            with ControlBlock.open(path) as block:
                writer = f"{path.stem}-{block.snapshot().incarnation}"
                slots = tuple(block.blamed())
        except (OSError, ValueError):
            return None
        recent = time.time() - status.st_ctime < _RECENT_SECONDS
        return Death(writer, slots) if slots and recent else None

    def status(self) -> list[WorkerStatus]:
        """All replicas that have a control block."""
        found = []
        for _, watched in sorted(self._watched.items()):
            snapshot = watched.block.snapshot()
            up = snapshot.state is State.READY and not watched.is_dead
            writer = f"{watched.worker}-{snapshot.incarnation}"
            found.append(WorkerStatus(watched.worker, writer, up, snapshot.dropped))
        return found

    def is_alive(self, writer: str, pid: int) -> bool:
        """May this writer still append? By its control block, else by its process id."""
        worker, _, incarnation = writer.rpartition("-")
        for watched in self._watched.values():
            if watched.worker == worker:
                return watched.block.snapshot().incarnation == int(incarnation) and (
                    not watched.is_dead
                )
        return _runs(pid)

    def close(self) -> None:
        for watched in self._watched.values():
            watched.block.close()


def crash_record(slot: Slot) -> Record:
    """The record that the worker could not write any more."""
    now = time.time_ns()
    return Record(
        version=slot.version,
        prediction_id=uuid7(),
        request_id=slot.request_id or f"slot-{slot.number}",
        trace_id=b"",
        time_ns=now,
        latency_ns=max(0, time.monotonic_ns() - slot.started_ns),
        status=CRASHED,
        attempt=1,
        flags=0,
        rows=0,
        inputs=[],
        outputs=[],
        caller="",
        client_request_id="",
        endpoint="",
        error="the worker died while it ran this request",
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
