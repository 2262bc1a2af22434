"""Verbs that read the histories of metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from modelfleet.core.authorization import Principal
from modelfleet.registry.tracking.base import Verbs
from modelfleet.registry.tracking.tables import experiment, metric_point, run
from modelfleet.registry.tracking.types import Page, Point

_C = metric_point.c
_IN_TIME = (_C.timestamp_ms, _C.step, _C.value, _C.is_nan)
_BY_STEP = (_C.step, _C.timestamp_ms, _C.value, _C.is_nan)


class HistoryVerbs(Verbs):
    def metric_history(
        self,
        actor: Principal,
        run_id: str,
        key: str,
        *,
        limit: int | None = None,
        offset: int = 0,
    ) -> Page[Point]:
        """Every value of one metric in the order of time; none of a run that is not here."""
        self._may_read(actor)
        query = (
            sa.select(metric_point)
            .where(self._of(run_id), _C.key == key)
            .order_by(*_IN_TIME)
            .offset(offset)
        )
        if limit is not None:
            query = query.limit(limit + 1)
        with self._database.read() as connection:
            found = [_point(row) for row in connection.execute(query)]
        more = limit is not None and len(found) > limit
        return Page(found[:limit] if more else found, more)

    def sample_histories(
        self,
        actor: Principal,
        run_ids: Sequence[str],
        key: str,
        *,
        limit: int,
        steps: tuple[int, int] | None = None,
    ) -> list[Point]:
        """At most `limit` values of each run, evenly spread over its history, with both ends.

        steps: the first and the last that count.
        """
        self._may_read(actor)
        found: list[Point] = []
        with self._database.read() as connection:
            for run_id in run_ids:
                conditions = [self._of(run_id), _C.key == key]
                if steps is not None:
                    conditions.append(_C.step.between(*steps))
                found += [_point(row) for row in _sample(connection, conditions, limit)]
        return found

    def _of(self, run_id: str) -> sa.ColumnElement[bool]:
        """Points of a run in this namespace."""
        here = (
            sa.select(run.c.id)
            .join(experiment, experiment.c.id == run.c.experiment_id)
            .where(run.c.id == run_id, experiment.c.namespace_id == self.namespace_id)
        )
        return _C.run_id.in_(here)


def _sample(
    connection: sa.Connection, conditions: list[sa.ColumnElement[bool]], limit: int
) -> list[sa.Row[Any]]:
    """The first of each of `limit` equal parts, and the last of all."""
    part = sa.func.ntile(limit).over(order_by=_BY_STEP).label("part")
    parts = sa.select(metric_point, part).where(*conditions).subquery()
    order = [parts.c[column.name] for column in _BY_STEP]
    place = sa.func.row_number().over(partition_by=parts.c.part, order_by=order).label("place")
    ranked = sa.select(parts, place).subquery()
    query = sa.select(ranked).where(ranked.c.place == 1)
    rows = list(connection.execute(query.order_by(*(ranked.c[c.name] for c in _BY_STEP))))
    last = connection.execute(
        sa.select(metric_point)
        .where(*conditions)
        .order_by(*(column.desc() for column in _BY_STEP))
        .limit(1)
    ).first()
    if last is not None and rows and rows[-1].id != last.id:
        if len(rows) >= limit:
            rows.pop()
        rows.append(last)
    return rows


def _point(row: sa.Row[Any]) -> Point:
    value = math.nan if row.is_nan else row.value
    return Point(row.key, value, row.timestamp_ms, row.step, run_id=row.run_id)
