"""Shared memory in which a worker says how it is: one 16 KiB file per replica.

Written by the worker alone, read by the host agent, the collector and the worker's peers. It
outlives the process, so that the requests which were running when it died can still be read.

Little-endian layout:
    0 magic (8) | 8 pid u32 | 12 incarnation u32 | 16 state u8 | 20 requests running u32
    24 heartbeat u64, CLOCK_MONOTONIC ns | 32 acknowledged revision u64 | 40 records dropped u64
    48 writes u32, odd while a revision is being acknowledged | 52 count of failed versions u32
    56 error, 256 bytes of UTF-8 | 312 failed versions, 64 x u32 | 568 thread that ended us u64
    1024 loads: count u32 | 1032 their 64 entries of 32 bytes: version index u32 | served u64 (at 8)
    | refused u64 (at 16) | busy ns u64 (at 24); `writes` is odd while they change, too
    4096 in-flight slots, 128 x 64 bytes: state u8 | version index u32 (at 4) | start u64,
    CLOCK_MONOTONIC ns (at 8) | request id, 36 bytes of ASCII (at 16) | thread u64 (at 52)
    12288 what Python says of a crash, text; it may go on behind the block's end

A living worker holds a POSIX lock on its file; the kernel drops it with the process, also when
the parent has not yet reaped it, so `alive` needs no pid and no signal.
"""

from __future__ import annotations

import enum
import faulthandler
import fcntl
import mmap
import os
import re
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONTROL_BYTES = 16 * 1024
SLOTS = 128
ERROR_BYTES = 256
MAX_FAILED = 64
MAX_LOADS = 64
MAGIC = b"MFCTL1\0\0"
DEAD_SUFFIX = ".dead"
"""in place of `.ctl`: the block of a worker whose death its own requests may have caused"""

_PID, _STATE, _RUNNING, _HEARTBEAT, _REVISION, _DROPPED, _WRITES, _FAILED_COUNT, _ERROR, _FAILED = (
    8, 16, 20, 24, 32, 40, 48, 52, 56, 312,
)  # fmt: skip
_SLOTS_AT, _SLOT_BYTES = 4096, 64
_CULPRIT, _CRASH_AT = 568, 12288
_LOADS_AT, _LOAD = 1024, struct.Struct("<I4xQQQ")
_CRASHED_THREAD = re.compile(rb"Current thread 0x([0-9a-f]+)")
_U32, _U64, _TWO_U32 = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<II")
_HEAD = struct.Struct("<8sIIB3xIQQQII")
_SLOT = struct.Struct("<B3xIQ36sQ")
_REQUEST, _REQUEST_AT = struct.Struct("<IQ36sQ"), 4
_FREE, _BUSY = 0, 1
_FLOCK = struct.Struct("hhqqi4x")


class State(enum.IntEnum):
    """The life of a worker."""

    STARTING = 0
    READY = 1
    DRAINING = 2
    FAILED = 3


@dataclass(frozen=True)
class Load:
    """What a model that had to refuse requests did since it was loaded."""

    version: int
    served: int
    """requests answered in time"""
    refused: int
    """requests that could not be: refused, or too late"""
    busy_ns: int
    """during which it ran"""


@dataclass(frozen=True)
class ControlSnapshot:
    """A consistent reading of the header. `failed`: versions that revision could not load."""

    pid: int
    incarnation: int
    state: State
    heartbeat_ns: int
    revision: int
    dropped: int
    running: int
    error: str
    failed: tuple[int, ...]
    loads: tuple[Load, ...] = ()

    def silent_for(self) -> float:
        """Seconds since the last heartbeat."""
        return (time.monotonic_ns() - self.heartbeat_ns) / 1e9


@dataclass(frozen=True)
class Slot:
    """A request that runs, or ran when the process died."""

    number: int
    version: int
    started_ns: int
    request_id: str
    thread: int = 0
    """identifier of the thread that runs the model; 0 if it is not known"""

    def age(self) -> float:
        """Seconds since the model was called."""
        return (time.monotonic_ns() - self.started_ns) / 1e9


class ControlBlock:
    """The mapped file. `begin` and everything after it is for the one worker that owns it."""

    def __init__(self, path: Path, handle: int, writable: bool) -> None:
        self.path = path
        self._handle = handle
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._map = mmap.mmap(handle, CONTROL_BYTES, access=access)
        self._free = list(range(SLOTS - 1, -1, -1))

    @classmethod
    def create(cls, path: Path) -> ControlBlock:
        """A new block of zeros in place of an older one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        os.posix_fallocate(handle, 0, CONTROL_BYTES)
        return cls(path, handle, writable=True)

    @classmethod
    def open(cls, path: Path, writable: bool = False) -> ControlBlock:
        """An existing block. FileNotFoundError, or ValueError if it has another size or format.

        Whoever writes overwrites whatever format was there.
        """
        handle = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        try:
            if os.fstat(handle).st_size < CONTROL_BYTES:
                raise ValueError(f"{path} is not a control block")
            if not writable and os.pread(handle, 8, 0) not in (MAGIC, bytes(8)):
                raise ValueError(f"{path} has the format of another release")
            return cls(path, handle, writable)
        except BaseException:
            os.close(handle)
            raise

    def close(self) -> None:
        self._map.close()
        os.close(self._handle)

    def __enter__(self) -> ControlBlock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, incarnation: int) -> None:
        """Take the block over for this process: forget the earlier life, lock, first heartbeat.

        OSError if another living process owns it.
        """
        fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._map[:] = bytes(CONTROL_BYTES)
        self._map[:8] = MAGIC
        _TWO_U32.pack_into(self._map, _PID, os.getpid(), incarnation)
        self.heartbeat()

    def heartbeat(self) -> None:
        """Say that the event loop still turns."""
        _U64.pack_into(self._map, _HEARTBEAT, time.monotonic_ns())

    def set_state(self, state: State) -> None:
        self._map[_STATE] = int(state)

    def set_error(self, text: str) -> None:
        """Keep the last error; what does not fit is cut off."""
        raw = text.encode()[:ERROR_BYTES].decode(errors="ignore").encode()
        self._map[_ERROR : _ERROR + ERROR_BYTES] = raw.ljust(ERROR_BYTES, b"\0")

    def set_running(self, count: int) -> None:
        """Requests taken in and not yet answered, those that wait for their model included."""
        _U32.pack_into(self._map, _RUNNING, count)

    def add_dropped(self, count: int = 1) -> None:
        """Count prediction records that could not be written."""
        (dropped,) = _U64.unpack_from(self._map, _DROPPED)
        _U64.pack_into(self._map, _DROPPED, dropped + count)

    def acknowledge(self, revision: int, failed: Sequence[int] = ()) -> None:
        """Everything of this revision is resident, but for `failed` (the first 64 are kept)."""
        kept = list(failed)[:MAX_FAILED]
        with self._changing():
            _U32.pack_into(self._map, _FAILED_COUNT, len(kept))
            struct.pack_into(f"<{len(kept)}I", self._map, _FAILED, *kept)
            _U64.pack_into(self._map, _REVISION, revision)

    def tell_loads(self, loads: Sequence[Load]) -> None:
        """How much is asked of models that had to refuse something (the first 64 are kept), as of
        the last heartbeat."""
        kept = loads[:MAX_LOADS]
        with self._changing():
            _U32.pack_into(self._map, _LOADS_AT, len(kept))
            for number, one in enumerate(kept):
                at = _LOADS_AT + 8 + number * _LOAD.size
                _LOAD.pack_into(self._map, at, one.version, one.served, one.refused, one.busy_ns)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        (writes,) = _U32.unpack_from(self._map, _WRITES)
        _U32.pack_into(self._map, _WRITES, (writes + 1) & 0xFFFFFFFF)
        yield
        _U32.pack_into(self._map, _WRITES, (writes + 2) & 0xFFFFFFFF)

    def watch_for_crashes(self) -> None:
        """Have the thread noted that brings this process down, by a signal or by `os._exit`."""
        os.lseek(self._handle, _CRASH_AT, os.SEEK_SET)
        faulthandler.enable(file=self._handle, all_threads=True)
        leave, owner = os._exit, os.getpid()

        def noted(status: int) -> None:
            if os.getpid() == owner:  # a fork of the model's may leave in peace
                _U64.pack_into(self._map, _CULPRIT, threading.get_ident())
            leave(status)

        os._exit = noted  # type: ignore[assignment]

    def culprit(self) -> int:
        """The thread that brought the dead process down; 0 if nobody knows."""
        (thread,) = _U64.unpack_from(self._map, _CULPRIT)
        if thread:
            return int(thread)
        said = os.pread(self._handle, os.fstat(self._handle).st_size, _CRASH_AT)
        found = _CRASHED_THREAD.search(said)
        return int(found[1], 16) if found else 0

    def blamed(self) -> list[Slot]:
        """Of the requests that the dead process held, those whose thread brought it down; all, if
        that was another thread or is not known."""
        slots, culprit = self.slots(), self.culprit()
        guilty = [slot for slot in slots if slot.thread == culprit]
        return guilty or slots

    def occupy(self, version: int, request_id: bytes, thread: int = 0, now_ns: int = 0) -> int:
        """Note that this request is about to run; the slot's number, -1 if all are taken.
        now_ns: monotonic, if the caller has just looked."""
        if not self._free:
            return -1
        number = self._free.pop()
        at = _SLOTS_AT + number * _SLOT_BYTES
        begun = now_ns or time.monotonic_ns()
        _REQUEST.pack_into(self._map, at + _REQUEST_AT, version, begun, request_id, thread)
        self._map[at] = _BUSY  # last: whoever looks meanwhile must not see half of it
        return number

    def release(self, number: int) -> None:
        """The request of that slot has been answered."""
        if number >= 0:
            self._map[_SLOTS_AT + number * _SLOT_BYTES] = _FREE
            self._free.append(number)

    def alive(self) -> bool:
        """Does a living process own the block? (Asked by another process than the owner.)"""
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(self._handle, fcntl.F_GETLK, question)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def snapshot(self) -> ControlSnapshot:
        """Read the header; again while the worker is changing it."""
        raw = self._settled()
        _, pid, incarnation, state, running, heartbeat, revision, dropped, _, count = (
            _HEAD.unpack_from(raw)
        )
        error = raw[_ERROR : _ERROR + ERROR_BYTES].rstrip(b"\0").decode(errors="replace")
        failed = struct.unpack_from(f"<{min(count, MAX_FAILED)}I", raw, _FAILED)
        return ControlSnapshot(
            pid=pid,
            incarnation=incarnation,
            state=State(state) if state <= State.FAILED else State.FAILED,
            heartbeat_ns=heartbeat,
            revision=revision,
            dropped=dropped,
            running=running,
            error=error,
            failed=tuple(failed),
            loads=tuple(_loads(raw)),
        )

    def _settled(self) -> bytes:
        for _ in range(100):
            raw = self._map[:_SLOTS_AT]
            (writes,) = _U32.unpack_from(self._map, _WRITES)
            if writes % 2 == 0 and writes == _U32.unpack_from(raw, _WRITES)[0]:
                break
        return raw

    def slots(self) -> list[Slot]:
        """The requests that run (or that died with the process)."""
        raw = self._map[_SLOTS_AT : _SLOTS_AT + SLOTS * _SLOT_BYTES]
        found: list[Slot] = []
        for number in range(SLOTS):
            state, version, started, text, thread = _SLOT.unpack_from(raw, number * _SLOT_BYTES)
            if state == _BUSY:
                request_id = text.rstrip(b"\0").decode("ascii", "replace")
                found.append(Slot(number, version, started, request_id, thread))
        return found


def _loads(raw: bytes) -> Iterator[Load]:
    (count,) = _U32.unpack_from(raw, _LOADS_AT)
    for number in range(min(count, MAX_LOADS)):
        yield Load(*_LOAD.unpack_from(raw, _LOADS_AT + 8 + number * _LOAD.size))
