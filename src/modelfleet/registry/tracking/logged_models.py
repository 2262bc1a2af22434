"""Verbs on logged models. When one gets READY, its files are frozen into a bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from modelfleet.core.authorization import Principal
from modelfleet.core.clock import now_us
from modelfleet.core.errors import InvalidInput, NotFound, WrongState
from modelfleet.core.ids import new_id
from modelfleet.registry import store as registry_store
from modelfleet.registry.bundles import Entry
from modelfleet.registry.tracking import limits, paths
from modelfleet.registry.tracking.base import Row, Verbs
from modelfleet.registry.tracking.dialect import below, upsert
from modelfleet.registry.tracking.tables import (
    artifact,
    experiment,
    logged_model,
    logged_model_metric,
    logged_model_parameter,
    logged_model_tag,
)
from modelfleet.registry.tracking.types import MODEL_STATUSES, LoggedModel, Point
from modelfleet.registry.tracking.words import random_name

Pairs = Mapping[str, str]


class LoggedModelVerbs(Verbs):
    def create_logged_model(
        self,
        actor: Principal,
        experiment_number: str,
        *,
        name: str | None = None,
        model_type: str = "",
        source_run_id: str = "",
        parameters: Pairs | None = None,
        tags: Pairs | None = None,
    ) -> LoggedModel:
        """A PENDING one, without files. Unnamed ones are given a name."""
        if name is not None:
            limits.model_name(name)
        limits.check_length("model_type", model_type, 500)
        limits.check_length("source_run_id", source_run_id, 32)
        _check_keys(parameters or {}, tags or {})
        self._may_write(actor)
        with self._database.begin() as connection:
            place = self._active_experiment(connection, experiment_number)
            made, now = f"m-{new_id()}", now_us()
            connection.execute(
                sa.insert(logged_model).values(
                    id=made,
                    experiment_id=place.id,
                    name=name or random_name(),
                    model_type=model_type,
                    source_run_id=source_run_id or None,
                    status="PENDING",
                    status_message="",
                    created_at=now,
                    updated_at=now,
                )
            )
            for table, pairs in ((logged_model_parameter, parameters), (logged_model_tag, tags)):
                _pairs(connection, table, made, pairs or {})
            details: dict[str, object] = {"experiment": place.number, "run": source_run_id}
            self._record(connection, actor, "create-logged-model", "logged-model", made, details)
            return self._whole_model(connection, made)

    def get_logged_model(
        self, actor: Principal, model_id: str, *, deleted: bool = False
    ) -> LoggedModel:
        """deleted: also if it was deleted."""
        self._may_read(actor)
        with self._database.read() as connection:
            self._model(connection, model_id, deleted)
            return self._whole_model(connection, model_id)

    def finalize_logged_model(self, actor: Principal, model_id: str, status: str) -> LoggedModel:
        """READY freezes its files. Raises `WrongState` if they are frozen already, and
        `InvalidInput` if a bundle can't hold them."""
        if status not in MODEL_STATUSES:
            raise limits.invalid_value("status", status, f"Valid are {', '.join(MODEL_STATUSES)}.")
        self._may_write(actor)
        with self._database.begin() as connection:
            found = self._model(connection, model_id)
            if found.status == "READY" and status != "READY":
                raise WrongState(f"Logged model {model_id} is READY: it does not change any more.")
            if found.status != status:
                digest = self._freeze(connection, found) if status == "READY" else None
                self._change_model(connection, found.id, status=status, bundle_digest=digest)
                details: dict[str, object] = {"status": status, "bundle": digest or ""}
                self._record(
                    connection, actor, "finalize-logged-model", "logged-model", model_id, details
                )
            return self._whole_model(connection, model_id)

    def delete_logged_model(self, actor: Principal, model_id: str) -> None:
        """Versions that were registered from it keep their bundle."""
        self._may_write(actor)
        with self._database.begin() as connection:
            found = self._model(connection, model_id, deleted=True)
            if found.deleted_at is None:
                self._change_model(connection, found.id, deleted_at=now_us())
                self._record(connection, actor, "delete-logged-model", "logged-model", model_id)

    def log_model_parameters(self, actor: Principal, model_id: str, parameters: Pairs) -> None:
        """Parameters don't change: another value is refused."""
        _check_keys(parameters, {})
        self._may_write(actor)
        with self._database.begin() as connection:
            self._model(connection, model_id)
            table = logged_model_parameter
            known = registry_store.tags_of(connection, table, [model_id]).get(model_id, {})
            for key, value in parameters.items():
                if known.get(key, value) != value:
                    raise InvalidInput(
                        f"Changing param values is not allowed. Param with key='{key}' was already "
                        f"logged with value='{known[key]}' for model ID='{model_id}'."
                    )
            _pairs(connection, table, model_id, parameters)

    def set_model_tags(self, actor: Principal, model_id: str, tags: Pairs) -> None:
        _check_keys({}, tags)
        self._may_write(actor)
        with self._database.begin() as connection:
            self._model(connection, model_id)
            _pairs(connection, logged_model_tag, model_id, tags)
            details: dict[str, object] = {key: value[:1000] for key, value in tags.items()}
            self._record(
                connection, actor, "tag-logged-model", "logged-model", model_id, {"tags": details}
            )

    def delete_model_tag(self, actor: Principal, model_id: str, key: str) -> None:
        self._may_write(actor)
        with self._database.begin() as connection:
            self._model(connection, model_id)
            if not registry_store.delete_tag(connection, logged_model_tag, model_id, key):
                raise NotFound(
                    f"No tag with key {key[:250]!r} found for model with ID {model_id!r}."
                )
            details: dict[str, object] = {"key": key}
            self._record(connection, actor, "untag-logged-model", "logged-model", model_id, details)

    def _freeze(self, connection: sa.Connection, found: Row) -> str | None:
        """The digest of the bundle of its files; None if it has none, or they are elsewhere."""
        root = paths.held(paths.join(found.artifact_location, "models", found.id, "artifacts"))
        if root is None:
            return None
        here = sa.and_(
            artifact.c.namespace_id == self.namespace_id,
            below(connection, artifact.c.path, root),
        )
        entries = [
            Entry(row.path[len(root) + 1 :], row.sha256, row.size)
            for row in connection.execute(sa.select(artifact).where(here))
        ]
        if not entries:
            return None
        digest = self._bundles.check(entries)
        registry_store.add_bundle(connection, digest, sorted(entries, key=lambda one: one.path))
        return digest

    def _change_model(self, connection: sa.Connection, model_id: str, **values: object) -> None:
        connection.execute(
            sa.update(logged_model)
            .where(logged_model.c.id == model_id)
            .values(updated_at=now_us(), **values)
        )

    def _whole_model(self, connection: sa.Connection, model_id: str) -> LoggedModel:
        return logged_models(connection, logged_model.c.id == model_id, limit=1)[0]


def logged_models(
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    *,
    order: Sequence[sa.ColumnElement[object]] = (),
    limit: int,
    offset: int = 0,
) -> list[LoggedModel]:
    """Logged models that meet `condition` (on the tables logged_model and experiment)."""
    query = (
        sa.select(logged_model, experiment.c.number, experiment.c.artifact_location)
        .join(experiment, experiment.c.id == logged_model.c.experiment_id)
        .where(condition)
        .order_by(*order)
    )
    rows = connection.execute(query.limit(limit).offset(offset)).all()
    ids = [row.id for row in rows]
    parameters = registry_store.tags_of(connection, logged_model_parameter, ids)
    tags = registry_store.tags_of(connection, logged_model_tag, ids)
    metrics: dict[str, list[Point]] = {}
    columns = logged_model_metric.c
    for start in range(0, len(ids), 500):
        measured = (
            sa.select(logged_model_metric)
            .where(columns.logged_model_id.in_(ids[start : start + 500]))
            .order_by(columns.key, columns.timestamp_ms, columns.step)
        )
        for row in connection.execute(measured):
            metrics.setdefault(row.logged_model_id, []).append(_point(row))
    return [
        LoggedModel(
            id=row.id,
            experiment_number=row.number,
            name=row.name,
            model_type=row.model_type,
            source_run_id=row.source_run_id or "",
            status=row.status,
            status_message=row.status_message,
            artifact_uri=paths.join(row.artifact_location, "models", row.id, "artifacts"),
            bundle_digest=row.bundle_digest,
            created_at=row.created_at // 1000,
            updated_at=row.updated_at // 1000,
            deleted=row.deleted_at is not None,
            parameters=parameters.get(row.id, {}),
            tags=tags.get(row.id, {}),
            metrics=metrics.get(row.id, ()),
        )
        for row in rows
    ]


def _point(row: Row) -> Point:
    return Point(
        row.key,
        math.nan if row.is_nan else row.value,
        row.timestamp_ms,
        row.step,
        model_id=row.logged_model_id,
        dataset_name=row.dataset_name,
        dataset_digest=row.dataset_digest,
        run_id=row.run_id,
    )


def _check_keys(parameters: Pairs, tags: Pairs) -> None:
    for what, pairs in (("Param key", parameters), ("Tag key", tags)):
        for key in pairs:
            if not key:
                raise limits.invalid_value("key", key, "A key name must be provided.")
            limits.check_length(what, key, limits.KEY)


def _pairs(connection: sa.Connection, table: sa.Table, model_id: str, pairs: Pairs) -> None:
    rows = [{"logged_model_id": model_id, "key": k, "value": v} for k, v in pairs.items()]
    if rows:
        connection.execute(upsert(connection, table), rows)
