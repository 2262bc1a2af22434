"""Requests that bring their worker down are found in its in-flight slots."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl

from modelfleet.telemetry import orphans
from modelfleet.telemetry.orphans import ControlWatch
from modelfleet_worker.wire.control import DEAD_SUFFIX, ControlBlock

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
block.occupy(1, b"r1")
block.occupy(1, b"r2")
block.release(block.occupy(1, b"r3"))
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


def put_aside(control: Path) -> None:
    """What the host agent does with the block of a worker that died by its own doing."""
    control.replace(control.with_suffix(DEAD_SUFFIX))


def test_a_worker_that_was_killed_from_outside_harms_no_version(home):
    home.add_version(1)
    worker = start_worker(home)
    collector = home.collector()
    collector.cycle()
    worker.kill()
    worker.wait()
    collector.cycle()
    ControlBlock.create(home.layout.control_block("main", 0)).close()
    collector.cycle()
    assert dict(home.evidence().totals()[1].codes) == {400: 2}
    collector.close()


def test_a_worker_that_brought_itself_down_leaves_crash_records_once(home):
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
    put_aside(home.layout.control_block("main", 0))
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


def test_each_death_is_told_once_and_old_ones_not_at_all(home, monkeypatch):
    first = start_worker(home, 1)
    watch = ControlWatch(home.layout.control)
    assert watch.poll() == []
    assert [status.up for status in watch.status()] == [True]
    assert watch.is_alive("main-0-1", first.pid)
    first.kill()
    first.wait()
    put_aside(home.layout.control_block("main", 0))
    second = start_worker(home, 2)
    (death,) = watch.poll()
    assert death.writer == "main-0-1"
    assert [slot.request_id for slot in death.slots] == ["r1", "r2"]
    (again,) = ControlWatch(home.layout.control).poll()
    assert again == death
    with monkeypatch.context() as changed:
        changed.setattr(orphans, "_RECENT_SECONDS", 0.0)
        assert ControlWatch(home.layout.control).poll() == []
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
