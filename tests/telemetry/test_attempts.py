"""Retried requests count once, by their highest attempt."""

from __future__ import annotations

import time

import polars as pl
from msgspec import structs


def rows(home) -> pl.DataFrame:
    return pl.read_parquet(home.layout.predictions / "**/*.parquet", hive_partitioning=False).sort(
        "time"
    )


def retried(home, *statuses: int):
    """Attempts at one request, in the order of `statuses`."""
    return [
        home.record(1, status=status, attempt=number, request_id="again")
        for number, status in enumerate(statuses, 1)
    ]


def test_highest_attempt_of_one_batch_counts(home):
    home.add_version(1)
    first, second, third = home.write(*retried(home, 503, 503, 200))
    collector = home.collector()
    collector.collect()
    total = home.evidence().totals()[1]
    assert (total.requests, total.errors, dict(total.codes)) == (1, 0, {200: 1})
    collector.seal()
    (row,) = rows(home).to_dicts()
    assert row["prediction_id"] == third.prediction_id
    assert sorted(row["aliases"]) == sorted([first.prediction_id, second.prediction_id])
    collector.close()


def test_later_attempt_replaces_a_counted_one(home):
    home.add_version(1)
    home.watch(versions=[1])
    first, second, third = retried(home, 503, 500, 200)
    collector = home.collector()
    home.write(first)
    collector.collect()
    assert home.evidence().totals()[1].errors == 1
    home.write(second, third)
    collector.collect()
    evidence = home.evidence()
    total = evidence.totals()[1]
    assert (total.requests, total.errors, dict(total.codes)) == (1, 0, {200: 1})
    assert sum(one.rows for one in evidence.windows(1, 0, 1 << 62)) == 1
    time.sleep(0.6)
    collector.collect()
    (tick,) = [one for one in evidence.ticks(1) if one.requests]
    assert (tick.requests, tick.errors, int(tick.score.sum())) == (1, 0, 1)
    collector.seal()
    (row,) = rows(home).to_dicts()
    assert row["prediction_id"] == third.prediction_id
    assert sorted(row["aliases"]) == sorted([first.prediction_id, second.prediction_id])
    collector.close()


def test_earlier_attempt_that_comes_late_is_an_alias(home):
    home.add_version(1)
    first, second = retried(home, 503, 200)
    collector = home.collector()
    home.write(second)
    collector.collect()
    home.write(first, replica=1)
    collector.collect()
    assert dict(home.evidence().totals()[1].codes) == {200: 1}
    collector.seal()
    (row,) = rows(home).to_dicts()
    assert row["aliases"] == [first.prediction_id]
    collector.close()


def test_a_sealed_attempt_stays_also_after_a_restart(home):
    home.add_version(1)
    first, second = retried(home, 200, 200)
    home.write(first)
    home.collector().close()
    home.write(second, replica=1)
    home.collector().close()
    (row,) = rows(home).to_dicts()
    assert row["prediction_id"] == first.prediction_id
    assert home.evidence().totals()[1].requests == 1


def test_shadow_and_other_versions_are_requests_of_their_own(home):
    home.add_version(1)
    home.add_version(2)
    home.write(
        home.record(1, request_id="one"),
        home.record(2, request_id="one"),
        home.record(2, request_id="one", shadow=True),
        structs.replace(home.record(1), request_id=""),
        structs.replace(home.record(1), request_id=""),
    )
    collector = home.collector()
    collector.collect()
    assert {k: v.requests for k, v in home.evidence().totals().items()} == {1: 3, 2: 2}
    collector.close()
