"""Shadow comparison: what would the other version have answered to the same request?

The gateway mirrors a request under the same request id; both records meet here. Answers of
different worker speed are seconds apart at most, so an unmatched one waits for ten.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.batches import Batch
from modelfleet.telemetry.layouts import VersionLayout, Versions
from modelfleet.telemetry.watch import Watch, WatchedPair
from modelfleet_worker.wire.segment import SHADOW, Record

_WAIT_SECONDS = 10.0
_EQUAL = 1e-6
"""Relative difference that is rounding, where nothing else says what counts as equal."""


@dataclass(slots=True)
class PairState:
    """Sums over pairs of answered requests; differences of the first row's score."""

    pairs: int = 0
    disagreements: int = 0
    absolute: float = 0.0
    squared: float = 0.0
    stable_latency_us: float = 0.0
    shadow_latency_us: float = 0.0
    scored: int = 0
    """pairs whose difference is a number"""


@dataclass(frozen=True, slots=True)
class _Answer:
    at: float
    score: float
    label: bytes | None
    latency_us: float


PairKey = tuple[int, int, int]
"""Stable version, shadow version, tick number."""


class PairJoiner:
    """Joins answers of watched pairs by request id and sums them up by tick."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._waiting: dict[tuple[int, int, bool, str], _Answer] = {}
        self._states: dict[PairKey, PairState] = {}

    def add(
        self,
        batch: Batch,
        scores: NDArray[np.float64],
        watch: Watch,
        *,
        number: int,
        now: float,
        count: bool = True,
    ) -> None:
        """Match records. number: the tick that pairs found now belong to; now: monotonic.

        count=False while records that were counted before are read again after a restart.
        """
        stable = {pair.stable: pair for pair in watch.pairs}
        shadows = {pair.shadow: pair for pair in watch.pairs}
        if not stable:
            return
        looked_at = np.isin(batch.version, [*stable, *shadows]) & (batch.status == 200)
        for at in np.flatnonzero(looked_at & batch.served()).tolist():
            record, score = batch.record(at), float(scores[at])
            is_shadow = bool(record.flags & SHADOW)
            pair = (shadows if is_shadow else stable).get(record.version)
            if pair is None or not record.request_id:
                continue
            answer = _Answer(now, score, self._label(record), record.latency_ns / 1000)
            place = (pair.stable, pair.shadow, is_shadow, record.request_id)
            other = self._waiting.pop((*place[:2], not is_shadow, record.request_id), None)
            if other is None:
                self._waiting[place] = answer
            elif count:
                both = (other, answer) if is_shadow else (answer, other)
                self._count(pair, number, *both)
        self._expire(now)

    def _count(self, pair: WatchedPair, number: int, stable: _Answer, shadow: _Answer) -> None:
        state = self._states.setdefault((pair.stable, pair.shadow, number), PairState())
        difference = abs(shadow.score - stable.score)
        state.pairs += 1
        state.stable_latency_us += stable.latency_us
        state.shadow_latency_us += shadow.latency_us
        if np.isfinite(difference):
            state.scored += 1
            state.absolute += difference
            state.squared += difference * difference
        state.disagreements += self._disagree(pair, stable, shadow, difference)

    def _disagree(
        self, pair: WatchedPair, stable: _Answer, shadow: _Answer, difference: float
    ) -> bool:
        if pair.tolerance is not None:
            return not difference <= pair.tolerance
        if stable.label is not None and shadow.label is not None:
            return stable.label != shadow.label
        layout = self._versions.get(pair.stable)
        if layout.score is not None and layout.score.is_probability:
            return (stable.score >= 0.5) != (shadow.score >= 0.5)
        return not difference <= _tolerance(layout, stable.score)

    def _label(self, record: Record) -> bytes | None:
        score = self._versions.get(record.version).score
        if score is None or score.label is None or score.label >= len(record.outputs):
            return None
        return record.outputs[score.label]

    def _expire(self, now: float) -> None:
        """Waiting answers are in the order of their arrival."""
        expired = []
        for key, answer in self._waiting.items():
            if now - answer.at < _WAIT_SECONDS:
                break
            expired.append(key)
        for key in expired:
            del self._waiting[key]

    def save(self, connection: sqlite3.Connection) -> None:
        """Add the sums since the last time; part of the collector's transaction."""
        connection.executemany(
            "INSERT INTO pair_tick VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET pairs = pairs + excluded.pairs, "
            "disagreements = disagreements + excluded.disagreements, "
            "absolute = absolute + excluded.absolute, squared = squared + excluded.squared, "
            "stable_latency_us = stable_latency_us + excluded.stable_latency_us, "
            "shadow_latency_us = shadow_latency_us + excluded.shadow_latency_us, "
            "scored = scored + excluded.scored",
            [
                (
                    *key,
                    state.pairs,
                    state.disagreements,
                    state.absolute,
                    state.squared,
                    state.stable_latency_us,
                    state.shadow_latency_us,
                    state.scored,
                )
                for key, state in self._states.items()
            ],
        )
        self._states = {}


def _tolerance(layout: VersionLayout, score: float) -> float:
    """A tenth of the spread of the reference's scores, or rounding if there is no reference."""
    bins = layout.profile.score if layout.profile is not None else None
    if bins is None or len(bins.edges) < 2:
        return _EQUAL * max(1.0, abs(score))
    return (bins.edges[-1] - bins.edges[0]) / 10
