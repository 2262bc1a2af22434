"""Outcomes meet their predictions: held, sealed, late, unknown, batched, repeated."""

from __future__ import annotations

import math
import time

import numpy as np
import polars as pl
import pytest

from modelfleet.telemetry.inbox import parse_line
from modelfleet.telemetry.outcomes import Losses
from modelfleet_worker.wire.ids import format_id


def outcome(record, value: float, **more: object) -> dict[str, object]:
    row = more.pop("row", None)
    identity = format_id(record.prediction_id) + ("" if row is None else f"#{row}")
    return {"prediction_id": identity, "value": value} | more


def test_held_and_sealed_predictions_are_joined(home):
    home.add_version(1)
    at = 1_800_000_000.0
    records = [home.record(1, at=at, score=score) for score in (0.9, 0.8, 0.3, 0.1)]
    home.write(*records)
    collector = home.collector()
    collector.collect()
    first = home.drop_outcomes(outcome(records[0], 1), outcome(records[1], 0), name="a")
    collector._inbox.collect()
    assert not first.exists()
    collector.seal()
    home.drop_outcomes(outcome(records[2], 1), outcome(records[3], 0), name="b")
    collector._inbox.collect()
    evidence = home.evidence()
    (window,) = evidence.outcomes(1)
    assert (window.predictions, window.labelled, window.wrong) == (4, 4, 2)
    assert window.squared == pytest.approx(0.01 + 0.64 + 0.49 + 0.01)
    assert window.log_loss == pytest.approx(
        -math.log(0.9) - math.log(0.2) - math.log(0.3) - math.log(0.9)
    )
    assert evidence.outcomes_joined() == 4
    collector.close()
    table = pl.read_parquet(home.layout.outcomes / "**/*.parquet", hive_partitioning=False)
    assert set(table["prediction_id"]) == {record.prediction_id for record in records}
    assert sorted(table["value"]) == [0, 0, 1, 1]


def test_unknown_ids_are_parked_until_their_prediction_comes(home):
    home.add_version(1)
    record = home.record(1)
    home.drop_outcomes(outcome(record, 1))
    collector = home.collector()
    collector._inbox.collect()
    evidence = home.evidence()
    assert (evidence.outcomes_joined(), evidence.parked()) == (0, 1)
    collector.close()
    home.write(record)
    after = home.collector()
    after.collect()
    time.sleep(0.15)
    after._inbox.collect()
    assert (evidence.outcomes_joined(), evidence.parked()) == (1, 0)
    after.close()


def test_rows_of_a_batch_and_regressions(home):
    home.add_version(1, regression=True)
    at = 1_800_000_000.0
    record = home.record(1, at=at, rows=3)
    record.outputs[0] = np.array([1.0, 20.0, 300.0], "<f8").tobytes()
    home.write(record)
    collector = home.collector()
    for sealed, value in ((False, 22.0), (True, 310.0)):
        collector.collect()
        row = 2 if sealed else 1
        home.drop_outcomes(outcome(record, value, row=row))
        collector._inbox.collect()
        collector.seal()
    home.drop_outcomes(outcome(record, 5.0, row=3), outcome(record, 0.5))
    collector._inbox.collect()
    evidence = home.evidence()
    (window,) = evidence.outcomes(1)
    assert (window.labelled, window.absolute, window.squared) == (3, 12.5, 104.25)
    assert (window.wrong, window.log_loss) == (0, 0.0)
    assert evidence.counter("outcomes_rejected") == 1  # there is no row 3
    collector.close()


def test_aliases_repeats_and_corrections(home):
    home.add_version(1)
    first = home.record(1, status=503, attempt=1, request_id="again")
    second = home.record(1, score=0.9, attempt=2, request_id="again")
    home.write(first, second)
    collector = home.collector()
    collector.collect()
    evidence = home.evidence()

    def drop(record, value, key, event_time):
        home.drop_outcomes(
            outcome(record, value, idempotency_key=key, event_time=event_time, source="t")
        )
        collector._inbox.collect()
        (window,) = evidence.outcomes(1)
        return window.labelled, window.wrong

    assert drop(first, 0, "k1", "2027-01-01T00:00:00Z") == (1, 1)
    assert drop(first, 0, "k1", "2027-01-01T00:00:00Z") == (1, 1)  # the same again
    assert drop(second, 1, "k0", "2026-12-31T00:00:00Z") == (1, 1)  # an older observation
    assert drop(second, 1, "k2", "2027-01-02T00:00:00+01:00") == (1, 0)  # a later one
    assert evidence.outcomes_joined() == 1
    collector.close()


def test_a_file_consumed_before_a_kill_is_not_read_again(home):
    home.add_version(1)
    record = home.record(1)
    home.write(record)
    collector = home.collector()
    collector.collect()
    collector._inbox._remove = lambda files: (_ for _ in ()).throw(KeyboardInterrupt)
    path = home.drop_outcomes(outcome(record, 1))
    with pytest.raises(KeyboardInterrupt):
        collector._inbox.collect()
    assert path.exists()
    collector._connection.close()
    after = home.collector()
    after._inbox.collect()
    assert not path.exists()
    assert home.evidence().outcomes_joined() == 1
    after.close()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b'{"prediction_id": "x", "value": 1}',
        b'{"prediction_id": "0192d1f0-0000-7000-8000-000000000000"}',
        b'{"prediction_id": "0192d1f0-0000-7000-8000-000000000000", "value": "x"}',
        b'{"prediction_id": "0192d1f0-0000-7000-8000-000000000000#-1", "value": 1}',
        b'{"prediction_id": "0192d1f0-0000-7000-8000-000000000000", "value": 1, "event_time": "x"}',
    ],
)
def test_lines_that_are_no_outcome(line):
    assert parse_line(line, 0) is None


def test_losses_can_be_taken_back():
    losses = Losses()
    for sign in (1, -1):
        losses.add(0.7, 1.0, True, sign)
        losses.add(3.0, 1.0, False, sign)
    losses.add(float("nan"), 1.0, True)
    assert (losses.labelled, losses.wrong) == (0, 0)
    assert losses.absolute + losses.squared + losses.log_loss == pytest.approx(0)
    losses = Losses()
    losses.add(0.0, 1.0, True)
    assert losses.log_loss == pytest.approx(-math.log(1e-7))
