"""Requests that die with their worker are found in its in-flight slots."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl

from modelfleet.telemetry.orphans import ControlWatch
from modelfleet_worker.wire.control import ControlBlock

# A worker that holds requests r1 and r2; r2's record is written, its slot not yet free.
WORKER = """
import sys, time
from pathlib import Path
from modelfleet_worker.wire.control import ControlBlock, State
from modelfleet_worker.wire.segment import Record, SegmentWriter, encode
control, segments, incarnation = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
block = ControlBlock.open(control, writable=True)
block.begin(incarnation)
block.set_state(State.READY)
block.add_dropped(3)
writer = SegmentWriter(segments, "main", 0, incarnation, 1, block)
block.occupy(1, "r1")
block.occupy(1, "r2")
block.release(block.occupy(1, "r3"))
for name in ("r2", "r3"):
    writer.append(encode(Record(1, name.encode() * 8, name, b"", time.time_ns(), 1, 400, 1, 0, 0,
                                [], [], "", "", "", "")))
print("ready", flush=True)
time.sleep(60)
"""


def start_worker(home, incarnation: int = 1) -> subprocess.Popen[str]:
    control = home.layout.control_block("main", 0)
    ControlBlock.create(control).close()
    source = Path(__file__).parents[2] / "src"
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, control, home.layout.segments, str(incarnation)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(source)},
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_worker_leaves_crash_records_once(home):
    home.add_version(1)
    home.watch(versions=[1])
    worker = start_worker(home)
    collector = home.collector()
    collector.cycle()
    evidence = home.evidence()
    assert dict(evidence.totals()[1].codes) == {400: 2}
    worker.kill()
    worker.wait()
    collector.cycle()
    collector.cycle()
    assert dict(evidence.totals()[1].codes) == {400: 2, 599: 1}
    assert evidence.totals()[1].errors == 1
    assert evidence.dropped() == 3
    collector._connection.close()  # as if killed: the next one sees the same block
    after = home.collector()
    after.cycle()
    after.cycle()
    assert dict(evidence.totals()[1].codes) == {400: 2, 599: 1}
    time.sleep(0.6)
    after.collect()
    assert sum(one.errors for one in evidence.ticks(1)) == 1
    after.close()
    table = pl.read_parquet(home.layout.predictions / "**/*.parquet", hive_partitioning=False)
    assert sorted(table["request_id"]) == ["r1", "r2", "r3"]
    assert list(home.layout.segments.glob("*.seg")) == []  # its writer is dead


def test_a_replaced_block_still_tells_how_the_old_one_ended(home):
    first = start_worker(home, 1)
    watch = ControlWatch(home.layout.control)
    assert watch.poll() == []
    assert [status.up for status in watch.status()] == [True]
    assert watch.is_alive("main-0-1", first.pid)
    first.kill()
    first.wait()
    second = start_worker(home, 2)
    (death,) = watch.poll()
    assert death.writer == "main-0-1"
    assert [slot.request_id for slot in death.slots] == ["r1", "r2"]
    assert watch.poll() == []
    assert not watch.is_alive("main-0-1", first.pid)
    assert watch.is_alive("main-0-2", second.pid)
    second.kill()
    second.wait()
    watch.close()


def test_an_idle_death_is_no_crash(home):
    control = home.layout.control_block("main", 1)
    block = ControlBlock.create(control)
    watch = ControlWatch(home.layout.control)
    watch.poll()
    control.unlink()
    assert watch.poll() == []
    block.close()
    watch.close()
