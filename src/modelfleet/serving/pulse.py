"""How a worker is, read from its control block, for those who may not know the wire format."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelfleet_worker.wire.control import DEAD_SUFFIX, ControlBlock, Load, State

STALE_SECONDS = 3.0
"""A worker without a heartbeat for so long doesn't count."""


@dataclass(frozen=True)
class Pulse:
    pid: int
    incarnation: int
    state: str
    """starting, ready, draining or failed"""
    silent_seconds: float
    """since the last heartbeat"""
    longest_run_seconds: float
    """of the request that its model has been running longest; 0 if none runs"""
    revision: int
    error: str


def read_pulse(path: Path) -> Pulse | None:
    """None until the worker has taken the block over."""
    try:
        with ControlBlock.open(path) as block:
            found = block.snapshot()
            longest = max((slot.age() for slot in block.slots()), default=0.0)
    except (OSError, ValueError):
        return None
    if not found.pid:
        return None
    return Pulse(
        pid=found.pid,
        incarnation=found.incarnation,
        state=found.state.name.lower(),
        silent_seconds=found.silent_for(),
        longest_run_seconds=longest,
        revision=found.revision,
        error=found.error,
    )


@dataclass(frozen=True)
class Told:
    """What a ready worker says of models that had to refuse requests, since they were loaded."""

    incarnation: int
    seconds: float
    """when it said so; monotonic"""
    loads: tuple[Load, ...]


def read_told(path: Path) -> Told | None:
    """None of a worker that isn't ready or was silent for long."""
    try:
        with ControlBlock.open(path) as block:
            found = block.snapshot()
    except (OSError, ValueError):
        return None
    if found.state != State.READY or found.silent_for() > STALE_SECONDS:
        return None
    return Told(found.incarnation, found.heartbeat_ns / 1e9, found.loads)


def create_control_block(path: Path, owner: tuple[int, int] | None) -> None:
    """A new block of zeros that `owner` (user id, group id) may write."""
    ControlBlock.create(path).close()
    if owner is not None:
        os.chown(path, *owner)


def keep_for_peers(path: Path) -> None:
    """Put a dead worker's block aside, so that peers don't run what it was running."""
    with suppress(FileNotFoundError):  # it died before it had one
        path.replace(path.with_suffix(DEAD_SUFFIX))
