"""Turns batches of records into states: windows, judge ticks and totals.

Open states are kept in memory; those that changed are written in the transaction that also moves
the segments' cursors, so that a killed collector counts nothing twice and forgets nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry import latency
from modelfleet.telemetry.keys import StickyKeys, Visit
from modelfleet.telemetry.layouts import VersionLayout, Versions
from modelfleet.telemetry.states import State
from modelfleet.telemetry.watch import Watch
from modelfleet_worker.wire.segment import BATCH_PREFIX, SHADOW, Record, is_batch

K = TypeVar("K", bound=Hashable)
WindowKey = tuple[int, int, str]
TickKey = tuple[int, int]
BatchKey = tuple[str, int]
_UNREADABLE = (ValueError, IndexError, TypeError, msgspec.DecodeError)


class OpenStates(Generic[K]):
    """States that still grow, by key. What isn't in memory is looked up."""

    def __init__(self, load: Callable[[K], bytes | None]) -> None:
        self._load = load
        self._states: dict[K, State] = {}
        self._changed: set[K] = set()

    def change(self, key: K, sizes: tuple[int, ...]) -> State:
        """The state of `key`, empty with these sizes if it is new. It counts as changed."""
        self._changed.add(key)
        state = self._states.get(key)
        if state is None:
            blob = self._load(key)
            state = State.empty(sizes) if blob is None else State.decode(blob)
            self._states[key] = state
        return state

    def known(self, key: K) -> State:
        """A state that is there, to be changed."""
        state = self._states.get(key)
        return self.change(key, state.sizes if state is not None else (0,))

    def take_changed(self) -> list[tuple[K, State]]:
        changed = [(key, self._states[key]) for key in self._changed]
        self._changed = set()
        return changed

    def forget(self, over: Callable[[K], bool]) -> None:
        """Drop saved states from memory. Late records would load them again."""
        for key in [key for key in self._states if key not in self._changed and over(key)]:
            del self._states[key]


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
        self.tick_ns = tick_ns
        self.closed_tick = closed_tick
        """The judge may read up to this tick. Records of it or before come too late for it."""
        self.unreadable = 0
        """Answered requests whose tensors didn't fit their signature."""
        self.keys = StickyKeys(connection)
        self._last_seen: dict[int, int] = {}
        self._windows = OpenStates[WindowKey](
            lambda key: _blob(
                connection,
                "SELECT state FROM window WHERE version_index = ? AND start = ? AND layout = ?",
                key,
            )
        )
        self._ticks = OpenStates[TickKey](
            lambda key: _blob(
                connection, "SELECT state FROM tick WHERE version_index = ? AND number = ?", key
            )
        )
        self._batches = OpenStates[BatchKey](
            lambda key: _blob(
                connection, "SELECT state FROM batch WHERE batch = ? AND version_index = ?", key
            )
        )
        self._totals = OpenStates[int](
            lambda key: _blob(connection, "SELECT state FROM total WHERE version_index = ?", (key,))
        )

    def add(self, records: Sequence[Record], watch: Watch) -> NDArray[np.float64]:
        """Count records; returns the score of each one's first row (NaN if it has none)."""
        scores = self._count(records, undo=False)
        self._count_ticks(records, scores, watch, undo=False)
        return scores

    def replace(self, old: Record, new: Record, watch: Watch) -> float:
        """Count `new` instead of `old`, an earlier attempt at the same request.

        A tick that is closed was judged already: it keeps the old one.
        """
        old_score = self._count([old], undo=True)
        new_score = self._count([new], undo=False)
        if old.time_ns // self.tick_ns > self.closed_tick:
            if _sticks(old, watch) or _sticks(new, watch):
                self._correct(old, new, watch)
            else:
                self._count_ticks([old], old_score, watch, undo=True)
                self._count_ticks([new], new_score, watch, undo=False)
        return float(new_score[0])

    def scores(self, records: Sequence[Record]) -> NDArray[np.float64]:
        """The score of each record's first row, without counting anything."""
        scores = np.full(len(records), np.nan)
        groups: dict[int, list[int]] = {}
        for place, record in enumerate(records):
            groups.setdefault(record.version, []).append(place)
        for index, places in groups.items():
            members = [records[place] for place in places]
            _, scores[places] = self._state_of(self._versions.get(index), members)
        return scores

    def _count(self, records: Sequence[Record], *, undo: bool) -> NDArray[np.float64]:
        scores = np.full(len(records), np.nan)
        groups: dict[tuple[int, int], list[int]] = {}
        window_ns = self.window_us * 1000
        for place, record in enumerate(records):
            if is_batch(record):
                scores[place] = self._count_batch(record, undo=undo)
                continue
            groups.setdefault((record.version, record.time_ns // window_ns), []).append(place)
        for (index, window), places in groups.items():
            layout = self._versions.get(index)
            members = [records[place] for place in places]
            added, scores[places] = self._state_of(layout, members)
            if undo:
                added = added.negated()
            key = (index, window * self.window_us, layout.digest)
            self._windows.change(key, layout.sizes).merge(added)
            self._totals.change(index, (0,)).add_operations(added)
            newest = max(record.time_ns for record in members) // 1000
            self._last_seen[index] = max(newest, self._last_seen.get(index, 0))
        return scores

    def _count_batch(self, record: Record, *, undo: bool) -> float:
        """A batch has a state of its own: its rows come from another population and at another
        pace than requests, so they must not move windows, ticks and totals of what is served."""
        layout = self._versions.get(record.version)
        added, scores = self._state_of(layout, [record])
        key = (record.endpoint[len(BATCH_PREFIX) :], record.version)
        self._batches.change(key, layout.sizes).merge(added.negated() if undo else added)
        return float(scores[0])

    def _state_of(
        self, layout: VersionLayout, members: Sequence[Record]
    ) -> tuple[State, NDArray[np.float64]]:
        """State of one version's records in one window, and the score of each one's first row."""
        state = operations(members, layout.sizes)
        scores = np.full(len(members), np.nan)
        answered = [place for place, record in enumerate(members) if record.status == 200]
        try:
            scores[answered] = _count_rows(state, layout, [members[place] for place in answered])
        except _UNREADABLE:
            state = operations(members, layout.sizes)
            for place in answered:
                single = State.empty(layout.sizes)
                try:
                    scores[place] = _count_rows(single, layout, [members[place]])[0]
                except _UNREADABLE:
                    self.unreadable += 1
                    continue
                state.merge(single)
        return state, scores

    def _count_ticks(
        self, records: Sequence[Record], scores: NDArray[np.float64], watch: Watch, *, undo: bool
    ) -> None:
        watched = watch.watched()
        groups: dict[TickKey, list[int]] = {}
        failures: list[TickKey] = []
        for place, record in enumerate(records):
            if record.version in watched and not is_batch(record):
                key = (record.version, self.tick_number(record.time_ns))
                visit = self._visit(record, key, watch)
                if visit is Visit.FIRST:
                    groups.setdefault(key, []).append(place)
                elif visit is Visit.FAILED:
                    failures.append(key)
        for (index, number), places in groups.items():
            edges = self._versions.get(watch.edges_of(index)).profile
            bins = edges.score if edges is not None else None
            sizes = (bins.bins if bins is not None else 0,)
            added = operations([records[place] for place in places], sizes)
            _add_scores(added, scores[places], None)
            if bins is not None:
                found = scores[places]
                added.score[:] = bins.count(found[~np.isnan(found)])
            tick = self._ticks.change((index, number), sizes)
            if tick.sizes == sizes:
                tick.merge(added.negated() if undo else added)
            else:  # the edges changed within this tick
                tick.add_operations(added.negated() if undo else added)
        for key in failures:
            self._ticks.known(key).errors += 1

    def _visit(self, record: Record, key: TickKey, watch: Watch) -> Visit:
        """Whether a request counts in its tick: of a client that sticks, the first one does."""
        if not _sticks(record, watch):
            return Visit.FIRST
        scope = watch.keys[str(record.version)]
        return self.keys.visit(scope, record.key, *key, failed=record.status >= 500)

    def _correct(self, old: Record, new: Record, watch: Watch) -> None:
        """Another attempt at a request of a client that sticks: it may mend the client's failure,
        or be the first."""
        key = (old.version, self.tick_number(old.time_ns))
        if not _sticks(old, watch):
            self._count_ticks([old], self.scores([old]), watch, undo=True)
        if not _sticks(old, watch) or not old.status >= 500 > new.status:
            self._count_ticks([new], self.scores([new]), watch, undo=False)
        elif self.keys.unmark(watch.keys[str(old.version)], old.key, *key):
            self._ticks.known(key).errors -= 1

    def tick_number(self, time_ns: int) -> int:
        """Even for a tick in time, odd for what came too late: the tick after the last closed."""
        tick = time_ns // self.tick_ns
        return 2 * tick if tick > self.closed_tick else 2 * self.closed_tick + 1

    def save(self, connection: sqlite3.Connection) -> None:
        """Write all states that changed; part of the collector's transaction."""
        self.keys.save(connection)
        connection.executemany(
            "INSERT OR REPLACE INTO window VALUES (?, ?, ?, ?, ?, ?)",
            [
                (*key, state.requests, state.errors, state.encode())
                for key, state in self._windows.take_changed()
            ],
        )
        connection.executemany(
            "INSERT OR REPLACE INTO tick VALUES (?, ?, ?)",
            [(*key, state.encode()) for key, state in self._ticks.take_changed()],
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
        self._ticks.forget(lambda key: key[1] <= 2 * self.closed_tick)


def _sticks(record: Record, watch: Watch) -> bool:
    """Whether it counts by its client: copies of requests count one by one."""
    return bool(record.key) and not record.flags & SHADOW and str(record.version) in watch.keys


def operations(records: Sequence[Record], sizes: tuple[int, ...]) -> State:
    """Requests, codes and latency, without rows and bins."""
    state = State.empty(sizes)
    state.requests = len(records)
    for record in records:
        state.codes[record.status] = state.codes.get(record.status, 0) + 1
        state.errors += record.status >= 500
    taken = np.array([r.latency_ns for r in records if r.status == 200], dtype=np.int64)
    np.add.at(state.counts, latency.bucket(taken), 1)
    return state


def _count_rows(
    state: State, layout: VersionLayout, answered: Sequence[Record]
) -> NDArray[np.float64]:
    """Count features and scores of all rows; returns the score of each record's first row."""
    rows = np.array([record.rows for record in answered], dtype=np.intp)
    state.rows = int(rows.sum())
    if layout.binner is not None and len(rows):
        state.feature_counts[:] = layout.binner.count(layout.columns(answered))
    if layout.score is None or not len(rows):
        return np.full(len(rows), np.nan)
    scores = layout.score.read(answered)
    _add_scores(state, scores, layout)
    first: NDArray[np.float64] = scores[np.concatenate([[0], np.cumsum(rows)[:-1]])]
    return first


def _add_scores(state: State, scores: NDArray[np.float64], layout: VersionLayout | None) -> None:
    finite = scores[np.isfinite(scores)]
    state.scored = len(finite)
    state.score_sum = float(finite.sum())
    state.score_squares = float(finite @ finite)
    if layout is not None and layout.profile is not None and layout.profile.score is not None:
        state.score[:] = layout.profile.score.count(scores)


def _blob(connection: sqlite3.Connection, query: str, key: tuple[int | str, ...]) -> bytes | None:
    row = connection.execute(query, key).fetchone()
    return None if row is None else bytes(row[0])
