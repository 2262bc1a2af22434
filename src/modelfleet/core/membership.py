"""Which control planes live on one database, and which of them leads.

Each joins with a row and renews it; a row that was not renewed for `LEASE_SECONDS` is removed by
any other, and what its owner was doing is free again. The oldest living member leads. All times
are the database's, so that clocks of machines need not agree. Each also holds a lock in the home,
which the kernel drops with it: who finds it free need not wait.

A member may be wrong about itself: it slept, or could not reach the database. So whoever acts on
being the leader, or on holding a job, does it within `database.fenced`: each of its transactions
looks again whether that is still so.

On SQLite there is one control plane (`app` sees to that): it needs no heartbeat, and whatever it
finds at its start is of the dead.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
import structlog

from modelfleet.core.database import Database, metadata
from modelfleet.core.errors import Conflict, FleetError, Unavailable
from modelfleet.core.files import hold

log = structlog.get_logger(__name__)
LEASE_SECONDS = 5.0
BEAT_SECONDS = 1.0
_US = 1_000_000

member = sa.Table(
    "member",
    metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("fleet", sa.String(64), nullable=False),
    sa.Column("address", sa.String(200), nullable=False),
    sa.Column("joined_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)


class Membership:
    """This process among the control planes. fleet: of which home; only equal ones may meet.
    locks: the folder of their locks."""

    def __init__(self, database: Database, fleet: str = "", locks: Path | None = None) -> None:
        self._database = database
        self._fleet = fleet
        self._locks = locks
        self._held: int | None = None
        self.address = ""
        self.id = ""
        self._until = 0.0
        """monotonic seconds: for so long are we sure of our row"""
        self._leads = False
        self._since: float | None = None
        """monotonic seconds since when all beats reached the database"""
        self._released: list[Callable[[sa.Connection, str], None]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def when_released(self, free: Callable[[sa.Connection, str], None]) -> None:
        """`free(connection, id)` is called when a member is gone, in the transaction that says so;
        with "" for what nobody ever owned."""
        self._released.append(free)

    def start(self) -> None:
        """Join. Raises `Conflict` if a control plane of another home lives on this database."""
        if self.id:
            return
        self._join()
        if self._database.is_postgres:
            self._thread = threading.Thread(target=self._loop, name="membership", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Leave, so that others need not wait."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.id:
            mine, self.id, self._until = self.id, "", 0.0
            self._unlock(mine)
            try:
                with self._database.begin() as connection:
                    self._remove(connection, mine)
            except FleetError as error:
                log.warning("left without a word", error=error.message)

    @property
    def leads(self) -> bool:
        return self._leads and self._sure

    @property
    def _sure(self) -> bool:
        return bool(self.id) and (not self._database.is_postgres or time.monotonic() < self._until)

    def check_lead(self, connection: sa.Connection) -> None:
        """Raises `Unavailable` if another member leads."""
        if self._oldest(connection) != self.id or not self.id:
            self._leads = False
            raise Unavailable("Another control plane leads.")

    def lives(self, connection: sa.Connection) -> bool:
        """Whether our row is there; without it we may take nothing on."""
        query = sa.select(member.c.id).where(member.c.id == self.id)
        return connection.execute(query).first() is not None

    def beat(self) -> None:
        """Renew the row, remove those of the dead. One that lost its row joins anew."""
        began = time.monotonic()
        patient = self._since is not None and began - self._since > LEASE_SECONDS
        with self._database.begin() as connection:
            now = self._database.now_us(connection)
            renewed = connection.execute(
                sa.update(member)
                .where(member.c.id == self.id)
                .values(expires_at=now + int(LEASE_SECONDS * _US))
            )
            if renewed.rowcount:
                # After an outage everybody is late: the others get as long as we had.
                self._bury(connection, now if patient else 0)
            leads = self._oldest(connection) == self.id
        if not renewed.rowcount:
            log.error("lost membership, joining anew", member=self.id)
            self._join()
            return
        self._renewed(began, leads)

    def _join(self) -> None:
        began = time.monotonic()
        made = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(6)}"
        self._unlock(self.id)
        self._held = hold(self._lock_of(self._locks, made)) if self._locks else None
        with self._database.begin() as connection:
            now = self._database.now_us(connection)
            self._bury(connection, now if self._database.is_postgres else None)
            self._refuse_others(connection)
            newest = connection.execute(sa.select(sa.func.max(member.c.joined_at))).scalar()
            connection.execute(
                sa.insert(member).values(
                    id=made,
                    fleet=self._fleet,
                    address=self.address,
                    joined_at=max(now, (newest or 0) + 1),
                    expires_at=now + int(LEASE_SECONDS * _US),
                )
            )
            leads = self._oldest(connection) == made
        self.id = made
        self._since = None
        self._renewed(began, leads)

    def _renewed(self, began: float, leads: bool) -> None:
        if leads and not self._leads:
            log.info("leads", member=self.id)
        self._leads = leads
        self._until = began + LEASE_SECONDS
        self._since = self._since or began

    def _refuse_others(self, connection: sa.Connection) -> None:
        other = connection.execute(
            sa.select(member.c.address).where(member.c.fleet != self._fleet).limit(1)
        ).first()
        if other is not None:
            raise Conflict(
                f"A control plane of another home uses this database ({other.address}).",
                hint="Give each home a database, or start a second control plane of one home: "
                "modelfleet control",
            )

    def _bury(self, connection: sa.Connection, now: int | None) -> None:
        """Remove members whose time is up; all, if `now` is None."""
        for row in connection.execute(sa.select(member.c.id, member.c.expires_at)).all():
            late = now is None or row.expires_at < now or self._dropped(row.id)
            if late and row.id != self.id:
                log.warning("a control plane died", member=row.id)
                self._remove(connection, row.id)
                if self._locks is not None:
                    self._lock_of(self._locks, row.id).unlink(missing_ok=True)
        for free in self._released:
            free(connection, "")

    @staticmethod
    def _lock_of(folder: Path, one: str) -> Path:
        return folder / f"{one}.lock"

    def _dropped(self, other: str) -> bool:
        """Whether it held a lock here and does not any more."""
        if self._locks is None or other == self.id:
            return False
        path = self._lock_of(self._locks, other)
        if not path.exists():
            return False
        handle = hold(path)
        if handle is None:
            return False
        os.close(handle)
        return True

    def _unlock(self, mine: str) -> None:
        if self._held is not None and self._locks is not None:
            self._lock_of(self._locks, mine).unlink(missing_ok=True)
            os.close(self._held)
            self._held = None

    def _remove(self, connection: sa.Connection, gone: str) -> None:
        connection.execute(sa.delete(member).where(member.c.id == gone))
        for free in self._released:
            free(connection, gone)

    def _oldest(self, connection: sa.Connection) -> str | None:
        found: str | None = connection.execute(
            sa.select(member.c.id).order_by(member.c.joined_at, member.c.id).limit(1)
        ).scalar()
        return found

    def _loop(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self.beat()
            except Exception as error:  # noqa: BLE001 - the next beat may do better
                self._since = None
                log.error("heartbeat", error=str(error))


def members(database: Database) -> list[tuple[str, str]]:
    """(id, address) of the living ones; the first leads."""
    with database.read() as connection:
        rows = connection.execute(
            sa.select(member.c.id, member.c.address).order_by(member.c.joined_at, member.c.id)
        )
        return [(row.id, row.address) for row in rows]
