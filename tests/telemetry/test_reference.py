"""The collector works by batches; here the same is counted record by record, and compared."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from msgspec import structs

from modelfleet.telemetry import reading
from modelfleet.telemetry.latency import BOUNDS_US
from modelfleet_worker.wire import profile
from modelfleet_worker.wire.segment import Record

START = 1_800_000_000
VERSIONS = {1: False, 2: False, 3: True}
"""Index, and whether it is a regression. Version 9 is known to nobody."""


@dataclass
class Plain:
    """A window as nobody would count it twice."""

    requests: int = 0
    rows: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    latency: Counter[int] = field(default_factory=Counter)
    features: list[Counter[int]] = field(default_factory=lambda: [Counter() for _ in range(3)])
    scores: list[float] = field(default_factory=list)

    def add(self, record: Record, reference: profile.Profile | None) -> None:
        self.requests += 1
        self.codes[record.status] += 1
        if record.status != 200:
            return
        self.latency[bisect_left(BOUNDS_US.tolist(), record.latency_ns / 1000)] += 1
        if reference is None:
            self.rows += record.rows
            return
        if len(record.inputs[0]) != record.rows * 24:
            return  # unreadable
        self.rows += record.rows
        for row in np.frombuffer(record.inputs[0], "<f8").reshape(-1, 3):
            for k, bins in enumerate(reference.features):
                self.features[k][int(bins.bin(row[k : k + 1])[0])] += 1
        output = np.frombuffer(record.outputs[-1], "<f8")
        self.scores += output.tolist() if len(record.outputs) == 1 else output[1::2].tolist()


def history(home, rng: random.Random, count: int) -> list[Record]:
    """Records with retries, errors, shadows, late ones, several versions and shapes."""
    records: list[Record] = []
    for k in range(count):
        version = rng.choice([1, 1, 1, 2, 3, 9])
        status = rng.choice([200] * 8 + [404, 500, 503])
        record = home.record(
            version,
            score=rng.random(),
            rows=rng.choice([1, 1, 1, 2, 7]) if status == 200 else 0,
            status=status,
            shadow=rng.random() < 0.1,
            request_id=f"r{k}",
            at=START + rng.random() * 4,
            latency_us=rng.lognormvariate(7, 2),
            shift=rng.choice([0.0, 3.0]),
            inputs=[b"\0" * 7] if rng.random() < 0.01 else None,
        )
        if rng.random() < 0.02:
            record = structs.replace(record, request_id="")
        records.append(record)
        for attempt in range(2, 5):
            if rng.random() > 0.2:
                break
            again = home.record(version, attempt=attempt, at=START + rng.random() * 4)
            records.append(structs.replace(again, request_id=record.request_id, flags=record.flags))
    return records


def distinct(records: list[Record]) -> tuple[list[Record], dict[bytes, set[bytes]]]:
    """The highest attempt of each request; and the predictions that it stands for."""
    found: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        name = record.request_id or record.prediction_id
        found.setdefault((name, record.version, record.flags), []).append(record)
    best = [max(attempts, key=lambda one: one.attempt) for attempts in found.values()]
    aliases = {
        one.prediction_id: {other.prediction_id for other in attempts if other is not one}
        for one, attempts in zip(best, found.values(), strict=True)
    }
    return best, aliases


@pytest.mark.parametrize("seed", range(6))
def test_batches_count_like_single_records(home, seed, monkeypatch):
    """Whether attempts at a request meet in one block or not."""
    if seed % 2:
        monkeypatch.setattr(reading, "BLOCK_BYTES", 1500)
    rng = random.Random(seed)
    references: dict[int, profile.Profile | None] = {9: None}
    for index, regression in VERSIONS.items():
        home.add_version(index, regression=regression)
        references[index] = profile.load(Path(home.versions[-1].path))
    records = history(home, rng, 400)
    order = sorted(records, key=lambda one: one.attempt * 60 + rng.random() * 200)
    collector = home.collector()
    for start in range(0, len(order), 150):
        for record in order[start : start + 150]:
            home.write(record, replica=rng.randrange(3))
        collector.collect()
        if rng.random() < 0.4:  # as if killed
            collector._connection.close()
            collector = home.collector()
    best, aliases = distinct(records)
    check_windows(home, best, references)
    collector.close()
    check_parquet(home, best, aliases)


def check_windows(home, best: list[Record], references) -> None:
    expected: dict[tuple[int, int], Plain] = {}
    for record in best:
        key = (record.version, record.time_ns // 1_000_000_000)
        expected.setdefault(key, Plain()).add(record, references[record.version])
    evidence = home.evidence()
    found = {
        (version, window.start_us // 1_000_000): window
        for version in references
        for window in evidence.windows(version, 0, 1 << 62)
        if window.requests
    }
    assert found.keys() == expected.keys()
    for key, plain in expected.items():
        window = found[key]
        assert (window.requests, window.rows) == (plain.requests, plain.rows)
        assert {code: n for code, n in window.codes.items() if n} == plain.codes
        assert counter_of(window.latency) == plain.latency
        if references[key[0]] is not None:
            assert [counter_of(one) for one in window.features] == plain.features
        assert window.scored == len(plain.scores)
        assert window.score_sum == pytest.approx(sum(plain.scores))
        assert window.score_squares == pytest.approx(sum(one * one for one in plain.scores))
    for version, total in evidence.totals().items():
        mine = [plain for (index, _), plain in expected.items() if index == version]
        assert total.requests == sum(plain.requests for plain in mine)
        assert total.errors == sum(n for p in mine for code, n in p.codes.items() if code >= 500)
    evidence.close()


def check_parquet(home, best: list[Record], aliases: dict[bytes, set[bytes]]) -> None:
    table = pl.read_parquet(home.layout.predictions / "**/*.parquet", hive_partitioning=False)
    rows = {row["prediction_id"]: row for row in table.to_dicts()}
    assert len(rows) == table.height == len(best)
    for record in best:
        row = rows[record.prediction_id]
        assert set(row["aliases"]) == aliases[record.prediction_id]
        assert int(row["time"].timestamp() * 1e6 + 0.5) == record.time_ns // 1000
        assert row["shadow"] == bool(record.flags)
        assert row["version_index"] == record.version
        names = "request_id endpoint latency_ns status attempt caller client_request_id trace_id"
        for name in [*names.split(), "rows", "inputs", "outputs", "error"]:
            assert row[name] == getattr(record, name)
        if record.status != 200 or record.version == 9 or len(record.inputs[0]) == 7:
            assert row["score"] is None
        else:
            output = np.frombuffer(record.outputs[-1], "<f8")
            assert row["score"] == output[0 if len(record.outputs) == 1 else 1]


def counter_of(counts) -> Counter[int]:
    return Counter({k: int(n) for k, n in enumerate(counts) if n})
