"""Files of other releases: never read wrongly, never thrown away."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from modelfleet.core.errors import Conflict
from modelfleet.core.layout import Layout
from modelfleet.serving.pools import observe
from modelfleet.serving.pulse import read_pulse
from modelfleet.telemetry.database import SCHEMA_VERSION, open_reader, open_writer
from modelfleet.telemetry.recorded import _fits
from modelfleet_worker.wire.control import MAGIC, ControlBlock
from modelfleet_worker.wire.desired import PoolSpec, VersionSpec
from modelfleet_worker.wire.segment import SegmentReader
from modelfleet_worker.wire.signature import TensorSpec


def test_evidence_of_another_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "evidence.db"
    open_writer(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(Conflict, match=f"schema {SCHEMA_VERSION + 1}"):
        open_writer(path)
    assert path.read_bytes() == before
    assert open_reader(path) is None


def test_a_control_block_of_another_format_counts_as_none(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    path = layout.control_block("a", 0)
    path.parent.mkdir(parents=True)
    with ControlBlock.create(path) as block:
        block.begin(1)
    assert read_pulse(path) is not None
    content = path.read_bytes()
    path.write_bytes(MAGIC.replace(b"1", b"2") + content[8:])
    assert read_pulse(path) is None
    spec = PoolSpec("a", 1, "p", 1, versions=(VersionSpec(1, "m", "1.0.0", 1, "d", "/b"),))
    found = observe(layout, {"a": spec})
    assert not found.ready
    assert not found.failed


def test_a_segment_of_another_format_is_no_segment(tmp_path: Path) -> None:
    path = tmp_path / "a-0-1-0.seg"
    path.write_bytes(b"MFSEG2\0\0" + bytes(8192))
    with pytest.raises(ValueError, match="is not a segment"):
        SegmentReader(path)
    assert path.exists()


def test_records_that_can_be_asked_again() -> None:
    specs = (TensorSpec("a", "FP32", (-1, -1)), TensorSpec("b", "FP32", (-1, -1, -1)))
    one = [np.ones((1, 4)), np.ones((1, 2, 3))]
    assert _fits(specs, one, [])
    assert _fits(specs, one, [one])
    assert not _fits(specs, [np.ones((1, 5)), np.ones((1, 2, 3))], [one])
    assert not _fits(specs, [np.ones((1, 4)), np.ones((1, 6))], [])
