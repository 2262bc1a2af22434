"""Judge ticks: what happened to the versions that somebody watches, second by second.

Of a client that sticks to its version, the first request counts: see `keys`.
"""

from __future__ import annotations

import sqlite3

import numpy as np

from modelfleet.telemetry.batches import Batch, Integers, Places, groups
from modelfleet.telemetry.keys import StickyKeys, Visit
from modelfleet.telemetry.layouts import Versions
from modelfleet.telemetry.open_states import OpenStates
from modelfleet.telemetry.tallies import Scores, add_scores, operations
from modelfleet.telemetry.watch import Watch
from modelfleet_worker.wire.segment import SHADOW, Record

TickKey = tuple[int, int]
"""Version index and number of the tick."""


class Ticks:
    """All open ticks."""

    def __init__(
        self, connection: sqlite3.Connection, versions: Versions, *, tick_ns: int, closed: int
    ) -> None:
        self._versions = versions
        self.tick_ns = tick_ns
        self.closed = closed
        """The judge may read up to this tick. Records of it or before come too late for it."""
        self.keys = StickyKeys(connection)
        self._states = OpenStates[TickKey](
            connection,
            "SELECT state FROM tick WHERE version_index = ? AND number = ?",
            lambda key: key,
        )

    def number(self, time_ns: int) -> int:
        """Even for a tick in time, odd for what came too late: the tick after the last closed."""
        tick = time_ns // self.tick_ns
        return 2 * tick if tick > self.closed else 2 * self.closed + 1

    def add(self, batch: Batch, scores: Scores, watch: Watch, *, undo: bool = False) -> None:
        """Count those that are watched. scores: of the first rows. undo: take them away again."""
        watched = list(watch.watched())
        if not watched:
            return
        places = np.flatnonzero(np.isin(batch.version, watched) & batch.served())
        tick = batch.time_ns // self.tick_ns
        numbers = np.where(tick > self.closed, 2 * tick, 2 * self.closed + 1)
        failures: list[TickKey] = []
        if watch.keys:
            places, failures = self._visit(batch, places, numbers, watch)
        for members in groups(places, batch.version, numbers):
            key = batch.versions[members[0]], int(numbers[members[0]])
            self._add(key, batch, members, scores, watch, undo=undo)
        for key in failures:
            self._states.known(key).errors += 1

    def _add(
        self,
        key: TickKey,
        batch: Batch,
        places: Places,
        scores: Scores,
        watch: Watch,
        *,
        undo: bool,
    ) -> None:
        edges = self._versions.get(watch.edges_of(key[0])).profile
        bins = edges.score if edges is not None else None
        sizes = (bins.bins if bins is not None else 0,)
        added = operations(batch, places, sizes)
        found = scores[places]
        add_scores(added, found)
        if bins is not None:
            added.score[:] = bins.count(found[~np.isnan(found)])
        state = self._states.change(key, sizes)
        if undo:
            added = added.negated()
        if state.sizes == sizes:
            state.merge(added)
        else:  # the edges changed within this tick
            state.add_operations(added)

    def _visit(
        self, batch: Batch, places: Places, numbers: Integers, watch: Watch
    ) -> tuple[Places, list[TickKey]]:
        """Those that count in their tick: of a client that sticks, the first one does; and ticks
        with a further failure."""
        scopes = {one: watch.keys.get(str(one)) for one in set(batch.versions)}
        ticks, failed = numbers.tolist(), (batch.status >= 500).tolist()
        counted: list[int] = []
        visits: dict[tuple[str, str, int, int, bool], int] = {}
        for place in places.tolist():
            version, key = batch.versions[place], batch.keys[place]
            scope = scopes[version]
            if scope is None or not key or batch.flags[place] & SHADOW:
                counted.append(place)
            else:  # the same once more changes nothing
                visits.setdefault((scope, key, version, ticks[place], failed[place]), place)
        failures: list[TickKey] = []
        for (scope, key, version, tick, is_failure), place in visits.items():
            visit = self.keys.visit(scope, key, version, tick, failed=is_failure)
            if visit is Visit.FIRST:
                counted.append(place)
            elif visit is Visit.FAILED:
                failures.append((version, tick))
        return np.array(sorted(counted), dtype=np.intp), failures

    def replace(
        self, old: Batch, old_scores: Scores, new: Batch, new_scores: Scores, watch: Watch
    ) -> None:
        """Count `new` instead of `old`, earlier attempts at the same requests.

        A tick that is closed was judged already: it keeps the old ones. At a request of a client
        that sticks, a retry may mend the client's failure, or be the first.
        """
        undone: list[int] = []
        added: list[int] = []
        for place in np.flatnonzero(old.time_ns // self.tick_ns > self.closed).tolist():
            before = old.record(place)
            if not sticks(before, watch):
                undone.append(place)
                added.append(place)
            elif before.status >= 500 > new.status[place]:
                self._mend(before, watch)
            else:
                added.append(place)
        self.add(old.take(undone), old_scores[undone], watch, undo=True)
        self.add(new.take(added), new_scores[added], watch)

    def _mend(self, failure: Record, watch: Watch) -> None:
        key = (failure.version, self.number(failure.time_ns))
        if self.keys.unmark(watch.keys[str(failure.version)], failure.key, *key):
            self._states.known(key).errors -= 1

    def save(self, connection: sqlite3.Connection) -> None:
        """Write what changed; part of the collector's transaction."""
        self.keys.save(connection)
        connection.executemany(
            "INSERT OR REPLACE INTO tick VALUES (?, ?, ?)",
            [(*key, state.encode()) for key, state in self._states.take_changed()],
        )

    def forget(self) -> None:
        """Drop closed ticks from memory."""
        self._states.forget(lambda key: key[1] <= 2 * self.closed)


def sticks(record: Record, watch: Watch) -> bool:
    """Whether it counts by its client: copies of requests count one by one."""
    return bool(record.key) and not record.flags & SHADOW and str(record.version) in watch.keys
