from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelfleet_worker.wire import ids
from modelfleet_worker.wire.control import ControlBlock
from modelfleet_worker.wire.segment import (
    FIRST,
    Record,
    SegmentReader,
    SegmentWriter,
    decode,
    encode,
)

CRASHER = """
import os, signal, sys
from pathlib import Path
from modelfleet_worker.wire.control import ControlBlock
from modelfleet_worker.wire.segment import SegmentWriter
home = Path(sys.argv[1])
control = ControlBlock.create(home / "c")
control.begin(0)
writer = SegmentWriter(home / "segments", "p", 0, 4, 1, control)
from test_segment import record
from modelfleet_worker.wire.segment import encode
for k in range(2000):
    writer.append(encode(record(k, size=300)))
    os.write(1, b"%d\\n" % k)
os.kill(os.getpid(), signal.SIGKILL)
"""


def record(k: int, size: int = 32) -> Record:
    return Record(
        version=17,
        prediction_id=ids.uuid7(),
        request_id=f"r{k}",
        trace_id=b"",
        time_ns=k,
        latency_ns=5,
        status=200,
        attempt=1,
        flags=0,
        rows=1,
        inputs=[bytes(size)],
        outputs=[b"12345678"],
        caller="me",
        client_request_id="",
        endpoint="late",
        error="",
    )


@pytest.fixture
def control(tmp_path: Path) -> ControlBlock:
    block = ControlBlock.create(tmp_path / "control")
    block.begin(1)
    return block


def writer_in(folder: Path, control: ControlBlock) -> SegmentWriter:
    return SegmentWriter(folder, "pool-a", 1, 3, 1, control)


def test_records_come_back_in_order_and_reading_goes_on(
    tmp_path: Path, control: ControlBlock
) -> None:
    writer = writer_in(tmp_path, control)
    written = [record(k, size=k) for k in range(50)]
    for one in written[:30]:
        writer.append(encode(one))
    with SegmentReader(tmp_path / "pool-a-1-3-0.seg") as reader:
        assert (reader.header.pool, reader.header.replica, reader.header.k) == ("pool-a", 1, 0)
        assert reader.header.pid == os.getpid()
        first, offset = reader.read(FIRST, 20)
        rest, offset = reader.read(offset, 20)
        assert [one for _, one in first + rest] == written[:30]
        assert first[0][0] == FIRST
        assert reader.read(offset, 20) == ([], offset)
        for one in written[30:]:
            writer.append(encode(one))
        more, _ = reader.read(offset, 100)
        assert [one for _, one in more] == written[30:]
        again, _ = reader.read(first[7][0], 1)
        assert again[0][1] == written[7]


def test_a_full_segment_is_followed_by_the_next(tmp_path: Path, control: ControlBlock) -> None:
    writer = writer_in(tmp_path, control)
    for k in range(40):
        writer.append(encode(record(k, size=100_000)))
    paths = sorted(tmp_path.glob("*.seg"))
    assert len(paths) == 4
    found = [one for path in paths for _, one in SegmentReader(path).read()[0]]
    assert [one.time_ns for one in found] == list(range(40))
    assert control.snapshot().dropped == 0


def test_records_longer_than_one_read(tmp_path: Path, control: ControlBlock) -> None:
    writer = SegmentWriter(tmp_path, "p", 0, 0, 8, control)
    writer.append(encode(record(0, size=10)))
    writer.append(encode(record(1, size=3 << 20)))
    writer.append(encode(record(2, size=10)))
    found, _ = SegmentReader(tmp_path / "p-0-0-0.seg").read()
    assert [one.time_ns for _, one in found] == [0, 1, 2]


def test_a_record_that_can_never_fit_is_counted(tmp_path: Path, control: ControlBlock) -> None:
    writer = writer_in(tmp_path, control)
    writer.append(encode(record(0, size=2 << 20)))
    writer.append(encode(record(1)))
    assert control.snapshot().dropped == 1
    found, _ = SegmentReader(tmp_path / "pool-a-1-3-0.seg").read()
    assert [one.time_ns for _, one in found] == [1]


def test_a_disk_that_refuses_is_counted_and_told(tmp_path: Path, control: ControlBlock) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    writer = writer_in(blocked, control)
    writer.append(encode(record(0)))
    writer.append(encode(record(1)))
    seen = control.snapshot()
    assert seen.dropped == 2
    assert "prediction log" in seen.error


def test_reader_stops_at_a_wrong_checksum(tmp_path: Path, control: ControlBlock) -> None:
    writer = writer_in(tmp_path, control)
    for k in range(3):
        writer.append(encode(record(k)))
    path = tmp_path / "pool-a-1-3-0.seg"
    with SegmentReader(path) as reader:
        second = reader.read()[0][1][0]
    with open(path, "r+b") as stream:
        stream.seek(second + 20)
        stream.write(b"\xff\xff")
    with SegmentReader(path) as reader:
        found, offset = reader.read()
    assert [one.time_ns for _, one in found] == [0]
    assert offset == second


def test_what_is_no_record_is_skipped_and_counted(tmp_path: Path, control: ControlBlock) -> None:
    writer = writer_in(tmp_path, control)
    writer.append(b"\x93\x01\x02\x03")
    writer.append(encode(record(1)))
    with SegmentReader(tmp_path / "pool-a-1-3-0.seg") as reader:
        found, _ = reader.read()
        assert [one.time_ns for _, one in found] == [1]
        assert reader.skipped == 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.seg").write_bytes(bytes(5000))
    with pytest.raises(ValueError, match="not a segment"):
        SegmentReader(tmp_path / "x.seg")


def test_payload_is_a_plain_array_of_the_contract() -> None:
    payload = encode(record(5))
    assert payload[:2] == b"\xdc\x00"  # array of 16, msgpack
    assert decode(payload).time_ns == 5


def test_kill_9_loses_no_acknowledged_record(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *[p for p in sys.path if p]])
    done = subprocess.run(
        [sys.executable, "-c", CRASHER, str(tmp_path)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    acknowledged = [int(line) for line in done.stdout.split()]
    assert len(acknowledged) == 2000
    found, _ = SegmentReader(tmp_path / "segments" / "p-0-4-0.seg").read()
    assert [one.time_ns for _, one in found] == acknowledged
