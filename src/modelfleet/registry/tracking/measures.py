"""Verbs that log: metrics, parameters, tags; datasets and models that a run read or made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from modelfleet.core.authorization import Principal
from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.core.ids import new_id
from modelfleet.lineage import Node, add_edge
from modelfleet.registry import store as registry_store
from modelfleet.registry.tracking import limits
from modelfleet.registry.tracking.dialect import add, upsert
from modelfleet.registry.tracking.runs import RunVerbs
from modelfleet.registry.tracking.tables import (
    dataset,
    experiment,
    logged_model,
    logged_model_metric,
    metric_point,
    run_input,
    run_metric,
    run_model,
    run_parameter,
    run_tag,
)
from modelfleet.registry.tracking.types import Input, ModelLink, Point

_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}")
_CONTEXT = "mlflow.data.context"
_MODELS_TAG = "mlflow.log-model.history"
Pairs = Sequence[tuple[str, str]]


class MeasureVerbs(RunVerbs):
    def log_metric(self, actor: Principal, run_id: str, point: Point) -> None:
        limits.point(point)
        self._may_write(actor)
        with self._database.begin() as connection:
            self._active_run(connection, run_id)
            self._measure(connection, run_id, [point])

    def log_parameter(self, actor: Principal, run_id: str, key: str, value: str) -> None:
        """Parameters don't change: another value is refused."""
        key, value = limits.parameter(key, value)
        self._may_write(actor)
        with self._database.begin() as connection:
            self._active_run(connection, run_id)
            for _, old, new in self._parameters(connection, run_id, [(key, value)]):
                raise InvalidInput(
                    f"Changing param values is not allowed. Param with key='{key}' was already "
                    f"logged with value='{old}' for run ID='{run_id}'. Attempted logging new value "
                    f"'{new}'."
                )

    def log_batch(
        self,
        actor: Principal,
        run_id: str,
        *,
        points: Sequence[Point] = (),
        parameters: Pairs = (),
        tags: Pairs = (),
    ) -> None:
        """All or nothing."""
        _check_run_id(run_id)
        for index, point in enumerate(points):
            limits.point(point, f"metrics[{index}].")
        own = [limits.parameter(k, v, f"params[{n}].") for n, (k, v) in enumerate(parameters)]
        own_tags = [limits.tag(k, v, f"tags[{n}].") for n, (k, v) in enumerate(tags)]
        limits.batch(points, own, own_tags)
        twice = _repeated(key for key, _ in own)
        if twice:
            raise InvalidInput(
                f"Duplicate parameter keys have been submitted: {twice}. Please ensure the request "
                "contains only one param value per param key."
            )
        self._may_write(actor)
        with self._database.begin() as connection:
            self._active_run(connection, run_id)
            other = [
                {"key": key, "old_value": old, "new_value": new}
                for key, old, new in self._parameters(connection, run_id, own)
            ]
            if other:
                raise InvalidInput(
                    "Changing param values is not allowed. Params were already "
                    f"logged='{other}' for run ID='{run_id}'."
                )
            self._measure(connection, run_id, points)
            if own_tags:
                self._tag(connection, run_id, dict(own_tags))

    def log_inputs(
        self,
        actor: Principal,
        run_id: str,
        *,
        inputs: Sequence[Input] = (),
        models: Sequence[str] = (),
    ) -> None:
        """What a run read; what is known already stays as it is."""
        _check_run_id(run_id)
        for one in inputs:
            limits.dataset_input(one)
        self._may_write(actor)
        with self._database.begin() as connection:
            found = self._active_run(connection, run_id)
            for one in inputs:
                row = {
                    "run_id": run_id,
                    "dataset_id": self._dataset(connection, found.experiment_id, one),
                    "tags": dict(one.tags),
                    "context": one.tags.get(_CONTEXT, ""),
                }
                connection.execute(add(connection, run_input), [row])
                name = self._qualified(f"{one.dataset.name}@{one.dataset.digest}")
                if len(name) <= 300:
                    add_edge(connection, Node("dataset", name), "trained", Node("run", run_id))
            self._link(connection, run_id, [ModelLink(model, "input") for model in models])

    def log_outputs(self, actor: Principal, run_id: str, models: Sequence[ModelLink]) -> None:
        """Logged models that a run made."""
        self._may_write(actor)
        with self._database.begin() as connection:
            self._active_run(connection, run_id)
            self._link(connection, run_id, models)

    def record_model(self, actor: Principal, run_id: str, model: Mapping[str, object]) -> None:
        """Append to the run's list of models, as clients of before MLflow 3 do."""
        self._may_write(actor)
        with self._database.begin() as connection:
            self._active_run(connection, run_id)
            known = registry_store.tags_of(connection, run_tag, [run_id]).get(run_id, {})
            listed = json.loads(known.get(_MODELS_TAG, "[]"))
            self._tag(connection, run_id, {_MODELS_TAG: json.dumps([*listed, dict(model)])})

    def _parameters(
        self, connection: sa.Connection, run_id: str, pairs: Pairs
    ) -> list[tuple[str, str, str]]:
        """Store new ones; those that have another value already: key, old, new."""
        if not pairs:
            return []
        query = sa.select(run_parameter.c.key, run_parameter.c.value).where(
            run_parameter.c.run_id == run_id, run_parameter.c.key.in_([key for key, _ in pairs])
        )
        known = {row.key: row.value for row in connection.execute(query)}
        other = [(key, known[key], new) for key, new in pairs if known.get(key, new) != new]
        fresh = [
            {"run_id": run_id, "key": key, "value": value}
            for key, value in pairs
            if key not in known
        ]
        if fresh and not other:
            connection.execute(sa.insert(run_parameter), fresh)
        return other

    def _measure(self, connection: sa.Connection, run_id: str, points: Sequence[Point]) -> None:
        if not points:
            return
        rows: list[dict[str, object]] = []
        measured: list[dict[str, object]] = []
        newest: dict[str, tuple[tuple[int, int, float], dict[str, object]]] = {}
        for point in points:
            is_nan, value = limits.stored(point.value)
            row: dict[str, object] = {
                "run_id": run_id,
                "key": point.key,
                "value": value,
                "is_nan": is_nan,
                "timestamp_ms": point.timestamp,
                "step": point.step,
            }
            rows.append(row)
            order = (point.step, point.timestamp, value)
            if point.key not in newest or order > newest[point.key][0]:
                newest[point.key] = (order, row)
            if point.model_id:
                about = {
                    "logged_model_id": point.model_id,
                    "dataset_name": point.dataset_name,
                    "dataset_digest": point.dataset_digest,
                }
                measured.append(row | about)
        connection.execute(add(connection, metric_point), rows)
        latest = upsert(connection, run_metric, later=("step", "timestamp_ms", "value"))
        connection.execute(latest, [row for _, row in newest.values()])
        if measured:
            self._check_models(connection, {str(row["logged_model_id"]) for row in measured})
            connection.execute(add(connection, logged_model_metric), measured)

    def _check_models(self, connection: sa.Connection, ids: set[str]) -> None:
        query = (
            sa.select(logged_model.c.id)
            .join(experiment, experiment.c.id == logged_model.c.experiment_id)
            .where(
                logged_model.c.id.in_(sorted(ids)), experiment.c.namespace_id == self.namespace_id
            )
        )
        unknown = ids - set(connection.execute(query).scalars())
        if unknown:
            raise NotFound(f"Logged model with ID '{min(unknown)[:300]}' not found.")

    def _dataset(self, connection: sa.Connection, experiment_id: str, one: Input) -> str:
        columns, read = dataset.c, one.dataset
        known = connection.execute(
            sa.select(columns.id).where(
                columns.experiment_id == experiment_id,
                columns.name == read.name,
                columns.digest == read.digest,
            )
        ).scalar()
        if known is not None:
            return str(known)
        made = new_id()
        connection.execute(
            sa.insert(dataset).values(
                id=made,
                experiment_id=experiment_id,
                name=read.name,
                digest=read.digest,
                source_type=read.source_type,
                source=read.source,
                schema=read.schema,
                profile=read.profile,
            )
        )
        return made

    def _link(self, connection: sa.Connection, run_id: str, links: Iterable[ModelLink]) -> None:
        rows = [
            {
                "run_id": run_id,
                "logged_model_id": limits.check_length("model_id", link.model_id, 34),
                "direction": link.direction,
                "step": link.step,
            }
            for link in links
        ]
        if rows:
            connection.execute(upsert(connection, run_model), rows)


def _check_run_id(run_id: str) -> None:
    if not _RUN_ID.fullmatch(run_id):
        raise limits.invalid_value("run_id", run_id)


def _repeated(keys: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [key for key in keys if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
