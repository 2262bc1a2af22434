"""Did this request already kill or hang another worker of the pool?

A gateway retries a request whose worker died. If the request was the reason, the retry would kill
the next worker, and so on. Before it runs a request for the second time, a worker therefore looks
for it in the in-flight slots of its pool: one that a dead worker left, or that a silent or stuck
one still holds, is answered with an error that nobody retries.

A worker that somebody killed from outside leaves its slots, too. The host agent tells the two
apart: it clears the block of a worker that was killed, and puts aside (`.dead`) that of one which
died by itself. The retry may be faster than the agent: a request that only a dead worker holds is
therefore looked for again, until the agent has decided or was given the time.

Of the requests that a dead worker held, those are to blame whose thread brought it down; all, if
that was another thread or is not known.
"""

from __future__ import annotations

import enum
import re
import time
from pathlib import Path

from modelfleet_worker.wire.control import DEAD_SUFFIX, ControlBlock

SILENT_SECONDS = 2.0
STUCK_SECONDS = 10.0
_RECENT_SECONDS = 600.0


class Finding(enum.IntEnum):
    """What the slots of a pool say of a request; the largest of all its workers counts."""

    INNOCENT = 0
    LEFT_BY_THE_DEAD = 1
    """A dead worker holds it, and the agent has not said yet how that one died."""
    DEADLY = 2
    """A worker died of its own doing with it, or lives and is silent or stuck."""


def examine(own: ControlBlock, pool: str, request_id: str) -> Finding:
    """Look for the request in the slots of this pool's workers."""
    wanted = request_id[:36]
    if any(slot.request_id == wanted and slot.age() > STUCK_SECONDS for slot in own.slots()):
        return Finding.DEADLY
    found = (_look(path, wanted) for path in _peers(own.path, pool))
    return max(found, default=Finding.INNOCENT)


def fatal_loads(own: ControlBlock, pool: str) -> dict[int, str]:
    """Versions (by index) whose loading brought a worker of this pool down a short while ago."""
    found: dict[int, str] = {}
    dead = re.compile(re.escape(pool) + rf"-\d+{re.escape(DEAD_SUFFIX)}")
    for path in own.path.parent.iterdir():
        if dead.fullmatch(path.name):
            try:
                recent = time.time() - path.stat().st_ctime < _RECENT_SECONDS
                block = ControlBlock.open(path)
            except (OSError, ValueError):
                continue
            with block:
                for slot in block.blamed() if recent else ():
                    if not slot.request_id:
                        found[slot.version] = "loading it brought a worker down"
    return found


def _peers(own: Path, pool: str) -> list[Path]:
    name = re.compile(re.escape(pool) + rf"-\d+(\.ctl|{re.escape(DEAD_SUFFIX)})")
    # Opening one's own block a second time and closing it would drop the lock that says "alive".
    return [p for p in own.parent.iterdir() if name.fullmatch(p.name) and p.name != own.name]


def _look(path: Path, request_id: str) -> Finding:
    try:
        block = ControlBlock.open(path)
    except (OSError, ValueError):
        return Finding.INNOCENT  # it was removed or is being made
    with block:
        if path.suffix == DEAD_SUFFIX:
            guilty = any(slot.request_id == request_id for slot in block.blamed())
            return Finding.DEADLY if guilty else Finding.INNOCENT
        for slot in block.slots():
            if slot.request_id == request_id:
                if not block.alive():
                    return Finding.LEFT_BY_THE_DEAD
                silent = block.snapshot().silent_for() > SILENT_SECONDS
                if silent or slot.age() > STUCK_SECONDS:
                    return Finding.DEADLY
    return Finding.INNOCENT
