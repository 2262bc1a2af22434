"""The collector: one loop from segments to committed evidence.

Each `collect` reads what is new, counts it, and commits states and cursors in one transaction.
Each `seal` writes the same records to Parquet and commits files and manifest in another. Killed
at any line, the next start goes on from the cursors: nothing is counted or sealed twice.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

from modelfleet.core.courtesy import give_way
from modelfleet.core.layout import Layout
from modelfleet.core.settings import EvidenceSettings
from modelfleet.telemetry.attempts import Attempts
from modelfleet.telemetry.batches import Batch
from modelfleet.telemetry.counting import Counting
from modelfleet.telemetry.database import (
    add_meta,
    open_writer,
    read_meta,
    transaction,
    write_meta,
)
from modelfleet.telemetry.gateway import GatewayCounters, forget
from modelfleet.telemetry.inbox import Inbox
from modelfleet.telemetry.layouts import Versions
from modelfleet.telemetry.lookup import PredictionLookup
from modelfleet.telemetry.orphans import ControlWatch, Death, crash_record
from modelfleet.telemetry.outcomes import Outcomes
from modelfleet.telemetry.pairs import PairJoiner
from modelfleet.telemetry.predictions import PredictionBuffer, SealedFile, remove_uncommitted
from modelfleet.telemetry.recent import Recent
from modelfleet.telemetry.segments import Segments
from modelfleet.telemetry.watch import Watch, WatchFile
from modelfleet_worker.wire import segment
from modelfleet_worker.wire.segment import Record

LATENESS_SECONDS = 0.3
"""A tick is closed this long after its end, once all segments were read past it."""
_COMMIT_SECONDS = 1.0
_BLOCKS = 16
"""Of each segment, read and counted until the next commit."""
_TICK_LIFE_US = 48 * 3600 * 1_000_000
_ALIAS_LIFE_US = 7 * 24 * 3600 * 1_000_000
_LABEL_LIFE_US = 30 * 24 * 3600 * 1_000_000
_TIDY_SECONDS = 60.0
_RECENT_MS = 60_000


class Collector:
    """State of the one collector process of a home. Not thread-safe, and it needs no threads."""

    def __init__(self, layout: Layout, settings: EvidenceSettings) -> None:
        self._layout = layout
        self._settings = settings
        self._connection = open_writer(layout.evidence_database)
        self._controls = ControlWatch(layout.control)
        self._watch_file = WatchFile(layout.watch)
        self._gateway = GatewayCounters(layout.gateway_admin_socket, self._connection)
        self._versions = Versions(
            layout.desired, self._connection, layout.pipeline_layouts, layout.batch_layouts
        )
        self._segments = Segments(layout.segments, self._connection, self._controls.is_alive)
        self._counting = Counting(
            self._connection,
            self._versions,
            window_us=int(settings.window_seconds * 1_000_000),
            tick_ns=max(1, round(settings.tick_seconds * 1e9)),
            closed_tick=_closed_tick(self._connection, round(settings.tick_seconds * 1e9)),
        )
        self._ticks = self._counting.ticks
        self._buffer = PredictionBuffer()
        self._attempts = Attempts(self._buffer)
        self._pairs = PairJoiner(self._versions)
        self._recent = Recent()
        self._evidence = layout.predictions.parent
        self._lookup = PredictionLookup(self._connection, self._evidence, self._buffer)
        self._outcomes = Outcomes(
            self._connection,
            layout.outcomes,
            self._versions,
            self._lookup,
            window_us=self._counting.window_us,
        )
        self._inbox = Inbox(
            layout.outcome_inbox,
            self._connection,
            self._outcomes,
            retry_seconds=settings.outcome_retry_seconds,
        )
        self._committed_at = 0.0
        self._sealed_at = self._tidied_at = time.monotonic()
        self._behind = False
        self._recover()

    def _recover(self) -> None:
        """Bring memory back to where the last commit stood."""
        files = self._connection.execute("SELECT path FROM file")
        committed = {str(self._evidence / path) for (path,) in files}
        remove_uncommitted(self._layout.predictions, committed)
        remove_uncommitted(self._layout.outcomes, committed)
        with transaction(self._connection):
            write_meta(self._connection, "window_us", self._counting.window_us)
            write_meta(self._connection, "tick_ns", self._ticks.tick_ns)
        self._controls.poll()
        self._versions.refresh()
        last_us = read_meta(self._connection, "horizon", time.time_ns() // 1000)
        since_ms = last_us // 1000 - _RECENT_MS
        self._attempts.remember_sealed(self._lookup.recent_requests(since_ms))
        self._segments.scan()
        self._segments.drop_missing()
        for rows in self._segments.unsealed():
            self._hold_again(Batch(rows))
        crashes = self._connection.execute("SELECT record FROM crash WHERE sealed = 0")
        lost = Batch.of(segment.decode(blob) for (blob,) in crashes)
        self._attempts.hold(lost, self._counting.scores(lost))

    def _hold_again(self, batch: Batch) -> None:
        """Hold records for the next Parquet file that were counted already."""
        fresh, further = self._attempts.distinct(batch)
        scores = self._counting.scores(fresh)
        watch, now = self._watch_file.read(), time.monotonic()
        self._pairs.add(fresh, scores, watch, number=0, now=now, count=False)
        self._attempts.hold(fresh, scores)
        for attempts in further:
            found = self._attempts.replacements(attempts)
            self._attempts.replace(found, self._counting.scores(found.later))

    # The loop -------------------------------------------------------------------------------

    def cycle(self) -> float:
        """Do what is due; returns the seconds to wait until the next call."""
        now = time.time()
        deaths = self._controls.poll()
        if deaths or self._behind or self._is_due(now):
            self.collect(deaths)
            self._inbox.collect()
        monotonic = time.monotonic()
        rotate = self._settings.rotate_seconds, self._settings.rotate_mb << 20
        if monotonic - self._sealed_at >= rotate[0] or self._buffer.bytes >= rotate[1]:
            self.seal()
        if monotonic - self._tidied_at >= _TIDY_SECONDS:
            self._tidy()
        if self._behind:
            return 0.0
        return min(self._settings.collect_interval_seconds, max(0.005, self._due_in(time.time())))

    def _due_in(self, now: float) -> float:
        """Seconds until the present tick can be closed, or until the next commit."""
        tick = self._ticks.tick_ns / 1e9
        closes = (self._ticks.closed + 2) * tick + LATENESS_SECONDS
        return min(closes - now, self._committed_at + _COMMIT_SECONDS - now)

    def _is_due(self, now: float) -> bool:
        return self._due_in(now) <= 0 or self._committed_at > now

    def collect(self, deaths: Sequence[Death] = ()) -> int:
        """Read, count, commit. Returns the number of records read."""
        began_ns = time.time_ns()
        self._versions.refresh()
        watch = self._watch_file.read()
        self._attempts.forget()
        self._segments.scan()
        self._gateway.look()
        crashes = self._crashes(deaths)
        read = 0
        with transaction(self._connection):
            for rows in islice(self._segments.read(), _BLOCKS):
                give_way()
                batch = Batch(rows)
                give_way()
                self._count(batch, watch)
                read += len(rows)
            self._count_crashes(crashes, watch)
            self._behind = not self._segments.exhausted
            if not self._behind:
                self._close_ticks(began_ns - int(LATENESS_SECONDS * 1e9))
            self._save(read)
        self._committed_at = began_ns / 1e9
        self._segments.remove_finished()
        return read

    def _count(self, batch: Batch, watch: Watch) -> None:
        fresh, further = self._attempts.distinct(batch)
        give_way()
        self._count_fresh(fresh, watch)
        for attempts in further:
            found = self._attempts.replacements(attempts)
            scores = self._counting.replace(found.earlier, found.later, watch)
            self._attempts.replace(found, scores)

    def _count_fresh(self, batch: Batch, watch: Watch) -> None:
        scores = self._counting.add(batch, watch)
        give_way()
        number = self._ticks.number(time.time_ns())
        self._pairs.add(batch, scores, watch, number=number, now=time.monotonic())
        self._recent.add(batch, scores)
        give_way()
        self._attempts.hold(batch, scores)

    def _count_crashes(self, crashes: Sequence[tuple[str, Record]], watch: Watch) -> None:
        self._count_fresh(Batch.of(record for _, record in crashes), watch)
        self._connection.executemany(
            "INSERT INTO crash VALUES (?, ?, ?, ?, 0)",
            [
                (writer, one.request_id, segment.encode(one), one.time_ns // 1000)
                for writer, one in crashes
            ],
        )

    def _save(self, records: int) -> None:
        connection = self._connection
        self._versions.save(connection)
        self._counting.save(connection)
        self._pairs.save(connection)
        self._recent.save(connection)
        self._segments.save(connection)
        self._attempts.save(connection)
        self._gateway.save(connection)
        connection.executemany(
            "INSERT OR REPLACE INTO writer VALUES (?, ?, ?)",
            [
                (status.writer, status.dropped, time.time_ns() // 1000)
                for status in self._controls.status()
                if status.dropped
            ],
        )
        if records:
            add_meta(connection, "records", records)
        if self._counting.unreadable:
            add_meta(connection, "unreadable", self._counting.unreadable)
            self._counting.unreadable = 0

    def _close_ticks(self, horizon_ns: int) -> None:
        """All records appended before this moment were read."""
        tick = horizon_ns // self._ticks.tick_ns - 1
        self._ticks.closed = max(self._ticks.closed, tick)
        write_meta(self._connection, "closed", 2 * self._ticks.closed)
        write_meta(self._connection, "horizon", horizon_ns // 1000)

    def _crashes(self, deaths: Sequence[Death]) -> list[tuple[str, Record]]:
        """Requests that died with their worker: slots without a record, each once."""
        found: list[tuple[str, Record]] = []
        for death in deaths:
            known = self._segments.writer_request_ids(death.writer)
            rows = self._connection.execute(
                "SELECT request_id FROM crash WHERE writer = ?", (death.writer,)
            )
            known |= {request_id for (request_id,) in rows}
            for slot in death.slots:
                record = crash_record(slot)
                if record.request_id not in known:
                    known.add(record.request_id)
                    found.append((death.writer, record))
        return found

    # Parquet --------------------------------------------------------------------------------

    def seal(self) -> int:
        """Write what is held to Parquet and commit it. Returns the number of rows."""
        self._sealed_at = time.monotonic()
        files = self._buffer.seal(self._layout.predictions)
        with transaction(self._connection):
            self._connection.executemany(
                "INSERT INTO file (kind, path, rows, bytes, first_ms, last_ms) "
                "VALUES ('predictions', ?, ?, ?, ?, ?)",
                [self._row_of(file) for file in files],
            )
            self._segments.mark_sealed(self._connection, time.time_ns() // 1000)
            self._connection.execute("UPDATE crash SET sealed = 1 WHERE sealed = 0")
            self._outcomes.seal()
        self._buffer.clear()
        self._segments.remove_finished()
        return sum(file.rows for file in files)

    def _row_of(self, file: SealedFile) -> tuple[str, int, int, int, int]:
        path = str(file.path.relative_to(self._evidence))
        return path, file.rows, file.bytes, file.first_ms, file.last_ms

    def _tidy(self) -> None:
        """Forget what nobody asks for any more."""
        self._tidied_at = time.monotonic()
        now = time.time_ns() // 1000
        oldest_tick = 2 * ((now - _TICK_LIFE_US) * 1000 // self._ticks.tick_ns)
        self._counting.forget(now - 2 * self._counting.window_us)
        with transaction(self._connection):
            execute = self._connection.execute
            self._ticks.keys.forget(self._connection, self._watch_file.read().keys.values())
            execute("DELETE FROM tick WHERE number < ?", (oldest_tick,))
            execute("DELETE FROM pair_tick WHERE number < ?", (oldest_tick,))
            execute("DELETE FROM alias WHERE time < ?", (now - _ALIAS_LIFE_US,))
            execute("DELETE FROM crash WHERE sealed AND time < ?", (now - _ALIAS_LIFE_US,))
            oldest_label = ((now - _LABEL_LIFE_US) // 1000).to_bytes(6, "big")
            execute("DELETE FROM label WHERE prediction < ?", (oldest_label,))
            forget(self._connection, now)
            execute("DELETE FROM manifest WHERE batch < ?", (now - _ALIAS_LIFE_US,))

    def close(self) -> None:
        """Take in what is there, seal it, and let go."""
        self.collect()
        while self._behind:
            self.collect()
        self._inbox.collect()
        self.seal()
        self._segments.close()
        self._controls.close()
        with suppress(sqlite3.OperationalError):  # a reader may hold the log open
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()


def _closed_tick(connection: sqlite3.Connection, tick_ns: int) -> int:
    """The last closed tick. Ticks of another length have other numbers: they are dropped."""
    if read_meta(connection, "tick_ns", tick_ns) != tick_ns:
        with transaction(connection):
            connection.execute("DELETE FROM tick")
            connection.execute("DELETE FROM pair_tick")
            write_meta(connection, "closed", 0)
    return read_meta(connection, "closed") // 2
