"""All rows of a database as text, and back: the same on either store.

One gzipped file; a line with a table's name and columns, then one line for each row. Tables are
taken as the database has them, not as this release declares them, so that a backup of an earlier
schema can be restored at that schema and be upgraded then.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Resource
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, InvalidInput
from modelfleet.core.membership import member
from modelfleet.core.migrate import revision_of, revisions, upgrade_to

_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_BATCH = 1000
_NOT_KEPT = ("alembic_version", member.name)


@dataclass
class Dump:
    """What was written. digests: everything in it that may be the name of a blob."""

    schema: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    audit: str = ""
    digests: set[str] = field(default_factory=set)
    bundled: set[str] = field(default_factory=set)
    """blobs of bundles: these must be there"""


def dump(database: Database, path: Path) -> Dump:
    """One consistent view, while others go on writing. Raises `InvalidInput` if it is empty."""
    found = Dump()
    # Without name and time: equal rows are equal bytes.
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, "utf-8") as out,
        database.read() as connection,
    ):
        if database.is_postgres:
            connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        schema = revision_of(connection)
        if schema is None:
            raise InvalidInput("The database is empty: this home was never started.")
        found.schema = schema
        for table in _tables(connection):
            names = [column.name for column in table.columns]
            out.write(_line({"table": table.name, "columns": names}))
            found.rows[table.name] = 0
            query = sa.select(table).order_by(*table.primary_key.columns)
            streamed = connection.execution_options(yield_per=_BATCH).execute(query)
            for row in streamed:
                line = _line([_plain(value) for value in row])
                out.write(line)
                found.rows[table.name] += 1
                digests = set(_DIGEST.findall(line))
                found.digests |= digests
                if table.name == "bundle":
                    found.bundled |= {one["sha256"] for one in json.loads(row._mapping["entries"])}
        found.counters = _counters(connection, database.is_postgres)
        last = sa.select(audit.audit_event.c.hash).order_by(audit.audit_event.c.sequence.desc())
        found.audit = connection.execute(last.limit(1)).scalar() or ""
    return found


def load(database: Database, lines: Iterable[str], dumped: Dump) -> None:
    """Into an empty database, in one transaction; then up to this release's schema.

    Raises `Conflict` if it is not empty or the schema is of a newer release.
    """
    if dumped.schema not in revisions():
        raise Conflict(
            f"The backup has the schema {dumped.schema}, which this release does not know.",
            hint="Install the release that wrote it, or a newer one.",
        )
    with database.begin(rebuild=True) as connection:
        if sa.inspect(connection).get_table_names():
            raise Conflict("The database is not empty.", hint="Restore into an empty one.")
        upgrade_to(connection, dumped.schema)
        tables = {table.name: table for table in _tables(connection)}
        for table in reversed(tables.values()):  # what the schema itself brought
            connection.execute(sa.delete(table))
        counted = _insert(connection, tables, lines)
        if counted != dumped.rows:
            raise InvalidInput("The backup does not hold as many rows as it says.")
        _set_counters(connection, database.is_postgres, tables, dumped.counters)
        upgrade_to(connection, "head")
        table = audit.audit_event
        rows = connection.execute(sa.select(table).order_by(table.c.sequence)).mappings()
        broken, last = audit.break_in_with_last(dict(row) for row in rows)
        if broken is not None or last != dumped.audit:
            raise InvalidInput(f"The audit log of the backup is broken at event {broken}.")
        _let_go_of_jobs(connection)
        resource = Resource("platform", "backup")
        audit.record(connection, SYSTEM, "restore-backup", resource, {"last": dumped.audit})


def _insert(
    connection: sa.Connection, tables: dict[str, sa.Table], lines: Iterable[str]
) -> dict[str, int]:
    counted: dict[str, int] = {}
    for table, names, values in _read(tables, lines):
        counted[table.name] = counted.get(table.name, 0) + len(values)
        if values:
            rows = [dict(zip(names, map(_value, row), strict=True)) for row in values]
            connection.execute(sa.insert(table), rows)
    return counted


def _read(
    tables: dict[str, sa.Table], lines: Iterable[str]
) -> Iterator[tuple[sa.Table, list[str], list[list[Any]]]]:
    """Batches of rows; one for each table at least."""
    table: sa.Table | None = None
    names: list[str] = []
    values: list[list[Any]] = []
    for line in lines:
        found = json.loads(line)
        if isinstance(found, dict):
            if table is not None:
                yield table, names, values
            if found["table"] not in tables:
                raise InvalidInput(f"The backup has a table {found['table']!r}: it is unknown.")
            table, names, values = tables[found["table"]], found["columns"], []
            continue
        values.append(found)
        if len(values) == _BATCH and table is not None:
            yield table, names, values
            values = []
    if table is not None:
        yield table, names, values


def _tables(connection: sa.Connection) -> list[sa.Table]:
    """As they are in the database; what others refer to comes first."""
    found = sa.MetaData()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*expression-based index")
        found.reflect(connection)
    return [table for table in found.sorted_tables if table.name not in _NOT_KEPT]


def _counters(connection: sa.Connection, is_postgres: bool) -> dict[str, int]:
    if not is_postgres:
        if not connection.execute(
            sa.text("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'")
        ).first():
            return {}
        rows = connection.execute(sa.text("SELECT name, seq FROM sqlite_sequence"))
        return {row.name: int(row.seq) for row in rows}
    found = {}
    for table in _tables(connection):
        sequence = _sequence(connection, table)
        if sequence is not None:
            row = connection.execute(sa.text(f"SELECT last_value, is_called FROM {sequence}")).one()
            if row.is_called:
                found[table.name] = int(row.last_value)
    return found


def _set_counters(
    connection: sa.Connection,
    is_postgres: bool,
    tables: dict[str, sa.Table],
    counters: dict[str, int],
) -> None:
    if is_postgres:
        for table in tables.values():
            sequence = _sequence(connection, table)
            if sequence is not None:
                (column,) = table.primary_key.columns
                most = connection.execute(sa.select(sa.func.max(column))).scalar() or 0
                last = max(most, counters.get(table.name, 0))
                if last:
                    connection.execute(
                        sa.text("SELECT setval(:sequence, :last)"),
                        {"sequence": sequence, "last": last},
                    )
        return
    known = {
        row.name
        for row in connection.execute(
            sa.text("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'")
        )
    }
    for name, last in counters.items():
        if name in known:
            connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :n"), {"n": name})
            connection.execute(
                sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:n, :s)"),
                {"n": name, "s": last},
            )


def _sequence(connection: sa.Connection, table: sa.Table) -> str | None:
    """That hands out the primary key, quoted as SQL wants it."""
    if len(table.primary_key.columns) != 1:
        return None
    (column,) = table.primary_key.columns
    query = sa.text("SELECT pg_get_serial_sequence(quote_ident(:table), :column)")
    found: str | None = connection.execute(
        query, {"table": table.name, "column": column.name}
    ).scalar()
    return found


def _let_go_of_jobs(connection: sa.Connection) -> None:
    """What ran when the backup was taken is queued again."""
    connection.execute(
        sa.text("UPDATE job SET status = 'queued', owner = NULL WHERE status = 'running'")
    )


def _plain(value: object) -> object:
    if isinstance(value, (bytes, memoryview)):
        return {"base64": base64.b64encode(bytes(value)).decode()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} in the database")


def _value(found: Any) -> Any:
    return base64.b64decode(found["base64"]) if isinstance(found, dict) else found


def _line(found: object) -> str:
    return json.dumps(found, separators=(",", ":")) + "\n"
