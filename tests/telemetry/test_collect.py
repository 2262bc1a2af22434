"""From segments to states and Parquet, in one process."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import polars as pl

from modelfleet.telemetry.evidence import merge_windows
from modelfleet.telemetry.lookup import sealed_ids


def parquet(home) -> pl.DataFrame:
    return pl.read_parquet(home.layout.predictions / "**/*.parquet", hive_partitioning=False)


def test_records_become_windows_totals_and_parquet(home):
    home.add_version(7, model="late")
    at = 1_800_000_000.25
    records = home.write(
        *[home.record(7, score=k / 100, at=at + k * 0.001) for k in range(100)],
        home.record(7, status=500, at=at),
        home.record(7, status=404, at=at),
        home.record(7, rows=5, at=at + 1),
    )
    collector = home.collector()
    assert collector.collect() == len(records)
    evidence = home.evidence()
    first, second = evidence.windows(7, 0, 1 << 62)
    assert (first.requests, first.rows, first.errors) == (102, 100, 1)
    assert dict(first.codes) == {200: 100, 500: 1, 404: 1}
    assert second.rows == 5
    assert second.requests == 1
    assert first.latency.sum() == 100
    layout = evidence.layout(first.layout)
    assert layout is not None
    x = np.stack([np.frombuffer(record.inputs[0], "<f8") for record in records[:100]])
    for k, bins in enumerate(layout.features):
        places = np.searchsorted(bins.edges, x[:, k], side="right")
        assert first.features[k].tolist() == np.bincount(places, minlength=21).tolist()
    assert first.score.sum() == 100
    assert abs(first.score_sum - 49.5) < 1e-9
    total = evidence.totals()[7]
    assert (total.model, total.version, total.requests, total.errors) == ("late", "1.0.0", 103, 1)
    assert collector.seal() == 103
    table = parquet(home)
    assert table.height == 103
    assert set(table["prediction_id"]) == {record.prediction_id for record in records}
    assert table.filter(pl.col("status") == 200)["score"].null_count() == 0
    assert table["endpoint"].unique().to_list() == ["endpoint-7"]
    assert abs(table["time"].min().timestamp() - at) < 2e-6
    collector.close()


def test_unknown_version_and_unreadable_tensors_are_still_counted(home):
    home.add_version(1)
    at = 1_800_000_000.0
    home.write(
        home.record(99, at=at),
        home.record(1, at=at, inputs=[b"\0" * 7]),
        home.record(1, at=at),
    )
    collector = home.collector()
    collector.collect()
    evidence = home.evidence()
    assert evidence.totals()[99].requests == 1
    assert evidence.totals()[99].model == "unknown"
    (window,) = evidence.windows(1, 0, 1 << 62)
    assert (window.requests, window.rows) == (2, 1)
    assert evidence.counter("unreadable") == 1
    assert collector.seal() == 3
    collector.close()


def test_windows_merge_to_the_whole(home):
    home.add_version(1)
    at = 1_800_000_000.0
    home.write(*[home.record(1, score=0.5, at=at + k * 0.1, rows=1 + k % 3) for k in range(50)])
    collector = home.collector()
    collector.collect()
    windows = home.evidence().windows(1, 0, 1 << 62)
    assert len(windows) == 5
    merged = merge_windows(windows)
    assert merged.requests == 50
    assert merged.rows == sum(1 + k % 3 for k in range(50))
    assert all(counts.sum() == merged.rows for counts in merged.features)
    assert (merged.end_us - merged.start_us) == 5_000_000
    collector.close()


def test_finished_segments_are_removed_and_live_ones_kept(home):
    home.add_version(1)
    big = [b"\0" * 200_000]
    for k in range(12):  # about five records fit into a segment of 1 MiB
        home.write(home.record(1, inputs=big, request_id=f"r{k}"))
    assert len(list(home.layout.segments.glob("*.seg"))) == 3
    collector = home.collector()
    collector.collect()
    assert len(list(home.layout.segments.glob("*.seg"))) == 3  # not sealed yet
    collector.seal()
    assert [path.name for path in home.layout.segments.glob("*.seg")] == ["main-0-1-2.seg"]
    collector.close()
    assert parquet(home).height == 12


def test_what_came_between_the_last_look_and_the_end_of_a_segment_is_read(home):
    home.add_version(1)
    big = [b"\0" * 200_000]
    home.write(home.record(1, inputs=big, request_id="before"))
    collector = home.collector()
    collector.collect()
    for k in range(8):  # on into the next segment
        home.write(home.record(1, inputs=big, request_id=f"r{k}"))
    collector.collect()
    collector.seal()
    collector.close()
    assert parquet(home).height == 9


def test_batches_are_sealed_and_metered_apart(home):
    home.add_version(1)
    mine = msgspec.structs.replace(home.record(1, rows=5), endpoint="batch:run")
    home.write(mine)
    home.write(home.record(1))
    collector = home.collector()
    collector.collect()
    collector.close()
    reader = home.evidence()
    assert reader.totals()[1].requests == 1
    assert sum(one.rows for one in reader.windows(1, 0, 1 << 62)) == 1
    assert reader.batch_rows() == [("model-1", "1.0.0", 5)]
    assert len(reader.recent_predictions(1)) == 2  # one from Parquet
    assert parquet(home).height == 2
    assert sealed_ids(home.layout, [mine.prediction_id, b"x" * 16]) == {mine.prediction_id}


def test_history_and_recent_predictions(home):
    home.add_version(1)
    start = 1_800_000_000
    for second in range(4):
        home.write(
            *[home.record(1, at=start + second, latency_us=1000 * (second + 1)) for _ in range(20)]
        )
    collector = home.collector()
    collector.collect()
    evidence = home.evidence()
    series = evidence.history(1, start * 1_000_000, 2, (start + 6) * 1_000_000)
    assert series.requests.tolist() == [40, 40, 0]
    assert 900 < series.p50_us[0] < 1100
    assert 3500 < series.p99_us[1] < 4100
    assert np.isnan(series.p50_us[2])
    recent = evidence.recent_predictions(1, 5)
    assert len(recent) == 5
    assert set(recent[0].inputs) == {"f0", "f1", "f2"}
    assert recent[0].outputs["label"] == 1
    collector.seal()
    assert len(evidence.recent_predictions(1, 30)) == 30
    assert len({one.prediction_id for one in evidence.recent_predictions(1, 30)}) == 30
    collector.close()


def test_an_empty_home_has_no_evidence(home):
    evidence = home.evidence()
    assert evidence.totals() == {}
    assert evidence.windows(1, 0, 1 << 62) == []
    assert evidence.ticks(1) == []
    assert evidence.pair_ticks(1, 2) == []
    assert evidence.latest_window() is None
    assert evidence.history(1, 0, 60).requests.tolist() == [0]
    assert evidence.recent_predictions(1) == []
    assert evidence.outcomes(1) == []
    assert evidence.outcomes_joined() == 0
    assert evidence.layout_of(1) is None


def test_closed_windows_lie_wholly_before_the_horizon(home):
    home.add_version(1)
    home.write(home.record(1))
    collector = home.collector()
    collector.collect()
    evidence = home.evidence()
    latest = evidence.latest_window()
    assert latest is not None
    assert latest + evidence.window_us() <= evidence.closed_until() <= time.time_ns() // 1000
    collector.close()
