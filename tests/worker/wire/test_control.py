from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelfleet_worker.wire.control import MAX_FAILED, MAX_LOADS, SLOTS, ControlBlock, Load, State

OWNER = """
import sys, time
from pathlib import Path
from modelfleet_worker.wire.control import ControlBlock
block = ControlBlock.open(Path(sys.argv[1]), writable=True)
block.begin(7)
block.occupy(17, b"0190-request")
print("begun", flush=True)
time.sleep(60)
"""


def test_what_the_worker_writes_the_reader_sees(tmp_path: Path) -> None:
    path = tmp_path / "pool-0.ctl"
    block = ControlBlock.create(path)
    block.begin(3)
    block.set_state(State.READY)
    block.set_error("version 9: " + "ü" * 300)
    block.add_dropped()
    block.add_dropped(4)
    block.set_running(2)
    block.acknowledge(12, [9, 11])
    seen = ControlBlock.open(path).snapshot()
    assert (seen.incarnation, seen.state, seen.revision) == (3, State.READY, 12)
    assert seen.failed == (9, 11)
    assert (seen.dropped, seen.running) == (5, 2)
    assert seen.error == "version 9: " + "ü" * 122
    assert 0 <= seen.silent_for() < 5


def test_more_failures_than_fit_are_cut(tmp_path: Path) -> None:
    block = ControlBlock.create(tmp_path / "c")
    block.begin(0)
    block.acknowledge(1, list(range(1, 100)))
    assert len(block.snapshot().failed) == MAX_FAILED
    block.acknowledge(2)
    assert block.snapshot().failed == ()


def test_loads_are_told_as_they_are(tmp_path: Path) -> None:
    block = ControlBlock.create(tmp_path / "c")
    block.begin(0)
    block.acknowledge(1, [5])
    told = [Load(1, 2**40, 3, 4), Load(4_000_000_000, 0, 1, 2**63)]
    block.tell_loads(told)
    seen = ControlBlock.open(tmp_path / "c").snapshot()
    assert seen.loads == tuple(told)
    assert (seen.revision, seen.failed) == (1, (5,))
    many = [Load(index, index, 1, 1) for index in range(MAX_LOADS + 9)]
    block.tell_loads(many)
    assert block.snapshot().loads == tuple(many[:MAX_LOADS])
    assert block.slots() == []
    block.tell_loads([])
    assert block.snapshot().loads == ()


def test_slots_are_taken_and_freed(tmp_path: Path) -> None:
    block = ControlBlock.create(tmp_path / "c")
    block.begin(0)
    first = block.occupy(17, b"a" * 50)
    second = block.occupy(18, b"b")
    block.release(first)
    (slot,) = block.slots()
    assert (slot.number, slot.version, slot.request_id) == (second, 18, "b")
    assert 0 <= slot.age() < 5
    taken = [block.occupy(1, b"x") for _ in range(SLOTS)]
    assert taken.count(-1) == 1
    block.release(-1)
    assert len(block.slots()) == SLOTS


BUSY = """
import sys
from pathlib import Path
from modelfleet_worker.wire.control import ControlBlock
block = ControlBlock.open(Path(sys.argv[1]), writable=True)
block.begin(7)
print("begun", flush=True)
while True:
    block.release(block.occupy(17, b"0190-request"))
"""


def test_whoever_looks_meanwhile_sees_whole_slots(tmp_path: Path) -> None:
    """Half a slot has run since the machine was started: its worker would be taken for hung."""
    path = tmp_path / "c"
    ControlBlock.create(path).close()
    owner = subprocess.Popen([sys.executable, "-c", BUSY, str(path)], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"begun\n"
        seen = 0
        with ControlBlock.open(path) as block:
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                for slot in block.slots():
                    seen += 1
                    assert (slot.version, slot.request_id) == (17, "0190-request")
                    assert slot.age() < 5
        assert seen
    finally:
        owner.kill()
        owner.wait()


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"x")
    with pytest.raises(ValueError, match="not a control block"):
        ControlBlock.open(tmp_path / "c")


def test_the_dead_are_known_before_they_are_reaped(tmp_path: Path) -> None:
    path = tmp_path / "c"
    ControlBlock.create(path).close()
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(path)], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"begun\n"
        reader = ControlBlock.open(path)
        assert reader.alive()
        with ControlBlock.open(path, writable=True) as second, pytest.raises(OSError):
            second.begin(8)
        owner.kill()
        deadline = time.monotonic() + 10
        while reader.alive():  # nobody has waited for the process: it is a zombie now
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert owner.returncode is None
        (slot,) = reader.slots()
        assert (slot.version, slot.request_id) == (17, "0190-request")
    finally:
        owner.kill()
        owner.wait()
        assert owner.stdout is not None
        owner.stdout.close()
