"""Killed at any moment, the collector neither loses nor doubles anything."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import polars as pl
import pytest

from modelfleet.telemetry.evidence import merge_windows


class Killed(BaseException):
    """Stands for a kill: nobody catches it."""


@contextmanager
def killed_after(lines: int) -> Iterator[None]:
    """Raise `Killed` at the n-th executed line of the telemetry room."""
    left = lines

    def trace(frame: FrameType, event: str, _: object):
        nonlocal left
        if "modelfleet/telemetry" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def check_all_there(home, wanted: set[bytes], aliases: int) -> None:
    evidence = home.evidence()
    totals = evidence.totals()
    assert sum(total.requests for total in totals.values()) == len(wanted)
    for index in totals:
        merged = merge_windows(evidence.windows(index, 0, 1 << 62))
        assert merged.requests == totals[index].requests
        assert merged.latency.sum() == totals[index].latency.sum()
        assert all(counts.sum() == merged.rows for counts in merged.features)
    table = pl.read_parquet(home.layout.predictions / "**/*.parquet", hive_partitioning=False)
    assert sorted(table["prediction_id"]) == sorted(wanted)
    assert table["aliases"].list.len().sum() == aliases
    assert list(home.layout.outcome_inbox.glob("*.ndjson")) == []
    evidence.close()


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_random_lines(home, seed):
    random.seed(seed)
    home.add_version(1)
    home.add_version(2)
    home.watch(versions=[1, 2])
    wanted: set[bytes] = set()
    aliases = labels = 0
    at = time.time()
    for turn in range(25):
        written = home.write(
            *[home.record(1 + k % 2, at=at + turn / 50) for k in range(random.randrange(40))],
            replica=turn % 2,
        )
        wanted |= {record.prediction_id for record in written}
        if written:  # one request is tried again, on the other replica
            old = written[0]
            (new,) = home.write(
                home.record(old.version, attempt=2, request_id=old.request_id, at=at + turn / 50),
                replica=1 - turn % 2,
            )
            wanted ^= {old.prediction_id, new.prediction_id}
            aliases += 1
            labels += 1
            home.drop_outcomes(
                {"prediction_id": hyphened(old.prediction_id), "value": 1}, name=f"o{turn:03d}"
            )
        try:
            with killed_after(random.randrange(1, 9000)):
                collector = home.collector()
                for _ in range(3):
                    collector.collect()
                    collector._inbox.collect()
                    if random.random() < 0.3:
                        collector.seal()
        except Killed:
            collector = None
        gc.collect()  # its connection lets go of its lock, as that of a dead process does
    collector = home.collector()
    collector.collect()
    time.sleep(0.1)  # parked outcomes become due
    collector._inbox.collect()
    collector.close()
    check_all_there(home, wanted, aliases)
    assert home.evidence().outcomes_joined() == labels
    assert sum(one.labelled for v in (1, 2) for one in home.evidence().outcomes(v)) == labels


def test_kill_9_under_load(home):
    home.add_version(1)
    wanted: set[bytes] = set()
    random.seed(1)
    environment = os.environ | {
        "MODELFLEET_EVIDENCE__TICK_SECONDS": "0.05",
        "MODELFLEET_EVIDENCE__WINDOW_SECONDS": "1",
        "MODELFLEET_EVIDENCE__ROTATE_SECONDS": "0",
        "MODELFLEET_EVIDENCE__COLLECT_INTERVAL_SECONDS": "0.01",
    }
    command = [sys.executable, "-m", "modelfleet.telemetry.main", "--home", home.layout.home]
    for life in range(5):
        wanted |= {record.prediction_id for record in home.write(home.record(1))}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert "collecting" in process.stderr.readline()
        ends = time.monotonic() + 0.1 + random.random() / 2
        while time.monotonic() < ends:
            written = home.write(*[home.record(1) for _ in range(20)], replica=random.randrange(3))
            wanted |= {record.prediction_id for record in written}
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL if life < 4 else signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0
    check_all_there(home, wanted, 0)


def hyphened(raw: bytes) -> str:
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
