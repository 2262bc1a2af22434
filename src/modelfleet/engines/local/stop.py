"""Ending everything of one home, from outside."""

from __future__ import annotations

import signal
import time

from modelfleet.core.errors import Unavailable
from modelfleet.engines.local.processes import Files, Record, read_record, records

_ORDERLY_SECONDS = 40.0
_SWEEP_SECONDS = 5.0


def down(files: Files) -> bool:
    """Stop whatever serves this home and wait. False if nothing did.

    The keeper is asked first, since it would bring the agent back; then the agent; what is left
    of dead agents is ended one by one. Raises `Unavailable` if something doesn't end.
    """
    bosses = [r for path in (files.keeper, files.agent) if (r := read_record(path)) and r.alive()]
    found = bool(bosses) or bool(_alive(files))
    if bosses:
        bosses[0].signal(signal.SIGTERM)
        deadline = time.monotonic() + _ORDERLY_SECONDS
        while any(boss.alive() for boss in bosses) and time.monotonic() < deadline:
            time.sleep(0.05)
        for boss in bosses:
            boss.signal(signal.SIGKILL)
    sweep(files)
    if left := _alive(files):
        names = ", ".join(f"{record.name} ({record.pid})" for record in left)
        raise Unavailable(f"Still running: {names}.")
    return found


def sweep(files: Files) -> None:
    """End every recorded process that is still alive."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = _alive(files)
        for record in left:
            record.signal(number)
        deadline = time.monotonic() + _SWEEP_SECONDS
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = [record for record in left if record.alive()]


def _alive(files: Files) -> list[Record]:
    return [record for record in records(files) if record.alive()]
