"""What logging, counting and metrics cost for each request: in the worker, and in the collector."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from modelfleet_worker.wire.control import ControlBlock
from modelfleet_worker.wire.ids import uuid7
from modelfleet_worker.wire.segment import Record, SegmentWriter, encode
from modelfleet_worker.wire.tensors import pack
from serving.load import cpu_seconds, processes
from serving.ours import Fleet
from wrk import Wrk

_TURNS = 20_000
_SETTLE_SECONDS = 3.0


def in_the_worker(root: Path) -> float:
    """Microseconds to pack, encode and keep the record of one row of the small model."""
    folder = root / "record"
    control = ControlBlock.create(folder / "c.ctl")
    writer = SegmentWriter(folder, "p", 0, 1, 64, control)
    row, label, probability = np.ones((1, 4)), np.ones(1, np.int64), np.ones((1, 2))
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(_TURNS):
            inputs, outputs = [pack(row)], [pack(label), pack(probability)]
            now = time.time_ns()
            record = Record(
                1, uuid7(), "r" * 36, b"", now, 1, 200, 1, 0, 1, inputs, outputs, "c", "", "m", ""
            )
            writer.append(encode(record))
        best = min(best, (time.perf_counter() - began) / _TURNS)
    writer.close()
    return best * 1e6


def in_the_collector(fleet: Fleet, model: str) -> float:
    """Microseconds of the collector's CPU time for each request, until all are counted."""
    (collector,) = processes([f"modelfleet.telemetry.main --home {fleet.home}"])
    before = cpu_seconds(collector)
    headers = dict(fleet.headers)
    load = Wrk(fleet.url(model), fleet.body(model), headers, connections=16, seconds=5)
    outcome = load.wait()
    time.sleep(_SETTLE_SECONDS)
    return 1e6 * (cpu_seconds(collector) - before) / max(outcome.requests, 1)
