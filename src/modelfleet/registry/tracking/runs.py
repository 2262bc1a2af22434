"""Verbs on runs."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from modelfleet.core.authorization import Principal
from modelfleet.core.clock import iso, now_us
from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.core.ids import new_id
from modelfleet.registry import store as registry_store
from modelfleet.registry.tracking import limits, paths, store
from modelfleet.registry.tracking.base import Verbs
from modelfleet.registry.tracking.dialect import upsert
from modelfleet.registry.tracking.tables import run, run_tag
from modelfleet.registry.tracking.types import RUN_STATUSES, Run
from modelfleet.registry.tracking.words import random_name

NAME_TAG = "mlflow.runName"
COMMIT_TAG = "mlflow.source.git.commit"


class RunVerbs(Verbs):
    def create_run(
        self,
        actor: Principal,
        experiment_number: str = "0",
        *,
        name: str = "",
        user: str = "",
        started_at: int = 0,
        tags: Mapping[str, str] | None = None,
    ) -> Run:
        """A running run. started_at: milliseconds since 1970. Unnamed ones are given a name."""
        own_tags = dict(limits.tag(key, value) for key, value in (tags or {}).items())
        tagged = own_tags.get(NAME_TAG, "")
        if name and tagged and name != tagged:
            raise InvalidInput(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with "
                f"different values (run_name='{name}', mlflow.runName='{tagged}')."
            )
        chosen = limits.check_length("run_name", name or tagged or random_name(), limits.KEY)
        own_tags[NAME_TAG] = chosen
        limits.check_length("user_id", user, limits.KEY)
        self._may_write(actor)
        with self._database.begin() as connection:
            place = self._active_experiment(connection, experiment_number)
            made, now = new_id(), now_us()
            values = {
                "id": made,
                "experiment_id": place.id,
                "name": chosen,
                "user": user,
                "status": "RUNNING",
                "started_at": started_at,
                "dataset": "",
                "git_commit": own_tags.get(COMMIT_TAG, "")[:64],
            }
            connection.execute(sa.insert(run).values(**values, created_at=now))
            rows = [{"run_id": made, "key": k, "value": v} for k, v in own_tags.items()]
            connection.execute(sa.insert(run_tag), rows)
            details: dict[str, object] = {"experiment": place.number, "name": chosen}
            self._record(connection, actor, "create-run", "run", made, details)
        return Run(
            **values,
            experiment=place.name,
            parameters={},
            metrics={},
            created_at=iso(now),
            tags=own_tags,
            experiment_number=place.number,
            artifact_uri=paths.join(place.artifact_location, made, "artifacts"),
        )

    def get_run(self, actor: Principal, run_id: str) -> Run:
        """With all that it logged; deleted ones, too."""
        self._may_read(actor)
        with self._database.read() as connection:
            return self._read(connection, run_id, whole=True)

    def update_run(
        self,
        actor: Principal,
        run_id: str,
        *,
        status: str | None = None,
        ended_at: int | None = None,
        name: str | None = None,
    ) -> Run:
        """The run without what it logged. Only what is given is changed.

        ended_at: milliseconds since 1970.
        """
        if status is not None and status not in RUN_STATUSES:
            raise limits.invalid_value("status", status, f"Valid are {', '.join(RUN_STATUSES)}.")
        limits.check_length("run_name", name or "", limits.KEY)
        self._may_write(actor)
        with self._database.begin() as connection:
            self._active_run(connection, run_id)
            given = {"status": status, "ended_at": ended_at, "name": name or None}
            changes: dict[str, object] = {k: v for k, v in given.items() if v is not None}
            if changes:
                connection.execute(sa.update(run).where(run.c.id == run_id).values(**changes))
                if name:
                    row = {"run_id": run_id, "key": NAME_TAG, "value": name}
                    connection.execute(upsert(connection, run_tag), [row])
                self._record(connection, actor, "update-run", "run", run_id, changes)
            return self._read(connection, run_id, whole=False)

    def delete_run(self, actor: Principal, run_id: str) -> None:
        """Put it away; `restore_run` brings it back."""
        self._put(actor, run_id, now_us(), "delete-run")

    def restore_run(self, actor: Principal, run_id: str) -> None:
        self._put(actor, run_id, None, "restore-run")

    def _put(self, actor: Principal, run_id: str, deleted_at: int | None, action: str) -> None:
        self._may_write(actor)
        with self._database.begin() as connection:
            found = self._run(connection, run_id)
            if (found.deleted_at is None) == (deleted_at is None):
                return
            connection.execute(
                sa.update(run).where(run.c.id == run_id).values(deleted_at=deleted_at)
            )
            self._record(connection, actor, action, "run", run_id)

    def set_run_tag(self, actor: Principal, run_id: str, key: str, value: str) -> None:
        key, value = limits.tag(key, value)
        self._may_write(actor)
        with self._database.begin() as connection:
            self._active_run(connection, run_id)
            self._tag(connection, run_id, {key: value})
            details: dict[str, object] = {"key": key, "value": value[:1000]}
            self._record(connection, actor, "set-run-tag", "run", run_id, details)

    def delete_run_tag(self, actor: Principal, run_id: str, key: str) -> None:
        self._may_write(actor)
        with self._database.begin() as connection:
            self._active_run(connection, run_id)
            if not registry_store.delete_tag(connection, run_tag, run_id, key):
                raise NotFound(f"No tag with name: {key[:250]} in run with id {run_id}")
            self._record(connection, actor, "delete-run-tag", "run", run_id, {"key": key})

    def _tag(self, connection: sa.Connection, run_id: str, tags: Mapping[str, str]) -> None:
        rows = [{"run_id": run_id, "key": key, "value": value} for key, value in tags.items()]
        connection.execute(upsert(connection, run_tag), rows)
        changes = {}
        if tags.get(NAME_TAG):
            changes["name"] = limits.check_length(NAME_TAG, tags[NAME_TAG], limits.KEY)
        if COMMIT_TAG in tags:
            changes["git_commit"] = tags[COMMIT_TAG][:64]
        if changes:
            connection.execute(sa.update(run).where(run.c.id == run_id).values(**changes))

    def _read(self, connection: sa.Connection, run_id: str, *, whole: bool) -> Run:
        found = store.find_run(connection, self.namespace_id, run_id, whole=whole)
        if found is None:
            raise NotFound(f"Run with id={run_id[:300]} not found")
        return found
