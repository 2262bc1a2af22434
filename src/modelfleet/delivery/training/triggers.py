"""Causes of training runs: schedules, aliases that moved, new data, drift.

Causes are looked for behind a position in the audit log and in the alerts, which moves in the
transaction that queues the runs: each counts once, whenever the control plane dies. One that comes
too soon after a run, and new data or an alias that moves during one, is kept until it is time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
import structlog
from cronsim import CronSim, CronSimError

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import InvalidInput
from modelfleet.delivery.training import store
from modelfleet.delivery.training.documents import DocumentPlans
from modelfleet.delivery.training.plan import Cause, Plan
from modelfleet.delivery.training.service import TrainingService

log = structlog.get_logger(__name__)
_BATCH = 1000
"""audit events that are looked at in one transaction"""
_EVENTS = ("set-alias", "push-dataset")
_SECOND = 1_000_000
_NEWS = ("alias", "data")
"""causes that a run on its way knows nothing of; it answers a drift"""


@dataclass(frozen=True)
class Drifted:
    """A drift alert that began to fire."""

    model: str
    alert: str
    summary: str
    fired_at: int
    """microseconds"""


Fired = Callable[[sa.Connection, int], Sequence[Drifted]]
"""open drift alerts that fired after a moment (microseconds), oldest first"""


class Triggers:
    def __init__(self, database: Database, plans: DocumentPlans, fired: Fired) -> None:
        self._database = database
        self._plans = plans
        self._fired = fired

    def look(self) -> None:
        """Queue the runs that have a cause."""
        plans = {n: one for n, one in self._plans.trainings().items() if one.is_triggered}
        self._by_schedule({name: one for name, one in plans.items() if one.schedule})
        self._by_events(plans)
        self._by_kept(plans)

    def _by_schedule(self, plans: Mapping[str, Plan]) -> None:
        """Ticks that were missed are made up for by one run."""
        table, now = store.training_schedule, now_us()
        with self._database.read() as connection:
            known = {row.model: row for row in connection.execute(sa.select(table))}
        stale = known.keys() - plans.keys()
        due = [
            plan
            for name, plan in plans.items()
            if name not in known
            or known[name].expression != plan.schedule
            or known[name].due_at <= now
        ]
        if not due and not stale:
            return
        with self._database.begin() as connection:
            connection.execute(sa.delete(table).where(table.c.model.in_(sorted(stale))))
            for plan in due:
                row = known.get(plan.model)
                if row is not None and row.expression == plan.schedule:
                    self._start(connection, [(plan, Cause("schedule", plan.schedule))])
                connection.execute(sa.delete(table).where(table.c.model == plan.model))
                connection.execute(
                    sa.insert(table).values(
                        model=plan.model,
                        expression=plan.schedule,
                        due_at=next_time(plan.schedule, now),
                    )
                )

    def _by_events(self, plans: Mapping[str, Plan]) -> None:
        table = store.trigger_position
        with self._database.read() as connection:
            position = connection.execute(sa.select(table)).first()
            last = connection.execute(sa.select(sa.func.max(audit.audit_event.c.sequence))).scalar()
            alerts = self._fired(connection, position.alerts_until) if position else ()
        if position is None:
            with self._database.begin() as connection:
                connection.execute(
                    sa.insert(table).values(id=1, sequence=last or 0, alerts_until=now_us())
                )
            return
        if (last or 0) <= position.sequence and not alerts:
            return
        with self._database.begin() as connection:
            events = connection.execute(
                sa.select(audit.audit_event)
                .where(audit.audit_event.c.sequence > position.sequence)
                .order_by(audit.audit_event.c.sequence)
                .limit(_BATCH)
            ).all()
            causes = [
                one
                for event in events
                if event.action in _EVENTS
                for one in _wanted(plans, event.action, event.resource, event.details)
            ]
            for alert in alerts:
                plan = plans.get(alert.model)
                if plan is not None and plan.drift:
                    causes.append((plan, Cause("drift", f"{alert.alert}: {alert.summary}")))
            self._start(connection, causes)
            connection.execute(
                sa.update(table).values(
                    sequence=events[-1].sequence if events else position.sequence,
                    alerts_until=max([position.alerts_until, *(a.fired_at for a in alerts)]),
                )
            )

    def _by_kept(self, plans: Mapping[str, Plan]) -> None:
        with self._database.read() as connection:
            kept = store.kept_causes(connection)
            if not kept:
                return
            busy = {one.model for one in store.active(connection, kept)}
            begun = store.last_begun(connection, kept)
            drifts = {one.model for one in self._fired(connection, 0)}
        over = {name for name, one in kept.items() if one.kind == "drift" and name not in drifts}
        stale = (kept.keys() - plans.keys()) | over
        due = [
            (plans[name], cause)
            for name, cause in kept.items()
            if name not in stale | busy and not _too_soon(plans[name], begun)
        ]
        if stale or due:
            with self._database.begin() as connection:
                store.drop_causes(connection, stale)
                self._start(connection, due)

    @staticmethod
    def _start(connection: sa.Connection, causes: Iterable[tuple[Plan, Cause]]) -> None:
        """One run of a model at a time, and not before its last one is old enough."""
        found = {plan.model: (plan, cause) for plan, cause in reversed(list(causes))}
        begun = store.last_begun(connection, found)
        busy = {one.model for one in store.active(connection, found)}
        for name, (plan, cause) in found.items():
            if name in busy:
                if cause.kind in _NEWS:
                    store.keep_cause(connection, name, cause)
            elif not _too_soon(plan, begun):
                TrainingService.begin(connection, SYSTEM, plan, cause)
            elif cause.kind != "schedule":  # its next time comes anyway
                log.info("training too soon", model=name, cause=cause.kind)
                store.keep_cause(connection, name, cause)


def _too_soon(plan: Plan, begun: Mapping[str, int]) -> bool:
    return now_us() - begun.get(plan.model, 0) < plan.cooldown_seconds * _SECOND


def _wanted(
    plans: Mapping[str, Plan], action: str, resource: str, details: Mapping[str, object]
) -> Iterable[tuple[Plan, Cause]]:
    if action == "set-alias":
        moved = f"{resource}@{details.get('alias')}"
        for plan in plans.values():
            if moved in plan.aliases:
                yield plan, Cause("alias", f"{moved} is {details.get('version')} now")
    else:
        for plan in plans.values():
            if resource in plan.data:
                yield plan, Cause("data", f"{resource}@{details.get('version')}")


def next_time(expression: str, after_us: int) -> int:
    """When a schedule comes next, in microseconds. Raises `InvalidInput` if it never does."""
    moment = datetime.fromtimestamp(after_us / _SECOND, UTC)
    try:
        following = next(CronSim(expression, moment))
    except (CronSimError, StopIteration) as error:
        raise InvalidInput(f"{expression[:100]!r} is no schedule that ever comes.") from error
    return int(following.timestamp() * _SECOND)
