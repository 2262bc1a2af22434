"""Finding logged models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from modelfleet.core.authorization import Principal
from modelfleet.core.errors import InvalidInput
from modelfleet.registry.filters import Comparison, Grammar, compare, owners, parse
from modelfleet.registry.tracking.base import Verbs, parse_number
from modelfleet.registry.tracking.experiments import among
from modelfleet.registry.tracking.logged_models import logged_models
from modelfleet.registry.tracking.tables import (
    experiment,
    logged_model,
    logged_model_metric,
    logged_model_parameter,
    logged_model_tag,
)
from modelfleet.registry.tracking.types import LoggedModel, Page

_C = logged_model.c
_M = logged_model_metric.c
_COLUMNS: dict[str, sa.ColumnElement[object]] = {
    "model_id": _C.id,
    "name": _C.name,
    "model_type": _C.model_type,
    "source_run_id": _C.source_run_id,
    "status": _C.status,
    "status_message": _C.status_message,
    "experiment_id": sa.cast(experiment.c.number, sa.String),
    "artifact_location": experiment.c.artifact_location + "/models/" + _C.id + "/artifacts",
    "creation_timestamp_ms": _C.created_at // 1000,
    "last_updated_timestamp_ms": _C.updated_at // 1000,
}
_NUMBERS = frozenset({"creation_timestamp_ms", "last_updated_timestamp_ms"})
_ALIASES = {
    **dict.fromkeys(("creation_time", "creation_timestamp"), "creation_timestamp_ms"),
    **dict.fromkeys(("last_updated_timestamp", "last_updated_time"), "last_updated_timestamp_ms"),
}
_TEXTS = frozenset(_COLUMNS) - _NUMBERS
_GRAMMAR = Grammar(
    texts=_TEXTS,
    numbers=_NUMBERS,
    listed=_TEXTS,
    entities={
        "attributes": "attribute",
        "metrics": "metric",
        "params": "parameter",
        "tags": "tag",
    },
    aliases=_ALIASES,
)


@dataclass(frozen=True)
class OnDataset:
    """Only metrics that were measured on this dataset count."""

    name: str
    digest: str = ""
    """empty is any"""

    def condition(self) -> sa.ColumnElement[bool]:
        named = _M.dataset_name == self.name
        return sa.and_(named, _M.dataset_digest == self.digest) if self.digest else named


@dataclass(frozen=True)
class Order:
    field: str
    """an attribute, or `metrics.<key>`"""
    ascending: bool = True
    dataset: OnDataset | None = None


class ModelSearchVerbs(Verbs):
    def search_logged_models(
        self,
        actor: Principal,
        experiments: Sequence[str | int],
        *,
        filter_text: str | None = None,
        datasets: Sequence[OnDataset] = (),
        order: Sequence[Order] = (),
        limit: int = 100,
        offset: int = 0,
    ) -> Page[LoggedModel]:
        """Those that were not deleted; the newest first unless `order` says otherwise."""
        if any(not one.name for one in datasets):
            raise InvalidInput("`dataset_name` in the `datasets` clause must be specified.")
        numbers = [parse_number(one) for one in experiments]
        conditions = [
            experiment.c.namespace_id == self.namespace_id,
            among(numbers),
            _C.deleted_at.is_(None),
        ]
        on_them = sa.or_(*(one.condition() for one in datasets)) if datasets else None
        comparisons = parse(filter_text, _GRAMMAR)
        conditions += [_condition(one, on_them) for one in comparisons]
        if on_them is not None and all(one.entity != "metric" for one in comparisons):
            conditions.append(_C.id.in_(sa.select(_M.logged_model_id).where(on_them)))
        ordered = _order(order)
        self._may_read(actor)
        with self._database.read() as connection:
            found = logged_models(
                connection, sa.and_(*conditions), order=ordered, limit=limit + 1, offset=offset
            )
        return Page(found[:limit], len(found) > limit)


def _condition(one: Comparison, on_them: sa.ColumnElement[bool] | None) -> sa.ColumnElement[bool]:
    if one.entity == "attribute":
        return compare(_COLUMNS[one.key], one.operator, one.value)
    if one.entity == "metric":
        query = sa.select(_M.logged_model_id).where(
            _M.key == one.key, ~_M.is_nan, compare(_M.value, one.operator, one.value)
        )
        return _C.id.in_(query if on_them is None else query.where(on_them))
    table = logged_model_tag if one.entity == "tag" else logged_model_parameter
    return _C.id.in_(owners(table, one.key, one.operator, one.value))


def _order(entries: Sequence[Order]) -> list[sa.ColumnElement[object]]:
    """What is not there comes last."""
    ordered: list[sa.ColumnElement[object]] = []
    seen = set()
    for one in entries:
        entity, dot, key = one.field.partition(".")
        if dot and entity != "metrics":
            raise InvalidInput(
                f"Invalid order by field name: {one.field[:250]}. Only metrics are supported."
            )
        name = _ALIASES.get(one.field, one.field)
        if not dot and name not in _COLUMNS:
            raise InvalidInput(f"Invalid order by field name: {one.field[:250]}")
        seen.add(name)
        value = _latest(key, one.dataset) if dot else _COLUMNS[name]
        ordered.append(sa.case((value.is_(None), 1), else_=0))
        ordered.append(value.asc() if one.ascending else value.desc())
    if "creation_timestamp_ms" not in seen:
        ordered.append(_C.created_at.desc())
    return [*ordered, _C.id]


def _latest(key: str, on: OnDataset | None) -> sa.ColumnElement[object]:
    """The last value of a metric, as SQL."""
    query = sa.select(_M.value).where(_M.logged_model_id == _C.id, _M.key == key)
    if on is not None:
        if on.name:
            query = query.where(_M.dataset_name == on.name)
        if on.digest:
            query = query.where(_M.dataset_digest == on.digest)
    newest = query.order_by(_M.timestamp_ms.desc(), _M.step.desc(), _M.run_id)
    return newest.limit(1).correlate(logged_model).scalar_subquery()
