"""From new audit events to deliveries, and these to their receivers.

Deliveries are rows: they survive a death of the control plane, and a claim with a lease keeps two
of these from sending the same one at once. A receiver may still get one twice (it is told the same
id); one that is never reachable fails after the last attempt.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa
import structlog

from modelfleet.core import audit
from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import FleetError
from modelfleet.core.ids import new_id
from modelfleet.core.sealing import Sealer
from modelfleet.events import messages, outlets
from modelfleet.events.sending import Answer
from modelfleet.events.tables import cursor, delivery, webhook

log = structlog.get_logger(__name__)

PAUSES = (1, 2, 4, 8, 16, 32, 60, 120, 300, 600, 1800, 3600)
"""seconds before each further attempt"""
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""answers that may be others later"""
_LEASE = 60
"""seconds within which an attempt ends"""
_BATCH = 500
"""audit events looked at in one transaction"""
_KEPT = 7 * 24 * 3600 * 1_000_000
"""microseconds for which ended deliveries are shown"""


def _nobody(_connection: sa.Connection, _resource: str) -> list[str]:
    return []


def _no_commit(_connection: sa.Connection, _row: Mapping[str, Any]) -> str:
    return ""


class Dispatcher:
    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        *,
        private: bool,
        interval: float = 0.25,
        watchers: Callable[[sa.Connection, str], list[str]] = _nobody,
        commits: Callable[[sa.Connection, Mapping[str, Any]], str] = _no_commit,
    ) -> None:
        """watchers: who watches a model, by its name in the audit log. commits: the sha of what
        the version of an audit event was made of."""
        self._database = database
        self._sealer = sealer
        self._private = private
        self._watchers = watchers
        self._commits = commits
        self._interval = interval
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="webhooks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        with ThreadPoolExecutor(8, thread_name_prefix="webhook") as senders:
            while not self._stop.wait(self._interval):
                try:
                    while self.plan():
                        pass
                    for due in self.claim():
                        senders.submit(self._deliver, due)
                except Exception as error:
                    log.error("webhooks paused", exc_info=error)

    def plan(self) -> int:
        """Make deliveries of the next new audit events; the number of events looked at."""
        with self._database.read() as connection:
            seen = connection.execute(sa.select(cursor.c.sequence)).scalar()
            last = connection.execute(sa.select(sa.func.max(audit.audit_event.c.sequence))).scalar()
        if last is None or (seen is not None and seen >= last):
            return 0
        with self._database.begin() as connection:
            seen = connection.execute(sa.select(cursor.c.sequence)).scalar()
            if seen is None:
                connection.execute(sa.insert(cursor).values(id=1, sequence=0))
                seen = 0
            hooks = connection.execute(sa.select(webhook).where(webhook.c.active)).all()
            if not hooks:
                connection.execute(sa.update(cursor).values(sequence=last))
                return 0
            rows = (
                connection.execute(
                    sa.select(audit.audit_event)
                    .where(audit.audit_event.c.sequence > seen)
                    .order_by(audit.audit_event.c.sequence)
                    .limit(_BATCH)
                )
                .mappings()
                .all()
            )
            for row in rows:
                for hook in hooks:
                    if row["sequence"] > hook.since:
                        self._plan_one(connection, hook, dict(row))
            if rows:
                connection.execute(sa.update(cursor).values(sequence=rows[-1]["sequence"]))
            return len(rows)

    def _plan_one(
        self, connection: sa.Connection, hook: sa.Row[*tuple[Any, ...]], row: Mapping[str, Any]
    ) -> None:
        namespace, _, name = row["resource"].rpartition("/")
        if (namespace or "default") != hook.namespace:
            return
        at = iso(row["at"])
        if hook.format != "mlflow":
            event = row["action"]
            if not outlets.wants(hook.format, hook.events, event):
                return
            watchers = self._watchers(connection, row["resource"]) if row["kind"] == "model" else []
            commit = self._commits(connection, row) if event in outlets.STATUSES else ""
            body = outlets.body(hook.format, outlets.Told(row, at, watchers, commit))
            if body is None:
                return
        else:
            if row["kind"] != "model" or row["action"] not in messages.TOLD:
                return
            prompt = _is_prompt(row["details"])
            told = messages.of_mlflow(row["action"], name, row["details"], prompt)
            if told is None or told[0] not in hook.events:
                return
            event = told[0]
            body = messages.mlflow_body(event, told[1], at)
        now = now_us()
        connection.execute(
            sa.insert(delivery).values(
                id=new_id(),
                webhook_id=hook.id,
                sequence=row["sequence"],
                event=event,
                body=json.dumps(body),
                status="pending",
                attempts=0,
                next_at=now,
                error="",
                created_at=now,
            )
        )

    def claim(self) -> list[sa.Row[*tuple[Any, ...]]]:
        """Deliveries that are due, ours until their lease ends."""
        due = sa.and_(delivery.c.status == "pending", delivery.c.next_at <= now_us())
        with self._database.read() as connection:
            if connection.execute(sa.select(delivery.c.id).where(due).limit(1)).first() is None:
                return []
        with self._database.begin() as connection:
            rows = connection.execute(
                sa.select(delivery, webhook.c.url, webhook.c.format, webhook.c.secret)
                .join(webhook, webhook.c.id == delivery.c.webhook_id)
                .where(due)
                .order_by(delivery.c.next_at, delivery.c.sequence)
                .limit(64)
            ).all()
            connection.execute(
                sa.update(delivery)
                .where(delivery.c.id.in_([row.id for row in rows]))
                .values(next_at=now_us() + _LEASE * 1_000_000, attempts=delivery.c.attempts + 1)
            )
            connection.execute(
                sa.delete(delivery).where(
                    delivery.c.status != "pending", delivery.c.created_at < now_us() - _KEPT
                )
            )
        return list(rows)

    def _deliver(self, due: sa.Row[*tuple[Any, ...]]) -> None:
        answer, problem = None, ""
        try:
            secret = self._sealer.open(due.secret) if due.secret else ""
            answer = outlets.send(
                due.format, due.url, secret, due.id, due.body, private=self._private
            )
        except FleetError as error:
            problem = error.message
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = repr(error)
        except Exception as error:  # of a library of notifications: else it would come for ever
            log.error("a delivery broke", exc_info=error, delivery=due.id)
            problem = type(error).__name__
        try:
            self._note(due, answer, problem)
        except Exception as error:
            log.error("a delivery was not noted", exc_info=error, delivery=due.id)

    def _note(self, due: sa.Row[*tuple[Any, ...]], answer: Answer | None, problem: str) -> None:
        made = due.attempts + 1
        status, pause = "pending", float(PAUSES[min(made, len(PAUSES)) - 1])
        if answer is not None and answer.status < 300:
            status = "delivered"
        elif answer is not None and answer.status not in RETRIED:
            status, problem = "failed", f"The receiver answered {answer.status}."
        elif made > len(PAUSES):
            status = "failed"
        if answer is not None and answer.status >= 300 and not problem:
            problem = f"The receiver answered {answer.status}."
            pause = max(pause, answer.retry_after or 0.0)
        with self._database.begin() as connection:
            connection.execute(
                sa.update(delivery)
                .where(delivery.c.id == due.id)
                .values(
                    status=status,
                    next_at=now_us() + int(pause * 1_000_000),
                    response_status=answer.status if answer else None,
                    error=problem[:2000],
                )
            )
        if status == "failed":
            log.warning("webhook failed", webhook=due.webhook_id, told=due.event, why=problem)


def _is_prompt(details: Mapping[str, Any]) -> bool:
    return bool(details.get("prompt"))
