"""Work that takes seconds to hours, as rows that outlive the process that runs them.

`JobRunner` is the seam. `LocalJobRunner` runs jobs in threads of a control plane. A job is held by
the member that runs it (`core.membership`); when that one is gone it is queued again, for whoever
comes first, so handlers must be idempotent. A handler whose job was taken away meanwhile can't
write any more: its transactions are fenced.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import sqlalchemy as sa
import structlog

from modelfleet.core.clock import now_us
from modelfleet.core.database import Database, Json, fenced, metadata
from modelfleet.core.errors import Unavailable
from modelfleet.core.ids import new_id
from modelfleet.core.membership import Membership

log = structlog.get_logger(__name__)

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("key", sa.String(200), nullable=False, unique=True),
    sa.Column("kind", sa.String(60), nullable=False),
    sa.Column("arguments", Json, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
    sa.Column("owner", sa.String(80)),
    sa.Index("ix_job_status", "status", "created_at"),
)


@dataclass(frozen=True)
class Handler:
    """How to do a kind of job, and what to note when it failed for good."""

    run: Callable[[Mapping[str, object]], None]
    give_up: Callable[[Mapping[str, object], str], None]
    at_once: int = 0
    """jobs of this kind that run at a time in a process, so that others find a thread; 0: any"""


@dataclass(frozen=True)
class Job:
    id: str
    key: str
    kind: str
    arguments: Mapping[str, object]
    status: str
    """queued, running, succeeded, failed or cancelled"""
    attempts: int
    error: str
    owner: str | None
    """the control plane that runs it"""


class JobRunner(Protocol):
    def enqueue(
        self, connection: sa.Connection, kind: str, key: str, arguments: Mapping[str, object]
    ) -> None:
        """Queue a job in the caller's transaction. A second call with the same key is a no-op."""

    def status(self, key: str) -> Job | None: ...

    def cancel(self, key: str) -> bool:
        """True if the job had not begun and never will."""


class LocalJobRunner:
    MAX_ATTEMPTS = 3

    def __init__(
        self,
        database: Database,
        handlers: Mapping[str, Handler],
        threads: int = 3,
        membership: Membership | None = None,
    ) -> None:
        """membership: of the process; without one it is alone."""
        self._database = database
        self._membership = membership or Membership(database)
        self._membership.when_released(_queue_again)
        self._handlers = handlers
        self._threads = threads
        self._running: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def enqueue(
        self, connection: sa.Connection, kind: str, key: str, arguments: Mapping[str, object]
    ) -> None:
        known = connection.execute(sa.select(job.c.id).where(job.c.key == key)).first()
        if known is None:
            connection.execute(
                sa.insert(job).values(
                    id=new_id(),
                    key=key,
                    kind=kind,
                    arguments=dict(arguments),
                    status="queued",
                    attempts=0,
                    error="",
                    created_at=now_us(),
                )
            )
        self._database.afterwards(self._wake.set)

    def status(self, key: str) -> Job | None:
        with self._database.read() as connection:
            row = connection.execute(sa.select(job).where(job.c.key == key)).mappings().first()
        if row is None:
            return None
        return Job(**{name: row[name] for name in Job.__dataclass_fields__})

    def cancel(self, key: str) -> bool:
        with self._database.begin() as connection:
            changed = connection.execute(
                sa.update(job)
                .where(job.c.key == key, job.c.status == "queued")
                .values(status="cancelled", finished_at=now_us())
            )
        return changed.rowcount == 1

    def start(self) -> None:
        self._membership.start()
        self._thread = threading.Thread(target=self._loop, name="jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._membership.stop()

    def _loop(self) -> None:
        slots = threading.Semaphore(self._threads)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="job") as threads:
            while not self._stop.is_set():
                slots.acquire()
                taken = self._take_one()
                if taken is None:
                    slots.release()
                    self._wake.wait(0.5)
                    self._wake.clear()
                    continue
                threads.submit(self._run, taken).add_done_callback(
                    partial(self._done, slots, taken.kind)
                )

    def _done(self, slots: threading.Semaphore, kind: str, _: object) -> None:
        with self._counting:
            self._running[kind] -= 1
        slots.release()
        self._wake.set()  # one of its kind may have waited for it

    def _waiting(self) -> sa.ColumnElement[bool]:
        """Jobs that may begin here now."""
        with self._counting:
            full = [
                kind
                for kind, count in self._running.items()
                if kind in self._handlers and 0 < self._handlers[kind].at_once <= count
            ]
        queued = job.c.status == "queued"
        return sa.and_(queued, job.c.kind.not_in(full)) if full else queued

    def _take_one(self) -> Job | None:
        try:
            return self._take()
        except Exception as error:  # noqa: BLE001 - the database may be back at the next try
            log.error("no job could be taken", error=str(error))
            return None

    def _take(self) -> Job | None:
        with self._database.read() as connection:
            may = self._waiting()
            waiting = connection.execute(sa.select(job.c.id).where(may).limit(1)).first()
        if waiting is None:
            return None
        with self._database.begin() as connection:
            row = (
                connection.execute(
                    sa.select(job).where(may).order_by(job.c.created_at, job.c.id).limit(1)
                )
                .mappings()
                .first()
            )
            if row is None:
                return None
            owner = self._membership.id
            if not self._membership.lives(connection):
                return None  # others take us for dead; soon we join anew
            connection.execute(
                sa.update(job)
                .where(job.c.id == row["id"])
                .values(status="running", attempts=row["attempts"] + 1, owner=owner)
            )
        with self._counting:
            self._running[row["kind"]] += 1
        values = {name: row[name] for name in Job.__dataclass_fields__}
        taken = {"status": "running", "attempts": row["attempts"] + 1, "owner": owner}
        return Job(**(values | taken))

    def _give_up(self, task: Job, error: str) -> None:
        try:
            self._handlers[task.kind].give_up(task.arguments, error)
        except Exception:  # noqa: BLE001 - the job must end whatever its handler does
            log.error("giving up failed", job=task.key, trace=traceback.format_exc())

    def _run(self, task: Job) -> None:
        def held(connection: sa.Connection) -> None:
            if not _holds(connection, task):
                raise Unavailable(f"The job {task.key} is another control plane's by now.")

        status, error = "succeeded", ""
        with fenced(held):
            try:
                self._handlers[task.kind].run(task.arguments)
            except Exception as failure:  # noqa: BLE001 - a job's failure is its result
                error = f"{type(failure).__name__}: {failure}"
                status = "queued" if task.attempts < self.MAX_ATTEMPTS else "failed"
                log.error("job failed", job=task.key, error=error, trace=traceback.format_exc())
                if status == "failed" and self._still_holds(task):
                    self._give_up(task, error)
        self._end(task, status, error)

    def _still_holds(self, task: Job) -> bool:
        def look() -> bool:
            with self._database.read() as connection:
                return _holds(connection, task)

        return bool(self._patiently(task, look))

    def _end(self, task: Job, status: str, error: str) -> None:
        values = {
            "status": status,
            "error": error,
            "finished_at": None if status == "queued" else now_us(),
            "owner": None,
        }

        def note() -> bool:
            with self._database.begin() as connection:
                if _holds(connection, task):
                    connection.execute(sa.update(job).where(job.c.id == task.id).values(values))
            return True

        self._patiently(task, note)

    def _patiently(self, task: Job, what: Callable[[], bool]) -> bool | None:
        """As soon as the database can be reached; None if we are to stop before."""
        while True:
            try:
                return what()
            except Unavailable as failure:
                log.error("a job can't be ended yet", job=task.key, error=failure.message)
                if self._stop.wait(1.0):
                    return None


def _holds(connection: sa.Connection, task: Job) -> bool:
    query = sa.select(job.c.id).where(
        job.c.id == task.id, job.c.status == "running", job.c.owner == task.owner
    )
    return connection.execute(query).first() is not None


def _queue_again(connection: sa.Connection, gone: str) -> None:
    """What a member ran that is gone; with "", what nobody seems to run."""
    owned = job.c.owner == gone if gone else job.c.owner.is_(None)
    connection.execute(
        sa.update(job).where(job.c.status == "running", owned).values(status="queued", owner=None)
    )
