"""Outcomes: what really happened, joined to what was predicted.

A prediction's window holds the sums of losses over its labelled rows, so that versions can be
compared by cohorts of equal age. A later observation of the same row replaces the earlier one.
"""

from __future__ import annotations

import math
import os
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from modelfleet.telemetry.database import add_meta
from modelfleet.telemetry.layouts import Versions
from modelfleet.telemetry.lookup import Found, PredictionLookup

_CLIP = 1e-7
"""Probabilities of 0 and 1 would make a logarithmic loss infinite."""
_LOG_COLUMNS = (
    "prediction, row, version_index, prediction_time, score, value, event_time, arrived, "
    "source, key"
)


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """One observation. Times in microseconds; `row` counts from 0 within its request."""

    prediction: bytes
    row: int
    value: float
    event_time: int
    source: str
    key: str
    arrived: int


@dataclass(slots=True)
class Losses:
    """Sums over labelled rows. `wrong` (at 0.5) and `log_loss` are for probabilities only; there
    `squared` is the Brier score's sum."""

    labelled: int = 0
    wrong: int = 0
    absolute: float = 0.0
    squared: float = 0.0
    log_loss: float = 0.0
    predicted: int = 0
    """rows that were said to be true; for probabilities only, as are those that were (`positive`)
    and those that were both (`hits`)"""
    positive: int = 0
    hits: int = 0
    classified: int = 0
    """labelled rows that can be right or wrong: a probability, and a label of 0 or 1"""

    def add(self, score: float, value: float, is_probability: bool, sign: int = 1) -> None:
        if not (math.isfinite(score) and math.isfinite(value)):
            return
        self.labelled += sign
        self.absolute += sign * abs(score - value)
        self.squared += sign * (score - value) ** 2
        if is_probability and value in (0.0, 1.0) and 0.0 <= score <= 1.0:
            said, true = score >= 0.5, value == 1.0
            self.wrong += sign * (said != true)
            self.predicted += sign * said
            self.positive += sign * true
            self.hits += sign * (said and true)
            self.classified += sign
            likely = score if value == 1.0 else 1.0 - score
            self.log_loss -= sign * math.log(min(max(likely, _CLIP), 1.0))


class Outcomes:
    """Joins outcomes and keeps their sums. All writes happen in the caller's transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        folder: Path,
        versions: Versions,
        lookup: PredictionLookup,
        *,
        window_us: int,
    ) -> None:
        self._connection = connection
        self._folder = folder
        self._versions = versions
        self._lookup = lookup
        self._window_us = window_us

    def join(self, outcomes: Sequence[Outcome]) -> list[int]:
        """Join what can be joined; returns the places of outcomes whose prediction nobody knows
        (yet)."""
        ids = {outcome.prediction for outcome in outcomes}
        batched = {outcome.prediction for outcome in outcomes if outcome.row > 0}
        found = self._lookup.find(ids, batched)
        sums: dict[tuple[int, int], Losses] = {}
        unknown = []
        joined = impossible = 0
        for place, outcome in enumerate(outcomes):
            prediction = found.get(outcome.prediction)
            if prediction is None:
                unknown.append(place)
            elif outcome.row >= max(prediction.rows, 1):
                impossible += 1
            else:
                joined += self._take(outcome, prediction, sums)
        self._save(sums)
        add_meta(self._connection, "outcomes_joined", joined)
        add_meta(self._connection, "outcomes_rejected", impossible)
        return unknown

    def _take(
        self, outcome: Outcome, prediction: Found, sums: dict[tuple[int, int], Losses]
    ) -> bool:
        """Put one outcome into the sums. True if its row had no label before."""
        place = (prediction.prediction_id, outcome.row)
        score = self._score(outcome, prediction)
        before = self._connection.execute(
            "SELECT score, value, event_time, key FROM label WHERE prediction = ? AND row = ?",
            place,
        ).fetchone()
        if before is not None and outcome.key and before[3] == outcome.key:
            return False
        self._connection.execute(
            f"INSERT INTO outcome_log ({_LOG_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *place,
                prediction.version,
                prediction.time_us,
                score,
                outcome.value,
                outcome.event_time,
                outcome.arrived,
                outcome.source,
                outcome.key,
            ),
        )
        if before is not None and outcome.event_time < before[2]:
            return False
        start = prediction.time_us // self._window_us * self._window_us
        losses = sums.setdefault((prediction.version, start), Losses())
        reader = self._versions.get(prediction.version).score
        is_probability = reader is not None and reader.is_probability
        if before is not None:
            losses.add(_number(before[0]), before[1], is_probability, -1)
        losses.add(score, outcome.value, is_probability)
        self._connection.execute(
            "INSERT OR REPLACE INTO label VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *place,
                prediction.version,
                start,
                score,
                outcome.value,
                outcome.event_time,
                outcome.key,
            ),
        )
        return before is None

    def _score(self, outcome: Outcome, prediction: Found) -> float:
        """The score of the outcome's row; NaN if the version has none."""
        if outcome.row == 0 or prediction.outputs is None:
            return _number(prediction.score)
        reader = self._versions.get(prediction.version).score
        if reader is None:
            return float("nan")
        try:
            return float(reader.read([prediction.outputs], prediction.rows)[outcome.row])
        except (ValueError, IndexError):
            return float("nan")

    def _save(self, sums: dict[tuple[int, int], Losses]) -> None:
        self._connection.executemany(
            "INSERT INTO outcome_window VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET labelled = labelled + excluded.labelled, "
            "wrong = wrong + excluded.wrong, absolute = absolute + excluded.absolute, "
            "squared = squared + excluded.squared, log_loss = log_loss + excluded.log_loss, "
            "predicted = predicted + excluded.predicted, "
            "positive = positive + excluded.positive, hits = hits + excluded.hits, "
            "classified = classified + excluded.classified",
            [(*key, *astuple(one)) for key, one in sums.items()],
        )

    def seal(self) -> None:
        """Move the log into a Parquet file; part of the sealing transaction."""
        rows = self._connection.execute(
            f"SELECT {_LOG_COLUMNS} FROM outcome_log ORDER BY id"
        ).fetchall()
        if not rows:
            return
        path, size = _write(rows, self._folder)
        times = [row[7] // 1000 for row in rows]
        self._connection.execute(
            "INSERT INTO file (kind, path, rows, bytes, first_ms, last_ms) "
            "VALUES ('outcomes', ?, ?, ?, ?, ?)",
            (str(path.relative_to(self._folder.parent)), len(rows), size, min(times), max(times)),
        )
        self._connection.execute("DELETE FROM outcome_log")


def _write(rows: Sequence[tuple[object, ...]], folder: Path) -> tuple[Path, int]:
    """One file, under the day on which it was written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = pa.timestamp("us", tz="UTC")
    schema = pa.schema(
        [
            ("prediction_id", pa.binary(16)),
            ("row", pa.int32()),
            ("version_index", pa.uint32()),
            ("prediction_time", moment),
            ("score", pa.float64()),
            ("value", pa.float64()),
            ("event_time", moment),
            ("arrived", moment),
            ("source", pa.string()),
            ("idempotency_key", pa.string()),
        ]
    )
    columns = [
        pa.array(list(column), field.type)
        for column, field in zip(zip(*rows, strict=True), schema, strict=True)
    ]
    target = folder / f"day={datetime.now(UTC):%Y-%m-%d}"
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{uuid.uuid4().hex}.parquet"
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path, compression="zstd")
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
    return path, path.stat().st_size


def _number(value: float | None) -> float:
    """SQLite and Arrow keep NaN as null."""
    return float("nan") if value is None else value
