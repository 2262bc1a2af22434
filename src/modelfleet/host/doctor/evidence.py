"""Evidence: is every prediction counted, and soon?"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress

from modelfleet.host.doctor.findings import (
    Examined,
    Finding,
    duration,
    fail,
    megabytes,
    not_examined,
    ok,
    warn,
)
from modelfleet.telemetry.evidence import EvidenceReader
from modelfleet_worker.wire.segment import FIRST, SegmentReader

_SLOW_SECONDS, _STUCK_SECONDS = 15.0, 60.0
_MANY_SEGMENTS = 6
"""of one worker: they are sealed and removed every minute or so"""
_LOGS = "modelfleet logs collector"


def lag(examined: Examined) -> Iterator[Finding]:
    """How long ago the collector last had read everything, and what it has not yet counted."""
    with examined.database(examined.layout.evidence_database) as connection:
        if connection is None:
            yield not_examined("there is no evidence.db yet")
            return
        waiting, oldest = _not_counted(examined, connection)
    reader = EvidenceReader(examined.layout.evidence_database)
    try:
        horizon = reader.closed_until()
    finally:
        reader.close()
    age = time.time() - horizon / 1e6 if horizon else float("inf")
    behind = time.time() - oldest / 1e9 if waiting else 0.0
    said = f"{waiting} records are not yet counted, the oldest for {duration(behind)}"
    if not examined.status.running:
        yield not_examined(f"nothing runs ({waiting} records wait to be counted)")
    elif age > _STUCK_SECONDS or behind > _STUCK_SECONDS:
        yield fail(f"it was last up to date {duration(age)} ago; {said}", _LOGS)
    elif age > _SLOW_SECONDS or behind > _SLOW_SECONDS:
        yield warn(f"it was last up to date {duration(age)} ago; {said}", _LOGS)
    else:
        yield ok(f"it is up to date as of {duration(max(age, 0.0))} ago")


def _not_counted(examined: Examined, connection: sqlite3.Connection) -> tuple[int, int]:
    """Records behind the collector's cursors (some thousands at most), and the oldest one's time
    in Unix ns."""
    counted = dict(connection.execute("SELECT name, counted FROM segment").fetchall())
    waiting, oldest = 0, 0
    for path in examined.layout.segments.glob("*.seg"):
        with suppress(OSError, ValueError), SegmentReader(path) as reader:  # gone meanwhile
            name = f"{path.stem}.{reader.header.created_ns}"
            found, _ = reader.read(counted.get(name, FIRST), 1000)
            waiting += len(found)
            times = [record.time_ns for _, record in found]
            oldest = min([*times, oldest or (1 << 63)], default=oldest)
    return waiting, oldest


def dropped(examined: Examined) -> Iterator[Finding]:
    reader = EvidenceReader(examined.layout.evidence_database)
    try:
        lost, unreadable = reader.dropped(), reader.counter("unreadable")
    finally:
        reader.close()
    if lost:
        said = f"workers could not record {lost} predictions"
        yield warn(said, "Was the disk full, or a record larger than serving.segment_mb?")
    if unreadable:
        said = f"{unreadable} answers did not fit their version's signature"
        yield warn(said, _LOGS)
    if not lost and not unreadable:
        yield ok("no prediction was lost")


def segments(examined: Examined) -> Iterator[Finding]:
    """They are removed when they are sealed; if they pile up, nobody does."""
    by_worker: dict[str, int] = {}
    size = 0
    for path in examined.layout.segments.glob("*.seg"):
        with suppress(FileNotFoundError):
            size += path.stat().st_blocks * 512
            worker = path.stem.rpartition("-")[0]
            by_worker[worker] = by_worker.get(worker, 0) + 1
    count = sum(by_worker.values())
    said = f"{count} segments of {len(by_worker)} workers hold {megabytes(size)}"
    if by_worker and max(by_worker.values()) > _MANY_SEGMENTS:
        yield warn(f"{said}: they pile up", f"The collector does not keep pace: {_LOGS}")
    else:
        yield ok(said)
