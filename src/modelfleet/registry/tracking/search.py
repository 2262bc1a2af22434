"""Finding runs: the filter language and orders, made into SQL."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from modelfleet.core.authorization import Principal
from modelfleet.core.errors import InvalidInput
from modelfleet.registry.filters import Comparison, Grammar, compare, parse, parse_order
from modelfleet.registry.tracking import store
from modelfleet.registry.tracking.base import Verbs, parse_number
from modelfleet.registry.tracking.experiments import among, in_view
from modelfleet.registry.tracking.tables import (
    dataset,
    experiment,
    run,
    run_input,
    run_metric,
    run_parameter,
    run_tag,
)
from modelfleet.registry.tracking.types import Page, Run, View

_GRAMMAR = Grammar(
    texts=frozenset({"run_id", "run_name", "status", "user_id", "artifact_uri"}),
    numbers=frozenset({"start_time", "end_time"}),
    listed=frozenset({"run_id"}),
    entities={
        **dict.fromkeys(("metric", "metrics"), "metric"),
        **dict.fromkeys(("parameter", "parameters", "param", "params"), "parameter"),
        **dict.fromkeys(("tag", "tags"), "tag"),
        **dict.fromkeys(("attribute", "attributes", "attr", "run"), "attribute"),
        **dict.fromkeys(("dataset", "datasets"), "dataset"),
    },
    entity_keys={"dataset": frozenset({"name", "digest", "context"})},
    nullable=frozenset({"tag", "parameter"}),
    aliases={
        **dict.fromkeys(("created", "Created"), "start_time"),
        **dict.fromkeys(("run name", "Run name", "Run Name"), "run_name"),
    },
)
_COLUMNS: dict[str, sa.ColumnElement[object]] = {
    "run_id": run.c.id,
    "run_name": run.c.name,
    "status": run.c.status,
    "user_id": run.c.user,
    "artifact_uri": store.artifact_uri(),
    "start_time": run.c.started_at,
    "end_time": run.c.ended_at,
}
_PAIRS = {"parameter": run_parameter, "tag": run_tag, "metric": run_metric}
_Joins = list[tuple[sa.FromClause, sa.ColumnElement[bool]]]


class RunSearchVerbs(Verbs):
    def search_runs(
        self,
        actor: Principal,
        experiments: Sequence[str | int],
        *,
        filter_text: str | None = None,
        order: Sequence[str] = (),
        view: View = "active",
        limit: int = 1000,
        offset: int = 0,
    ) -> Page[Run]:
        """Runs of these experiments; the latest start first unless `order` says otherwise."""
        numbers = [parse_number(one) for one in experiments]
        conditions = [
            experiment.c.namespace_id == self.namespace_id,
            among(numbers),
            in_view(run, view),
            *(_condition(one) for one in parse(filter_text, _GRAMMAR)),
        ]
        ordered, joins = _order(order)
        self._may_read(actor)
        if not numbers:
            return Page((), False)
        with self._database.read() as connection:
            found = store.runs(
                connection,
                sa.and_(*conditions),
                order=ordered,
                joins=joins,
                limit=limit + 1,
                offset=offset,
            )
        return Page(found[:limit], len(found) > limit)


def _condition(one: Comparison) -> sa.ColumnElement[bool]:
    if one.entity == "attribute":
        return compare(_COLUMNS[one.key], one.operator, one.value)
    if one.entity == "dataset":
        column = run_input.c.context if one.key == "context" else dataset.c[one.key]
        return (
            sa.exists()
            .where(run_input.c.run_id == run.c.id, dataset.c.id == run_input.c.dataset_id)
            .where(compare(column, one.operator, one.value))
        )
    table = _PAIRS[one.entity]
    own = sa.exists().where(table.c.run_id == run.c.id, table.c.key == one.key)
    if one.operator == "IS NULL":
        return ~own
    if one.operator == "IS NOT NULL":
        return own
    holds = compare(table.c.value, one.operator, one.value)
    if one.entity == "metric":  # nothing compares with NaN, except that it is unequal
        is_nan = table.c.is_nan
        holds = sa.or_(holds, is_nan) if one.operator == "!=" else sa.and_(holds, ~is_nan)
    return own.where(holds)


def _order(entries: Sequence[str]) -> tuple[list[sa.ColumnElement[object]], _Joins]:
    """What is not there comes last, NaN before it."""
    ordered: list[sa.ColumnElement[object]] = []
    joins: _Joins = []
    by_start = False
    for entity, key, ascending in parse_order(entries, _GRAMMAR, frozenset(_COLUMNS)):
        if entity == "attribute":
            value: sa.ColumnElement[object] = _COLUMNS[key]
            last = sa.case((value.is_(None), 1), else_=0)
            by_start |= key == "start_time"
        else:
            if entity not in _PAIRS:
                raise InvalidInput(f"Invalid identifier type '{entity}'")
            table = _PAIRS[entity].alias()
            joins.append((table, sa.and_(table.c.run_id == run.c.id, table.c.key == key)))
            value = table.c.value
            nothing = (value.is_(None), 2)
            last = (
                sa.case(nothing, (table.c.is_nan, 1), else_=0)
                if entity == "metric"
                else sa.case(nothing, else_=0)
            )
        ordered += [last, value.asc() if ascending else value.desc()]
    if not by_start:
        ordered.append(run.c.started_at.desc())
    return [*ordered, run.c.id], joins
