"""The one SQL database. Rooms declare their tables on `metadata` and keep SQL in their `store.py`.

Two stores mean the same. SQLite, a file: WAL mode with `synchronous=FULL`, so that what was
acknowledged survives a power cut; writing transactions begin IMMEDIATE. PostgreSQL, a server: a
writing transaction takes one advisory lock first (`core.postgres`). Either way writers wait for
each other instead of failing, whatever they write: chains, sequences and proposals of version
numbers can be read and continued without a further thought.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from modelfleet.core import postgres
from modelfleet.core.clock import now_us
from modelfleet.core.errors import FleetError, InvalidInput, Unavailable
from modelfleet.core.files import make_private
from modelfleet.core.settings import Settings
from modelfleet.core.turns import Turns

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
WAIT_SECONDS = 30
"""How long a writer waits for the others."""
_POOL = 20
_HERE = ("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")
_fence: ContextVar[Callable[[sa.Connection], None] | None] = ContextVar("fence", default=None)


@dataclass
class _Joint:
    """A transaction that several verbs share."""

    database: Database
    connection: sa.Connection
    failed: bool = False


_joint: ContextVar[_Joint | None] = ContextVar("joint", default=None)


class Json(sa.TypeDecorator[object]):
    """A JSON document in a text column; the same on every database."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: object, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(value, sort_keys=True, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> object:
        return None if value is None else json.loads(value)


def place_of(settings: Settings) -> Path | sa.URL:
    """Where the database of these settings is."""
    if not settings.database.url:
        return settings.layout.fleet_database
    return postgres.url_of(settings)


def check(settings: Settings) -> None:
    """Raises `Unavailable` if the server does not answer, `InvalidInput` if it is too old."""
    place = place_of(settings)
    if isinstance(place, Path):
        return
    database = Database(place)
    try:
        with database.read() as connection:
            postgres.check(connection)
    finally:
        database.close()


@contextmanager
def fenced(check: Callable[[sa.Connection], None]) -> Iterator[None]:
    """Within the block, each writing transaction of this thread begins with `check`.

    For whoever acts on a lease: `check` raises when somebody else holds it by now.
    """
    token = _fence.set(check)
    try:
        yield
    finally:
        _fence.reset(token)


class Database:
    """Connections to the one database. place: a file of SQLite, or the address of PostgreSQL.

    What is not there, too busy or full raises `Unavailable`; a value that the database can't hold
    (too long, too large, with a zero byte) `InvalidInput`.
    """

    def __init__(self, place: Path | sa.URL, *, read_only: bool = False) -> None:
        """read_only: a file is neither made nor changed, whatever its state."""
        self.place = place
        self.is_postgres = not isinstance(place, Path)
        self._writing = Turns()
        self._afterwards: list[Callable[[], None]] = []
        if isinstance(place, Path) and read_only:
            uri = f"{place.absolute().as_uri()}?mode=ro"
            self.engine = sa.create_engine(
                "sqlite://",
                creator=lambda: sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None),
                poolclass=sa.NullPool,
            )
            self._begin, self._read = "BEGIN", "BEGIN"
        elif isinstance(place, Path):
            make_private(place)
            self.engine = sa.create_engine(
                f"sqlite:///{place}", pool_size=_POOL, connect_args={"timeout": WAIT_SECONDS}
            )
            sa.event.listen(self.engine, "connect", _on_connect)
            self._begin, self._read = "BEGIN IMMEDIATE", "BEGIN"
        else:
            self.engine = postgres.engine(place, _POOL)
            self._begin, self._read = postgres.begin(WAIT_SECONDS), postgres.READ

    @contextmanager
    def begin(self, *, rebuild: bool = False) -> Iterator[sa.Connection]:
        """A writing transaction: committed at the end of the block, rolled back if it raises.

        rebuild: tables are about to be replaced; references are checked at the end alone. (SQLite
        changes many things of a table only by making it anew.)
        """
        joint = self._joined()
        if joint is not None:
            try:
                yield joint.connection
            except BaseException:
                joint.failed = True
                raise
            return
        # Those of this process queue here, where they hold no connection that readers need.
        if not self._writing.acquire(timeout=WAIT_SECONDS):
            raise _busy()
        try:
            loose = rebuild and not self.is_postgres
            with self._explained(), self._opened(self._begin, loose) as connection:
                try:
                    check = _fence.get()
                    if check is not None:
                        check(connection)
                    yield connection
                    if loose:
                        _check_references(connection)
                except BaseException:
                    connection.rollback()
                    raise
                connection.commit()
            afterwards = tuple(self._afterwards)
        finally:
            self._afterwards.clear()
            self._writing.release()
        for call in afterwards:
            call()

    def afterwards(self, call: Callable[[], None]) -> None:
        """For a writing transaction: `call` when it is committed, never if it is rolled back.

        For whoever waits for what is written, and would not see it any earlier.
        """
        self._afterwards.append(call)  # there is one writing transaction at a time

    @contextmanager
    def together(self) -> Iterator[sa.Connection]:
        """A writing transaction that all verbs called in the block join: all of it or nothing.

        What a verb began and failed at can't be told apart from the rest: an error that is caught
        inside the block rolls everything back all the same.
        """
        with self.begin() as connection:
            joint = _Joint(self, connection)
            token = _joint.set(joint)
            try:
                yield connection
            finally:
                _joint.reset(token)
            if joint.failed:
                raise FleetError("A part of the change failed; nothing was changed.")

    def _joined(self) -> _Joint | None:
        joint = _joint.get()
        return joint if joint is not None and joint.database is self else None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view; writers are not held up."""
        joint = self._joined()
        if joint is not None:
            yield joint.connection
            return
        with self._explained(), self._opened(self._read) as connection:
            try:
                yield connection
            finally:
                connection.rollback()

    def now_us(self, connection: sa.Connection) -> int:
        """The time by the one clock that all control planes share, in microseconds."""
        return postgres.now_us(connection) if self.is_postgres else now_us()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _opened(self, first: str, loose: bool = False) -> Iterator[sa.Connection]:
        """A connection in a transaction. One that died in the pool is replaced, once.

        loose: SQLite does not look at references.
        """
        # Statements go to the driver as they are: several at once, and no parameters.
        options = {"no_parameters": True}
        connection = self.engine.connect()
        try:
            if loose:
                connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            try:
                connection.exec_driver_sql(first, execution_options=options)
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                connection.close()
                connection = self.engine.connect()
                connection.exec_driver_sql(first, execution_options=options)
            yield connection
        finally:
            if loose:
                connection.exec_driver_sql("PRAGMA foreign_keys=ON")
            connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.TimeoutError as error:
            raise _busy() from error
        except sa.exc.DBAPIError as error:
            told = postgres.explain(error) if self.is_postgres else _explain(error)
            if told is None:
                raise
            raise told from error


def _check_references(connection: sa.Connection) -> None:
    for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check").all():
        raise FleetError(
            f"Row {row} of {table} refers to nothing in {parent}; nothing was changed."
        )


def _busy() -> Unavailable:
    return Unavailable(
        f"The database was busy for {WAIT_SECONDS} s.", hint="Try again, a little later."
    )


def _explain(error: sa.exc.DBAPIError) -> FleetError | None:
    """What SQLite's error means to a caller; None if it is a mistake of ours."""
    if isinstance(error, sa.exc.DataError):
        return InvalidInput(f"The database can't hold this: {error.orig}.")
    name = getattr(error.orig, "sqlite_errorname", "")
    if name.startswith("SQLITE_BUSY"):
        return _busy()
    if name.startswith("SQLITE_FULL"):
        return Unavailable("The disk is full; nothing was changed.", hint="Free some space.")
    if name.startswith(_HERE):
        return Unavailable(f"The database can't be used: {error.orig}.", hint="modelfleet doctor")
    return None


def _on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we send BEGIN ourselves
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={WAIT_SECONDS * 1000}",
        "case_sensitive_like=ON",  # as PostgreSQL does
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
