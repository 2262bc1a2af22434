"""How a worker is, read from its control block, for those who may not know the wire format."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from modelfleet_worker.wire.control import ControlBlock


@dataclass(frozen=True)
class Pulse:
    pid: int
    incarnation: int
    state: str
    """starting, ready, draining or failed"""
    silent_seconds: float
    """since the last heartbeat"""
    revision: int
    error: str


def read_pulse(path: Path) -> Pulse | None:
    """None until the worker has taken the block over."""
    try:
        with ControlBlock.open(path) as block:
            found = block.snapshot()
    except (OSError, ValueError):
        return None
    if not found.pid:
        return None
    return Pulse(
        pid=found.pid,
        incarnation=found.incarnation,
        state=found.state.name.lower(),
        silent_seconds=found.silent_for(),
        revision=found.revision,
        error=found.error,
    )


def create_control_block(path: Path, owner: tuple[int, int] | None) -> None:
    """A new block of zeros that `owner` (user id, group id) may write."""
    ControlBlock.create(path).close()
    if owner is not None:
        os.chown(path, *owner)
