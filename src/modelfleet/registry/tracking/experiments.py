"""Verbs on experiments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from modelfleet.core.authorization import Principal
from modelfleet.core.clock import now_us
from modelfleet.core.errors import Conflict, InvalidInput, NotFound, WrongState
from modelfleet.core.ids import new_id
from modelfleet.registry import store as registry_store
from modelfleet.registry.filters import Grammar, compare, owners, parse, parse_order
from modelfleet.registry.tracking import limits, paths
from modelfleet.registry.tracking.base import Row, Verbs, no_experiment, parse_number
from modelfleet.registry.tracking.dialect import upsert
from modelfleet.registry.tracking.tables import experiment, experiment_tag, run
from modelfleet.registry.tracking.types import Experiment, Page, View

_GRAMMAR = Grammar(
    texts=frozenset({"name", "experiment_id"}),
    numbers=frozenset({"creation_time", "last_update_time"}),
    listed=frozenset({"experiment_id"}),
    nullable=frozenset({"tag"}),
)
_COLUMNS: dict[str, sa.ColumnElement[object]] = {
    "name": experiment.c.name,
    "experiment_id": experiment.c.number,
    "creation_time": experiment.c.created_at // 1000,
    "last_update_time": experiment.c.updated_at // 1000,
}


class ExperimentVerbs(Verbs):
    def create_experiment(
        self,
        actor: Principal,
        name: str,
        *,
        artifact_location: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Experiment:
        limits.experiment_name(name)
        own_tags = dict(limits.experiment_tag(k, v) for k, v in (tags or {}).items())
        if artifact_location:
            limits.check_length("artifact_location", artifact_location, 2048)
            if "?" in artifact_location or "#" in artifact_location:
                raise InvalidInput("'artifact_location' URL can't include fragments or params.")
            paths.held(artifact_location)  # refuses what leaves the root
        self._may_write(actor)
        with self._database.begin() as connection:
            own = experiment.c.namespace_id == self.namespace_id
            known = sa.select(experiment.c.id).where(own, experiment.c.name == name)
            if connection.execute(known).first() is not None:
                raise Conflict(f"Experiment(name={name}) already exists.")
            highest = connection.execute(
                sa.select(sa.func.max(experiment.c.number)).where(own)
            ).scalar()
            number = 0 if highest is None else highest + 1
            made, now = new_id(), now_us()
            connection.execute(
                sa.insert(experiment).values(
                    id=made,
                    namespace_id=self.namespace_id,
                    number=number,
                    name=name,
                    artifact_location=artifact_location or f"mlflow-artifacts:/{number}",
                    created_at=now,
                    updated_at=now,
                )
            )
            if own_tags:
                rows = [{"experiment_id": made, "key": k, "value": v} for k, v in own_tags.items()]
                connection.execute(sa.insert(experiment_tag), rows)
            details: dict[str, object] = {"name": name}
            self._record(connection, actor, "create-experiment", "experiment", str(number), details)
            return _experiments(connection, experiment.c.id == made)[0]

    def get_experiment(self, actor: Principal, number: int | str) -> Experiment:
        wanted = parse_number(number)
        self._may_read(actor)
        with self._database.read() as connection:
            own = experiment.c.namespace_id == self.namespace_id
            found = _experiments(connection, sa.and_(own, experiment.c.number == wanted))
        if not found:
            raise no_experiment(wanted)
        return found[0]

    def find_experiment(self, actor: Principal, name: str) -> Experiment:
        """By name. Raises `NotFound`."""
        self._may_read(actor)
        with self._database.read() as connection:
            own = experiment.c.namespace_id == self.namespace_id
            found = _experiments(connection, sa.and_(own, experiment.c.name == name))
        if not found:
            raise NotFound(f"Could not find experiment with name '{name[:500]}'")
        return found[0]

    def search_experiments(
        self,
        actor: Principal,
        *,
        filter_text: str | None = None,
        order: Sequence[str] = (),
        view: View = "active",
        limit: int = 1000,
        offset: int = 0,
    ) -> Page[Experiment]:
        """Newest first unless `order` says otherwise."""
        self._may_read(actor)
        conditions = [experiment.c.namespace_id == self.namespace_id, in_view(experiment, view)]
        for one in parse(filter_text, _GRAMMAR):
            if one.entity == "tag":
                with_it = owners(experiment_tag, one.key, one.operator, one.value)
                inside = experiment.c.id.in_(with_it)
                conditions.append(~inside if one.operator == "IS NULL" else inside)
                continue
            value = one.value
            if one.key == "experiment_id":
                if one.operator in ("LIKE", "ILIKE"):
                    raise InvalidInput(f"Invalid comparator for experiment_id: {one.operator}")
                given = value if isinstance(value, tuple) else (str(value),)
                numbers = [parse_number(each) for each in given]
                them = among(numbers)
                conditions.append(~them if one.operator in ("!=", "NOT IN") else them)
                continue
            if one.key in _GRAMMAR.numbers and isinstance(value, float):
                raise InvalidInput(f"Invalid value for numeric attribute '{one.key}': '{value}'")
            conditions.append(compare(_COLUMNS[one.key], one.operator, value))
        keys = parse_order(order, _GRAMMAR, frozenset(_COLUMNS)) or [
            ("attribute", "creation_time", False),
            ("attribute", "experiment_id", True),
        ]
        ordered = []
        for entity, key, ascending in keys:
            if entity != "attribute":
                raise InvalidInput(f"Invalid order_by entity: {entity}")
            ordered.append(_COLUMNS[key].asc() if ascending else _COLUMNS[key].desc())
        ordered.append(experiment.c.number.desc())
        with self._database.read() as connection:
            found = _experiments(
                connection, sa.and_(*conditions), tuple(ordered), limit + 1, offset
            )
        return Page(found[:limit], len(found) > limit)

    def run_counts(self, actor: Principal) -> dict[int, tuple[int, int | None]]:
        """Of each experiment by number: its runs, and the newest start (milliseconds)."""
        self._may_read(actor)
        query = (
            sa.select(experiment.c.number, sa.func.count(), sa.func.max(run.c.started_at))
            .join(run, run.c.experiment_id == experiment.c.id)
            .where(experiment.c.namespace_id == self.namespace_id, run.c.deleted_at.is_(None))
            .group_by(experiment.c.number)
        )
        with self._database.read() as connection:
            return {number: (runs, last) for number, runs, last in connection.execute(query)}

    def rename_experiment(self, actor: Principal, number: str, name: str) -> None:
        limits.experiment_name(name)
        self._may_write(actor)
        with self._database.begin() as connection:
            found = self._experiment(connection, number)
            if found.deleted_at is not None:
                raise WrongState("Cannot rename a non-active experiment.")
            taken = sa.select(experiment.c.id).where(
                experiment.c.namespace_id == self.namespace_id,
                experiment.c.name == name,
                experiment.c.id != found.id,
            )
            if connection.execute(taken).first() is not None:
                raise Conflict(f"Experiment(name={name}) already exists.")
            self._change(connection, found, name=name)
            details: dict[str, object] = {"before": found.name, "name": name}
            self._record(
                connection, actor, "rename-experiment", "experiment", str(found.number), details
            )

    def delete_experiment(self, actor: Principal, number: str) -> None:
        """Put it and its runs away; `restore_experiment` brings them back."""
        self._may_write(actor)
        with self._database.begin() as connection:
            found = self._experiment(connection, number)
            if found.deleted_at is not None:
                raise no_experiment(found.number)
            now = now_us()
            self._change(connection, found, deleted_at=now)
            connection.execute(
                sa.update(run)
                .where(run.c.experiment_id == found.id, run.c.deleted_at.is_(None))
                .values(deleted_at=now)
            )
            self._record(connection, actor, "delete-experiment", "experiment", str(found.number))

    def restore_experiment(self, actor: Principal, number: str) -> None:
        """With all of its runs."""
        self._may_write(actor)
        with self._database.begin() as connection:
            found = self._experiment(connection, number)
            if found.deleted_at is None:
                raise no_experiment(found.number)
            self._change(connection, found, deleted_at=None)
            connection.execute(
                sa.update(run).where(run.c.experiment_id == found.id).values(deleted_at=None)
            )
            self._record(connection, actor, "restore-experiment", "experiment", str(found.number))

    def set_experiment_tag(self, actor: Principal, number: str, key: str, value: str) -> None:
        limits.experiment_tag(key, value)
        self._may_write(actor)
        with self._database.begin() as connection:
            found = self._active_experiment(connection, number)
            connection.execute(
                upsert(connection, experiment_tag),
                [{"experiment_id": found.id, "key": key, "value": value}],
            )
            details: dict[str, object] = {"key": key, "value": value[:1000]}
            self._record(
                connection, actor, "set-experiment-tag", "experiment", str(found.number), details
            )

    def delete_experiment_tag(self, actor: Principal, number: str, key: str) -> None:
        self._may_write(actor)
        with self._database.begin() as connection:
            found = self._active_experiment(connection, number)
            if not registry_store.delete_tag(connection, experiment_tag, found.id, key):
                raise NotFound(f"No tag with name: {key[:250]} in experiment with id {number}")
            self._record(
                connection,
                actor,
                "delete-experiment-tag",
                "experiment",
                str(found.number),
                {"key": key},
            )

    def _change(self, connection: sa.Connection, found: Row, **values: object) -> None:
        connection.execute(
            sa.update(experiment)
            .where(experiment.c.id == found.id)
            .values(updated_at=now_us(), **values)
        )


def among(numbers: Iterable[int]) -> sa.ColumnElement[bool]:
    """Experiments with these numbers. Clients may name more than a statement has parameters."""
    given: sa.BindParameter[int] = sa.bindparam(
        None, sorted(set(numbers)), sa.Integer, expanding=True, literal_execute=True
    )
    return experiment.c.number.in_(given)


def in_view(table: sa.Table, view: View) -> sa.ColumnElement[bool]:
    if view == "all":
        return sa.true()
    gone = table.c.deleted_at
    return gone.is_(None) if view == "active" else gone.is_not(None)


def _experiments(
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    order: tuple[sa.ColumnElement[object], ...] = (),
    limit: int = 1,
    offset: int = 0,
) -> list[Experiment]:
    query = sa.select(experiment).where(condition).order_by(*order).limit(limit).offset(offset)
    rows = connection.execute(query).all()
    tags = registry_store.tags_of(connection, experiment_tag, [row.id for row in rows])
    return [
        Experiment(
            id=row.id,
            number=row.number,
            name=row.name,
            artifact_location=row.artifact_location,
            created_at=row.created_at // 1000,
            updated_at=row.updated_at // 1000,
            deleted=row.deleted_at is not None,
            tags=tags.get(row.id, {}),
        )
        for row in rows
    ]
