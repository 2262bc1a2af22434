"""PostgreSQL as `core.database` uses it: its address, how transactions begin, what errors mean."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler

from modelfleet.core.errors import FleetError, InvalidInput, Unavailable

if TYPE_CHECKING:
    from modelfleet.core.settings import Settings

_OLDEST = 13
_CONNECT_SECONDS = 5
_LOCK = 0x6D666C74
"""First half of the key of our advisory lock; the other half is the schema's."""
_STALLED_SECONDS = 20
"""Whoever stops in the middle of a writing transaction holds the others up no longer than this."""
_REACH = "Is the server running, and are database.url and the password right? modelfleet doctor"
READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BUSY = ("55P03", "57014", "25P03")  # lock not available, statement timeout, stalled transaction
_FULL = ("53100",)


def begin(wait_seconds: int) -> str:
    """How a writing transaction begins: in one message, it has waited for all others."""
    return (
        f"BEGIN; SET LOCAL lock_timeout = '{wait_seconds}s'; "
        f"SET LOCAL idle_in_transaction_session_timeout = '{_STALLED_SECONDS}s'; "
        f"SELECT pg_advisory_xact_lock({_LOCK}, hashtext(current_schema()))"
    )


def url_of(settings: Settings) -> sa.URL:
    """The address with its password. Raises `InvalidInput`."""
    wanted = settings.database
    try:
        url = sa.make_url(wanted.url)
    except (sa.exc.ArgumentError, ValueError):
        raise InvalidInput("database.url is no address.", hint=_FORM) from None
    if url.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise InvalidInput(f"database.url can't begin with {url.drivername}://.", hint=_FORM)
    if find_spec("psycopg") is None:
        raise InvalidInput(
            "PostgreSQL needs a driver that is not installed.",
            hint="Install it: pip install 'modelfleet[postgres]'",
        )
    password = settings.database_password()
    url = url.set(drivername="postgresql+psycopg")
    return url.set(password=password) if password else url


_FORM = "Write postgresql://USER@HOST:5432/NAME, or leave it empty for SQLite."


def engine(url: sa.URL, pool: int) -> sa.Engine:
    settings: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": "modelfleet",
        # A server that vanished without a word is noticed in twenty seconds.
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
    # We send BEGIN ourselves.
    made = sa.create_engine(
        url, pool_size=pool, connect_args=settings, isolation_level="AUTOCOMMIT"
    )
    made.dialect.type_compiler_instance = _Bytewise(made.dialect)
    return made


class _Bytewise(PGTypeCompiler):
    """Text columns sort and compare by their bytes, as in SQLite, whatever the server's locale.

    Keys of semantic versions rely on it, and so do pages of names.
    """

    def visit_VARCHAR(self, type_: Any, **kw: Any) -> str:
        return super().visit_VARCHAR(type_, **kw) + _collation(type_, kw)

    def visit_TEXT(self, type_: Any, **kw: Any) -> str:
        return super().visit_TEXT(type_, **kw) + _collation(type_, kw)


def _collation(type_: Any, kw: dict[str, Any]) -> str:
    """Only where a column is declared: a CAST has no place for it."""
    declared = isinstance(kw.get("type_expression"), sa.Column) and not type_.collation
    return ' COLLATE "C"' if declared else ""


def now_us(connection: sa.Connection) -> int:
    query = sa.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    return int(connection.execute(query).scalar_one())


def check(connection: sa.Connection) -> None:
    """Raises `InvalidInput` for a server that can't hold the platform's data."""
    found = int(connection.execute(sa.text("SHOW server_version_num")).scalar_one())
    if found < _OLDEST * 10_000:
        raise InvalidInput(
            f"The database server is PostgreSQL {found // 10_000}.",
            hint=f"Use {_OLDEST} or newer.",
        )
    encoding = connection.execute(sa.text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise InvalidInput(
            f"The database's encoding is {encoding}.",
            hint="Make it with: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
        )


def explain(error: sa.exc.DBAPIError) -> FleetError | None:
    """What an error means to a caller; None if it is a mistake of ours."""
    state = str(getattr(error.orig, "sqlstate", "") or "")
    if isinstance(error, sa.exc.DataError):
        return InvalidInput(f"The database can't hold this: {_first_line(error)}")
    if state in _FULL:
        return Unavailable("The database's disk is full; nothing was changed.", hint="Free space.")
    if state in _BUSY:
        return Unavailable("The database is busy.", hint="Try again, a little later.")
    if state.startswith("28") or state in ("3D000", "42501"):  # who we are, what we may
        return Unavailable(f"The database refuses us: {_first_line(error)}", hint=_REACH)
    if isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)):
        return Unavailable(f"The database can't be reached: {_first_line(error)}", hint=_REACH)
    return None


def _first_line(error: sa.exc.DBAPIError) -> str:
    text = str(error.orig).strip()
    return text.splitlines()[0][:300] if text else type(error.orig).__name__
