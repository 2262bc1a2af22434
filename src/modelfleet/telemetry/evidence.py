"""Reading evidence: for the judge, monitors, pages. Never writes, copes with an empty home.

Methods may be called from any thread; each thread has a connection of its own.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modelfleet.telemetry import gateway, latency
from modelfleet.telemetry.database import open_reader, read_meta
from modelfleet.telemetry.latency import BUCKETS
from modelfleet.telemetry.payloads import recent_views, sealed_views
from modelfleet.telemetry.states import State
from modelfleet.telemetry.views import (
    BinLayout,
    History,
    OutcomeWindow,
    PairTick,
    PredictionView,
    ReferenceLayout,
    Tick,
    TickBatch,
    Total,
    WindowState,
    tick_view,
    window_view,
)
from modelfleet_worker.wire import profile
from modelfleet_worker.wire.segment import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

_NONE_YET = -1


class EvidenceReader:
    """All questions to evidence.db. path: `Layout.evidence_database`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._layouts: dict[str, ReferenceLayout] = {}

    @contextmanager
    def _view(self) -> Iterator[sqlite3.Connection | None]:
        """One consistent view of the database; None while there is none."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = open_reader(self._path)
        if connection is None:
            yield None
            return
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def counter(self, name: str) -> int:
        """One of the collector's own counters: `records`, `unreadable`, `outcomes_joined`,
        `outcomes_rejected`, `outcomes_expired`; 0 if it never counted."""
        with self._view() as connection:
            return 0 if connection is None else read_meta(connection, name)

    def outcomes_joined(self) -> int:
        """Rows that have a label."""
        return self.counter("outcomes_joined")

    def dropped(self) -> int:
        """Records that workers could not write, over all their lives."""
        return self._count("SELECT coalesce(sum(dropped), 0) FROM writer")

    def parked(self) -> int:
        """Outcomes that wait for their prediction."""
        return self._count("SELECT count(*) FROM parked")

    def crashes(self, since_us: int) -> dict[int, list[int]]:
        """Requests and loads that brought their worker down since then: times (Unix us) by
        version index."""
        found: dict[int, list[int]] = {}
        with self._view() as connection:
            if connection is not None:
                rows = connection.execute(
                    "SELECT record, time FROM crash WHERE time > ?", (since_us,)
                )
                for blob, time_us in rows:
                    found.setdefault(decode(blob).version, []).append(time_us)
        return found

    def _count(self, query: str) -> int:
        with self._view() as connection:
            return 0 if connection is None else int(connection.execute(query).fetchone()[0])

    # The gateway -----------------------------------------------------------------------------

    def gateway_requests(self) -> list[tuple[str, int]]:
        """Class of codes (`2xx`) and requests, since the first start."""
        with self._view() as connection:
            return [] if connection is None else gateway.requests(connection)

    def refused_ever(self) -> list[tuple[str, str, int]]:
        """What the gateway refused since the first start: endpoint, reason, requests."""
        with self._view() as connection:
            return [] if connection is None else gateway.refused_ever(connection)

    def refused(self, since_us: int) -> dict[str, dict[str, int]]:
        """What the gateway refused, by endpoint and reason, the most frequent first. It is kept in
        steps of ten seconds, of the last fifteen minutes."""
        with self._view() as connection:
            return {} if connection is None else gateway.refused(connection, since_us)

    def gateway_seen(self) -> int:
        """When the gateway's counters were last read; 0 if never."""
        return self.counter("gateway_seen")

    # For the judge ---------------------------------------------------------------------------

    def tick_batch(
        self,
        versions: Iterable[int],
        pairs: Iterable[tuple[int, int]] = (),
        after: int | None = None,
    ) -> TickBatch:
        """Closed ticks of several versions and pairs, numbers > after, read at one moment.

        Go on from `closed` next time. A version without an entry for a number had no requests.
        """
        with self._view() as connection:
            if connection is None:
                return TickBatch(_NONE_YET, dict.fromkeys(versions, ()), {})
            closed = read_meta(connection, "closed", _NONE_YET)
            tick_us = read_meta(connection, "tick_ns") / 1000
            bounds = (_NONE_YET if after is None else after, closed)
            ticks = {
                one: tuple(
                    tick_view(one, number, tick_us, State.decode(blob))
                    for number, blob in connection.execute(
                        "SELECT number, state FROM tick WHERE version_index = ? "
                        "AND number > ? AND number <= ? ORDER BY number",
                        (one, *bounds),
                    )
                )
                for one in versions
            }
            pair_ticks = {
                pair: tuple(
                    PairTick(*row)
                    for row in connection.execute(
                        "SELECT * FROM pair_tick WHERE stable = ? AND shadow = ? "
                        "AND number > ? AND number <= ? ORDER BY number",
                        (*pair, *bounds),
                    )
                )
                for pair in pairs
            }
        return TickBatch(closed, ticks, pair_ticks)

    def ticks(self, version_index: int, after: int | None = None) -> list[Tick]:
        """Closed ticks of one version, oldest first."""
        return list(self.tick_batch([version_index], after=after).ticks[version_index])

    def pair_ticks(self, stable: int, shadow: int, after: int | None = None) -> list[PairTick]:
        """Closed ticks of one shadow comparison, oldest first."""
        batch = self.tick_batch([], [(stable, shadow)], after)
        return list(batch.pair_ticks.get((stable, shadow), ()))

    # Windows ---------------------------------------------------------------------------------

    def closed_until(self) -> int:
        """Everything recorded before this moment was counted; 0 if nothing was."""
        return self.counter("horizon")

    def window_us(self) -> int:
        """Length of a window; 0 while there is no evidence."""
        return self.counter("window_us")

    def latest_window(self) -> int | None:
        """Start of the last window that is closed."""
        length, until = self.window_us(), self.closed_until()
        return None if not length or until < length else until // length * length - length

    def first_window(self) -> int | None:
        """Start of the oldest window."""
        with self._view() as connection:
            row = connection and connection.execute("SELECT min(start) FROM window").fetchone()
        return row[0] if row else None

    def windows(self, version_index: int, start_us: int, end_us: int) -> list[WindowState]:
        """Windows of one version that start in [start, end), oldest first."""
        return self._windows("version_index = ? AND ", (version_index,), start_us, end_us)

    def fleet_windows(self, start_us: int, end_us: int | None = None) -> list[WindowState]:
        """Windows of all versions that start in [start, end), or of the one at `start`."""
        return self._windows("", (), start_us, start_us + 1 if end_us is None else end_us)

    def _windows(
        self, condition: str, values: tuple[int, ...], start_us: int, end_us: int
    ) -> list[WindowState]:
        with self._view() as connection:
            if connection is None:
                return []
            length = read_meta(connection, "window_us")
            rows = connection.execute(
                "SELECT version_index, start, layout, state FROM window "
                f"WHERE {condition}start >= ? AND start < ? ORDER BY start, version_index",
                (*values, start_us, end_us),
            )
            return [
                window_view(index, start, start + length, layout, State.decode(blob))
                for index, start, layout, blob in rows
            ]

    def pulse(self, start_us: int, end_us: int) -> list[tuple[int, int, int]]:
        """(version index, window start, requests) of all windows that start in [start, end)."""
        with self._view() as connection:
            if connection is None:
                return []
            return connection.execute(
                "SELECT version_index, start, sum(requests) FROM window "
                "WHERE start >= ? AND start < ? GROUP BY version_index, start",
                (start_us, end_us),
            ).fetchall()

    def layout(self, digest: str) -> ReferenceLayout | None:
        """Bins and reference counts behind a window's layout digest."""
        if digest in self._layouts:
            return self._layouts[digest]
        with self._view() as connection:
            row = (
                connection
                and connection.execute(
                    "SELECT document FROM layout WHERE digest = ?", (digest,)
                ).fetchone()
            )
        if not row:
            return None
        read = profile.decode(row[0])
        found = ReferenceLayout(
            digest,
            read.rows,
            tuple(_bin_layout(bins) for bins in read.features),
            None if read.score is None else _bin_layout(read.score),
        )
        self._layouts[digest] = found
        return found

    def layout_of(self, version_index: int) -> ReferenceLayout | None:
        """The reference of a version, as the collector last saw it."""
        with self._view() as connection:
            row = (
                connection
                and connection.execute(
                    "SELECT layout FROM version WHERE version_index = ?", (version_index,)
                ).fetchone()
            )
        return self.layout(row[0]) if row and row[0] else None

    # Pages -----------------------------------------------------------------------------------

    def history(
        self,
        versions: int | Sequence[int],
        since_us: int,
        step_seconds: int,
        until_us: int | None = None,
    ) -> History:
        """Operations of one version, or of several together, in steps. Steps without requests
        are there, with NaN quantiles. A step is at least one window."""
        chosen = [versions] if isinstance(versions, int) else list(versions)
        step = max(step_seconds * 1_000_000, self.window_us(), 1)
        end = until_us if until_us is not None else max(self.closed_until(), since_us)
        first, last = since_us // step, max(end - 1, since_us) // step
        count = int(last - first + 1)
        states = [State.empty() for _ in range(count)]
        for version in chosen:
            for window in self.windows(version, first * step, (last + 1) * step):
                _add_window(states[window.start_us // step - first], window)
        quantiles = np.array(
            [[latency.quantile_us(one.latency, q) for q in (0.5, 0.95, 0.99)] for one in states]
        )
        return History(
            start_us=(first + np.arange(count, dtype=np.int64)) * step,
            requests=np.array([one.requests for one in states], dtype=np.int64),
            errors=np.array([one.errors for one in states], dtype=np.int64),
            p50_us=quantiles[:, 0],
            p95_us=quantiles[:, 1],
            p99_us=quantiles[:, 2],
            score_mean=np.array(
                [one.score_sum / one.scored if one.scored else np.nan for one in states]
            ),
        )

    def totals(self) -> dict[int, Total]:
        """Everything ever seen, by version index."""
        with self._view() as connection:
            if connection is None:
                return {}
            rows = connection.execute(
                "SELECT t.version_index, coalesce(v.model, 'unknown'), "
                "coalesce(v.version, t.version_index), t.requests, t.errors, t.last_seen, t.state "
                "FROM total t LEFT JOIN version v USING (version_index)"
            ).fetchall()
        found = {}
        for index, model, version, requests, errors, last_seen, blob in rows:
            state = State.decode(blob)
            found[index] = Total(
                index,
                model,
                str(version),
                requests,
                errors,
                last_seen,
                state.codes,
                state.latency,
            )
        return found

    def batch_rows(self) -> list[tuple[str, str, int]]:
        """Rows that batches predicted: model, version, rows."""
        with self._view() as connection:
            if connection is None:
                return []
            return connection.execute(
                "SELECT coalesce(v.model, 'unknown'), coalesce(v.version, b.version_index), "
                "sum(b.rows) FROM batch b LEFT JOIN version v USING (version_index) "
                "GROUP BY b.version_index"
            ).fetchall()

    def outcomes(
        self, version_index: int, start_us: int = 0, end_us: int = 1 << 62
    ) -> list[OutcomeWindow]:
        """Losses by prediction-time window, oldest first. Windows without a label are left out."""
        with self._view() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT start, labelled, wrong, absolute, squared, log_loss, predicted, positive, "
                "hits, classified FROM outcome_window "
                "WHERE version_index = ? AND start >= ? AND start < ? ORDER BY start",
                (version_index, start_us, end_us),
            ).fetchall()
        predicted: dict[int, int] = {}
        if rows:
            for window in self.windows(version_index, rows[0][0], rows[-1][0] + 1):
                predicted[window.start_us] = predicted.get(window.start_us, 0) + window.rows
        return [
            OutcomeWindow(version_index, row[0], predicted.get(row[0], 0), *row[1:]) for row in rows
        ]

    def recent_predictions(self, version_index: int, limit: int = 20) -> list[PredictionView]:
        """The newest predictions first; older ones than the last ten come from Parquet."""
        with self._view() as connection:
            if connection is None:
                return []
            row = connection.execute(
                "SELECT predictions FROM recent WHERE version_index = ?", (version_index,)
            ).fetchone()
            named = connection.execute(
                "SELECT path FROM version WHERE version_index = ?", (version_index,)
            ).fetchone()
            files = connection.execute(
                "SELECT path FROM file WHERE kind = 'predictions' ORDER BY last_ms DESC LIMIT 60"
            ).fetchall()
        bundle = named[0] if named else ""
        found = recent_views(bytes(row[0]), bundle)[:limit] if row else []
        evidence = self._path.parent / "evidence"
        paths = [evidence / path for (path,) in files] if len(found) < limit else []
        known = {one.prediction_id for one in found}
        for view in sealed_views(paths, version_index, bundle, limit + len(found)):
            if view.prediction_id not in known and len(found) < limit:
                found.append(view)
        return sorted(found, key=lambda view: -view.time_us)


def merge_windows(windows: Sequence[WindowState]) -> WindowState:
    """The sum of windows of one version and layout. ValueError if they can't be added."""
    if len({(one.version_index, one.layout) for one in windows}) != 1:
        raise ValueError("only windows of one version and one layout can be merged")
    merged = _state(windows[0])
    for window in windows[1:]:
        merged.merge(_state(window))
    start = min(window.start_us for window in windows)
    end = max(window.end_us for window in windows)
    return window_view(windows[0].version_index, start, end, windows[0].layout, merged)


def _state(window: WindowState) -> State:
    sizes = (*(len(counts) for counts in window.features), len(window.score))
    return State(
        sizes,
        np.concatenate([window.latency, *window.features, window.score]),
        window.requests,
        window.rows,
        window.errors,
        dict(window.codes),
        window.scored,
        window.score_sum,
        window.score_squares,
    )


def _add_window(state: State, window: WindowState) -> None:
    state.counts[:BUCKETS] += window.latency
    state.requests += window.requests
    state.errors += window.errors
    state.scored += window.scored
    state.score_sum += window.score_sum


def _bin_layout(bins: profile.NumericBins | profile.LevelBins) -> BinLayout:
    counts = np.array(bins.counts, dtype=np.int64)
    if isinstance(bins, profile.NumericBins):
        return BinLayout(bins.name, "numeric", tuple(bins.edges), (), counts)
    return BinLayout(bins.name, "levels", (), tuple(bins.levels), counts)
