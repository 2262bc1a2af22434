"""`python -m modelfleet.batch --home HOME --id ID`: the process of one job.

It reads `HOME/run/batches/ID.order.json`, keeps `ID.progress.json` and nothing else of its own:
killed at any line, the next process of the same wish goes on from the manifest.
"""

from __future__ import annotations

import argparse
import os
import time
import traceback
from pathlib import Path

import msgspec
import structlog

from modelfleet.batch.run import run
from modelfleet.batch.types import Order, Progress
from modelfleet.core.errors import FleetError
from modelfleet.core.files import write_atomically
from modelfleet.core.layout import Layout
from modelfleet_worker.batch import end_with

log = structlog.get_logger(__name__)
_TELL_SECONDS = 0.2


class Teller:
    """Writes the progress, a few times a second at most."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = 0.0
        self.last = Progress()

    def __call__(self, progress: Progress) -> None:
        self.last = progress
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            self.write(progress)

    def write(self, progress: Progress) -> None:
        temporary = self._path.with_name(f".{self._path.name}")
        temporary.write_bytes(msgspec.json.encode(progress))
        os.replace(temporary, self._path)


def give_way(nice: int, cpus: int) -> None:
    """Leave the machine to those who answer requests. cpus: 0 for all."""
    os.nice(nice)
    cores = sorted(os.sched_getaffinity(0))
    if 0 < cpus < len(cores):
        os.sched_setaffinity(0, cores[-cpus:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="modelfleet.batch")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--parent", type=int, required=True)
    asked = parser.parse_args()
    end_with(asked.parent)
    layout = Layout(asked.home)
    order = msgspec.json.decode(layout.batch_order(asked.id).read_bytes(), type=Order)
    give_way(order.nice, order.cpus)
    teller = Teller(layout.batch_progress(asked.id))
    teller.write(Progress())
    try:
        ended = run(layout, order, teller)
    except FleetError as error:
        ended = _failed(teller.last, error.message, error.hint, error.status)
    except Exception as error:  # noqa: BLE001 - the last one who can tell it
        log.error("batch failed", batch=order.id, trace=traceback.format_exc())
        ended = _failed(teller.last, f"{type(error).__name__}: {error}", "", 500)
    write_atomically(layout.batch_progress(asked.id), msgspec.json.encode(ended))


def _failed(last: Progress, error: str, hint: str, status: int) -> Progress:
    return msgspec.structs.replace(last, state="failed", error=error, hint=hint, status=status)


if __name__ == "__main__":
    main()
