"""evidence.db: the collector's own database. It alone writes; everybody else opens it read-only.

Evidence is committed many times a minute and must not wait for changes of the fleet, nor they for
it; that is why it has a file of its own. `synchronous=NORMAL`: a killed process loses nothing, a
power cut at most the last commits, whose records are read again from their segments.

Times are microseconds since 1970, if their name doesn't say otherwise. States are blobs of
`modelfleet.telemetry.states`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelfleet.core.errors import Conflict
from modelfleet.core.files import make_private

SCHEMA_VERSION = 1

_LATER_COLUMNS = {
    "outcome_window": (
        "predicted INTEGER NOT NULL DEFAULT 0",
        "positive INTEGER NOT NULL DEFAULT 0",
        "hits INTEGER NOT NULL DEFAULT 0",
        "classified INTEGER NOT NULL DEFAULT 0",
    ),
    "pair_tick": ("scored INTEGER NOT NULL DEFAULT 0",),
}
"""Of a later release than the first, as is the table of batches: databases of that one get them
when they are opened."""
_LATER_TABLES = """
-- Keys of sticky rollouts (`scope`), each with the tick of its first visit.
CREATE TABLE IF NOT EXISTS sticky_key (
    scope TEXT NOT NULL, key INTEGER NOT NULL, version_index INTEGER NOT NULL,
    number INTEGER NOT NULL, failed INTEGER NOT NULL,
    PRIMARY KEY (scope, key)) WITHOUT ROWID;
-- What batches predicted, by run and version.
CREATE TABLE IF NOT EXISTS batch (
    batch TEXT NOT NULL, version_index INTEGER NOT NULL, layout TEXT NOT NULL,
    records INTEGER NOT NULL, rows INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (batch, version_index)) WITHOUT ROWID;
-- The gateway's counters by its own labels: as they last were, and what they add up to.
CREATE TABLE IF NOT EXISTS gateway_counter (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, endpoint TEXT NOT NULL, label TEXT NOT NULL,
    seen INTEGER NOT NULL, total INTEGER NOT NULL) WITHOUT ROWID;
-- What it refused in the last minutes.
CREATE TABLE IF NOT EXISTS refusal (
    start INTEGER NOT NULL, endpoint TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (start, endpoint, reason)) WITHOUT ROWID
"""
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- What a version index means. Kept after the version left its pool.
CREATE TABLE version (
    version_index INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL,
    path TEXT NOT NULL, layout TEXT NOT NULL);
CREATE TABLE layout (digest TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID;

-- How far each segment was read: counted into states, and sealed into Parquet.
CREATE TABLE segment (
    name TEXT PRIMARY KEY, counted INTEGER NOT NULL, sealed INTEGER NOT NULL) WITHOUT ROWID;
-- Dropped records of a worker's life, as its control block last said.
CREATE TABLE writer (
    name TEXT PRIMARY KEY, dropped INTEGER NOT NULL, seen INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE window (
    version_index INTEGER NOT NULL, start INTEGER NOT NULL, layout TEXT NOT NULL,
    requests INTEGER NOT NULL, errors INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (version_index, start, layout)) WITHOUT ROWID;
CREATE INDEX window_start ON window (start);

CREATE TABLE total (
    version_index INTEGER PRIMARY KEY, requests INTEGER NOT NULL, errors INTEGER NOT NULL,
    last_seen INTEGER NOT NULL, state BLOB NOT NULL);
CREATE TABLE recent (version_index INTEGER PRIMARY KEY, predictions BLOB NOT NULL);

-- Judge ticks. Readers see numbers up to meta.closed only.
CREATE TABLE tick (
    version_index INTEGER NOT NULL, number INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (version_index, number)) WITHOUT ROWID;
CREATE INDEX tick_number ON tick (number);
CREATE TABLE pair_tick (
    stable INTEGER NOT NULL, shadow INTEGER NOT NULL, number INTEGER NOT NULL,
    pairs INTEGER NOT NULL, disagreements INTEGER NOT NULL,
    absolute REAL NOT NULL, squared REAL NOT NULL,
    stable_latency_us REAL NOT NULL, shadow_latency_us REAL NOT NULL,
    PRIMARY KEY (stable, shadow, number)) WITHOUT ROWID;

-- Parquet files. A file that isn't here was never committed. A manifest row says which bytes of
-- which segment it holds.
CREATE TABLE file (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, path TEXT NOT NULL UNIQUE,
    rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
    first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL);
CREATE INDEX file_kind ON file (kind, last_ms);
CREATE TABLE manifest (
    segment TEXT NOT NULL, from_offset INTEGER NOT NULL, to_offset INTEGER NOT NULL,
    batch INTEGER NOT NULL, PRIMARY KEY (segment, from_offset)) WITHOUT ROWID;

-- Retried requests: predictions that another one of the same request stands for.
CREATE TABLE alias (
    alias BLOB PRIMARY KEY, prediction BLOB NOT NULL, time INTEGER NOT NULL) WITHOUT ROWID;
-- Requests that died with their worker, found in its in-flight slots.
CREATE TABLE crash (
    writer TEXT NOT NULL, request_id TEXT NOT NULL, record BLOB NOT NULL, time INTEGER NOT NULL,
    sealed INTEGER NOT NULL, PRIMARY KEY (writer, request_id)) WITHOUT ROWID;

-- Outcomes.
CREATE TABLE inbox (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE label (
    prediction BLOB NOT NULL, row INTEGER NOT NULL, version_index INTEGER NOT NULL,
    start INTEGER NOT NULL, score REAL NOT NULL, value REAL NOT NULL, event_time INTEGER NOT NULL,
    key TEXT NOT NULL, PRIMARY KEY (prediction, row)) WITHOUT ROWID;
CREATE TABLE outcome_window (
    version_index INTEGER NOT NULL, start INTEGER NOT NULL, labelled INTEGER NOT NULL,
    wrong INTEGER NOT NULL, absolute REAL NOT NULL, squared REAL NOT NULL, log_loss REAL NOT NULL,
    PRIMARY KEY (version_index, start)) WITHOUT ROWID;
CREATE TABLE outcome_log (
    id INTEGER PRIMARY KEY, prediction BLOB NOT NULL, row INTEGER NOT NULL,
    version_index INTEGER NOT NULL, prediction_time INTEGER NOT NULL, score REAL NOT NULL,
    value REAL NOT NULL, event_time INTEGER NOT NULL, arrived INTEGER NOT NULL,
    source TEXT NOT NULL, key TEXT NOT NULL);
CREATE TABLE parked (
    id INTEGER PRIMARY KEY, outcome BLOB NOT NULL, arrived INTEGER NOT NULL,
    tries INTEGER NOT NULL, next_try INTEGER NOT NULL);
CREATE INDEX parked_next ON parked (next_try);
"""


def open_writer(path: Path) -> sqlite3.Connection:
    """The collector's connection; creates the database. Transactions are begun by `transaction`.

    Raises `Conflict` for one of another release's schema, and leaves it as it is.
    """
    make_private(path)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, cached_statements=256)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise Conflict(
                f"{path.name} has schema {version}, this release has {SCHEMA_VERSION}.",
                hint="Install the release that wrote it, or move the file away: it then begins "
                "anew.",
            )
        for statement in _LATER_TABLES.split(";"):
            connection.execute(statement)
        for table, columns in _LATER_COLUMNS.items():
            known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            for column in columns:
                if column.split()[0] not in known:
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    return connection


def open_reader(path: Path) -> sqlite3.Connection | None:
    """A read-only connection, or None while there is no evidence at all."""
    if not path.exists():
        return None
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None
    )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION or _lacks_columns(connection):
        connection.close()
        return None
    return connection


def _lacks_columns(connection: sqlite3.Connection) -> bool:
    """Of an earlier release, which the collector has not opened yet."""
    return not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'refusal'").fetchone()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def read_meta(connection: sqlite3.Connection, key: str, default: int = 0) -> int:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return default if row is None else int(row[0])


def write_meta(connection: sqlite3.Connection, key: str, value: int) -> None:
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def add_meta(connection: sqlite3.Connection, key: str, amount: int) -> None:
    """Add to a counter that goes on over restarts."""
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = value + excluded.value",
        (key, amount),
    )
