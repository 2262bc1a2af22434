"""Did this request already kill or hang another worker of the pool?

A gateway retries a request whose worker died. If the request was the reason, the retry would kill
the next worker, and so on. Before it runs a request for the second time, a worker therefore looks
for it in the in-flight slots of its pool: one that a dead worker left, or that a silent or stuck
one still holds, is answered with an error that nobody retries.
"""

from __future__ import annotations

import re
from pathlib import Path

from modelfleet_worker.wire.control import ControlBlock

SILENT_SECONDS = 2.0
STUCK_SECONDS = 10.0


def is_deadly(own: ControlBlock, pool: str, request_id: str) -> bool:
    """Does a dead, silent or stuck worker of this pool hold that request?"""
    wanted = request_id[:36]
    if any(slot.request_id == wanted and slot.age() > STUCK_SECONDS for slot in own.slots()):
        return True
    return any(_holds(path, wanted) for path in _peers(own.path, pool))


def _peers(own: Path, pool: str) -> list[Path]:
    name = re.compile(re.escape(pool) + r"-\d+\.ctl")
    # Opening one's own block a second time and closing it would drop the lock that says "alive".
    return [p for p in own.parent.iterdir() if name.fullmatch(p.name) and p.name != own.name]


def _holds(path: Path, request_id: str) -> bool:
    try:
        block = ControlBlock.open(path)
    except (OSError, ValueError):
        return False  # it was removed or is being made
    with block:
        for slot in block.slots():
            if slot.request_id == request_id:
                return (
                    not block.alive()
                    or block.snapshot().silent_for() > SILENT_SECONDS
                    or slot.age() > STUCK_SECONDS
                )
    return False
