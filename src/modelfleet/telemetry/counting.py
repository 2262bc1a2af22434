"""Turns batches of records into states: windows, judge ticks and totals.

Open states are kept in memory; those that changed are written in the transaction that also moves
the segments' cursors, so that a killed collector counts nothing twice and forgets nothing.
"""

from __future__ import annotations

import sqlite3

import numpy as np

from modelfleet.telemetry.batches import Batch, Places, groups
from modelfleet.telemetry.layouts import VersionLayout, Versions
from modelfleet.telemetry.open_states import OpenStates
from modelfleet.telemetry.states import State
from modelfleet.telemetry.tallies import Scores, everything
from modelfleet.telemetry.ticks import Ticks
from modelfleet.telemetry.watch import Watch
from modelfleet_worker.wire.segment import BATCH_PREFIX

WindowKey = tuple[int, int, str]
"""Version index, start in microseconds, digest of the layout."""
BatchKey = tuple[str, int]
"""Name of a batch run, version index."""


class Counting:
    """All open states of the fleet."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        versions: Versions,
        *,
        window_us: int,
        tick_ns: int,
        closed_tick: int,
    ) -> None:
        self._versions = versions
        self.window_us = window_us
        self.unreadable = 0
        """Answered requests whose tensors didn't fit their signature."""
        self.ticks = Ticks(connection, versions, tick_ns=tick_ns, closed=closed_tick)
        self._last_seen: dict[int, int] = {}
        self._windows = OpenStates[WindowKey](
            connection,
            "SELECT state FROM window WHERE version_index = ? AND start = ? AND layout = ?",
            lambda key: key,
        )
        self._batches = OpenStates[BatchKey](
            connection,
            "SELECT state FROM batch WHERE batch = ? AND version_index = ?",
            lambda key: key,
        )
        self._totals = OpenStates[int](
            connection, "SELECT state FROM total WHERE version_index = ?", lambda key: (key,)
        )

    def add(self, batch: Batch, watch: Watch) -> Scores:
        """Count records; returns the score of each one's first row (NaN if it has none)."""
        scores = self._count(batch, undo=False)
        self.ticks.add(batch, scores, watch)
        return scores

    def replace(self, old: Batch, new: Batch, watch: Watch) -> Scores:
        """Count `new` instead of `old`, earlier attempts at the same requests. Returns the scores
        of the new ones."""
        old_scores = self._count(old, undo=True)
        new_scores = self._count(new, undo=False)
        self.ticks.replace(old, old_scores, new, new_scores, watch)
        return new_scores

    def scores(self, batch: Batch) -> Scores:
        """The score of each record's first row, without counting anything."""
        scores = np.full(len(batch), np.nan)
        for places in groups(np.arange(len(batch)), batch.version):
            layout = self._versions.get(batch.versions[places[0]])
            _, scores[places], _ = everything(batch, places, layout)
        return scores

    def _count(self, batch: Batch, *, undo: bool) -> Scores:
        scores = np.full(len(batch), np.nan)
        served = batch.served()
        windows = batch.time_ns // (self.window_us * 1000)
        for places in groups(np.flatnonzero(served), batch.version, windows):
            index = batch.versions[places[0]]
            layout = self._versions.get(index)
            added, scores[places] = self._state_of(batch, places, layout, undo=undo)
            key = (index, int(windows[places[0]]) * self.window_us, layout.digest)
            self._windows.change(key, layout.sizes).merge(added)
            self._totals.change(index, (0,)).add_operations(added)
            newest = int(batch.time_ns[places].max()) // 1000
            self._last_seen[index] = max(newest, self._last_seen.get(index, 0))
        for place in np.flatnonzero(~served).tolist():
            scores[place] = self._count_of_run(batch, place, undo=undo)
        return scores

    def _count_of_run(self, batch: Batch, place: int, *, undo: bool) -> float:
        """A batch run has a state of its own: its rows come from another population and at another
        pace than requests, so they must not move windows, ticks and totals of what is served."""
        record = batch.record(place)
        layout = self._versions.get(record.version)
        added, scores = self._state_of(batch, np.array([place]), layout, undo=undo)
        key = (record.endpoint[len(BATCH_PREFIX) :], record.version)
        self._batches.change(key, layout.sizes).merge(added)
        return float(scores[0])

    def _state_of(
        self, batch: Batch, places: Places, layout: VersionLayout, *, undo: bool
    ) -> tuple[State, Scores]:
        state, scores, unreadable = everything(batch, places, layout)
        if undo:
            return state.negated(), scores
        self.unreadable += unreadable
        return state, scores

    def save(self, connection: sqlite3.Connection) -> None:
        """Write all states that changed; part of the collector's transaction."""
        self.ticks.save(connection)
        connection.executemany(
            "INSERT OR REPLACE INTO window VALUES (?, ?, ?, ?, ?, ?)",
            [
                (*key, state.requests, state.errors, state.encode())
                for key, state in self._windows.take_changed()
            ],
        )
        connection.executemany(
            "INSERT OR REPLACE INTO batch VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    *key,
                    self._versions.get(key[1]).digest,
                    state.requests,
                    state.rows,
                    state.encode(),
                )
                for key, state in self._batches.take_changed()
            ],
        )
        connection.executemany(
            "INSERT OR REPLACE INTO total VALUES (?, ?, ?, ?, ?)",
            [
                (key, state.requests, state.errors, self._last_seen.get(key, 0), state.encode())
                for key, state in self._totals.take_changed()
            ],
        )

    def forget(self, before_us: int) -> None:
        """Drop windows that ended before this moment, and closed ticks, from memory."""
        self._windows.forget(lambda key: key[1] + self.window_us < before_us)
        self.ticks.forget()
