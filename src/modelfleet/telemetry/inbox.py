"""The inbox of outcomes: files of JSON lines, dropped in by rename, consumed exactly once.

A file's name is committed together with its outcomes; only then it is deleted. Outcomes of
predictions that nobody knows yet are parked and tried again, ever less often, for a week.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from modelfleet.telemetry.database import add_meta, transaction
from modelfleet.telemetry.outcomes import Outcome, Outcomes
from modelfleet_worker.wire.ids import parse_id

_AT_ONCE = 20_000
_LONGEST_WAIT_US = 600 * 1_000_000
_LIFE_US = 7 * 86_400 * 1_000_000


class OutcomeLine(msgspec.Struct, frozen=True):
    """One line of an inbox file. `prediction_id`: hyphenated, `#k` behind it for row k."""

    prediction_id: str
    value: float | bool
    event_time: str = ""
    """ISO 8601; without it the time of arrival counts."""
    source: str = ""
    idempotency_key: str = ""


_decode_line = msgspec.json.Decoder(OutcomeLine).decode
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outcome).decode


class Inbox:
    def __init__(
        self,
        folder: Path,
        connection: sqlite3.Connection,
        outcomes: Outcomes,
        *,
        retry_seconds: float,
    ) -> None:
        self._folder = folder
        self._connection = connection
        self._outcomes = outcomes
        self._retry_us = max(1, int(retry_seconds * 1_000_000))

    def collect(self) -> int:
        """Take new files and parked outcomes that are due; returns the outcomes looked at."""
        now = time.time_ns() // 1000
        files = self._files()
        parked = self._connection.execute(
            "SELECT id, outcome, tries FROM parked WHERE next_try <= ? LIMIT ?",
            (now, _AT_ONCE),
        ).fetchall()
        if not files and not parked:
            return 0
        outcomes, rejected, taken = self._read(files, now)
        waiting = [_decode(blob) for _, blob, _ in parked]
        with transaction(self._connection):
            unknown = set(self._outcomes.join([*outcomes, *waiting]))
            self._park([one for place, one in enumerate(outcomes) if place in unknown], now)
            for place, (row, _, tries) in enumerate(parked):
                still = len(outcomes) + place in unknown
                self._settle(row, waiting[place], tries + 1, still, now)
            self._connection.executemany(
                "INSERT OR IGNORE INTO inbox (name) VALUES (?)", [(file.name,) for file in taken]
            )
            add_meta(self._connection, "outcomes_rejected", rejected)
        self._remove(taken)
        return len(outcomes) + len(parked)

    def _remove(self, files: Sequence[Path]) -> None:
        """Delete consumed files, then forget their names, so that a name may return."""
        for file in files:
            file.unlink(missing_ok=True)
        self._connection.execute("DELETE FROM inbox")

    def _files(self) -> list[Path]:
        """Files not consumed yet, oldest name first. Leftovers of a killed collector go."""
        if not self._folder.is_dir():
            return []
        names = sorted(
            path.name
            for path in self._folder.iterdir()
            if path.suffix == ".ndjson" and not path.name.startswith(".")
        )
        consumed = {name for (name,) in self._connection.execute("SELECT name FROM inbox")}
        if consumed:
            self._remove([self._folder / name for name in consumed])
        return [self._folder / name for name in names if name not in consumed]

    def _read(self, files: Sequence[Path], now: int) -> tuple[list[Outcome], int, list[Path]]:
        """Outcomes of the first files, about `_AT_ONCE` of them; lines that are none; files."""
        outcomes: list[Outcome] = []
        rejected = 0
        taken = []
        for file in files:
            if len(outcomes) >= _AT_ONCE:
                break
            for line in file.read_bytes().splitlines():
                outcome = parse_line(line, now)
                if outcome is not None:
                    outcomes.append(outcome)
                elif line.strip():
                    rejected += 1
            taken.append(file)
        return outcomes, rejected, taken

    def _park(self, outcomes: Iterable[Outcome], now: int) -> None:
        self._connection.executemany(
            "INSERT INTO parked (outcome, arrived, tries, next_try) VALUES (?, ?, 0, ?)",
            [(_encode(one), one.arrived, now + self._retry_us) for one in outcomes],
        )

    def _settle(self, row: int, outcome: Outcome, tries: int, unknown: bool, now: int) -> None:
        """A parked outcome was tried again: it goes, or waits for longer."""
        expired = unknown and now - outcome.arrived > _LIFE_US
        if not unknown or expired:
            self._connection.execute("DELETE FROM parked WHERE id = ?", (row,))
            add_meta(self._connection, "outcomes_expired", int(expired))
            return
        wait = min(self._retry_us << min(tries, 16), _LONGEST_WAIT_US)
        self._connection.execute(
            "UPDATE parked SET tries = ?, next_try = ? WHERE id = ?", (tries, now + wait, row)
        )


def parse_line(line: bytes, now: int) -> Outcome | None:
    """The outcome in a line, None if there is none. now: microseconds."""
    try:
        read = _decode_line(line)
        identity, _, row = read.prediction_id.partition("#")
        if row and not row.isdecimal():
            return None
        return Outcome(
            prediction=parse_id(identity),
            row=int(row or 0),
            value=float(read.value),
            event_time=_event_time(read.event_time) or now,
            source=read.source,
            key=read.idempotency_key,
            arrived=now,
        )
    except (msgspec.DecodeError, ValueError, OverflowError):
        return None


def _event_time(text: str) -> int:
    """Microseconds; a time without a zone is UTC. 0 if there is none."""
    if not text:
        return 0
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1e6)
