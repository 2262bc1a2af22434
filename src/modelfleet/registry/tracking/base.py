"""What all verbs of training share: who may, the namespace, how things are found."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize_somewhere
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.registry.bundles import BundleStore
from modelfleet.registry.tracking.tables import experiment, logged_model, run
from modelfleet.registry.types import DEFAULT_NAMESPACE_ID

Row = sa.Row[*tuple[Any, ...]]


class Verbs:
    """Bound to one namespace: whatever lives in another one is not found.

    Training belongs to no team: who may register models of some team may write, who may read those
    of some team may read. What a run logs (metrics, parameters, inputs, files) is a record by
    itself and is not told to the audit log once more; everything else is.
    """

    def __init__(
        self,
        database: Database,
        bundles: BundleStore,
        namespace: str = "default",
        namespace_id: str = DEFAULT_NAMESPACE_ID,
    ) -> None:
        self._database = database
        self._bundles = bundles
        self.namespace = namespace
        self.namespace_id = namespace_id

    def _may_write(self, actor: Principal) -> None:
        authorize_somewhere(actor, Action.REGISTER, Resource("experiment", self._qualified("*")))

    def _may_read(self, actor: Principal) -> None:
        authorize_somewhere(actor, Action.READ, Resource("experiment", self._qualified("*")))

    def _qualified(self, name: str) -> str:
        return name if self.namespace == "default" else f"{self.namespace}/{name}"

    def _experiment(self, connection: sa.Connection, number: int | str) -> Row:
        """Raises `NotFound`."""
        wanted = parse_number(number)
        row = connection.execute(
            sa.select(experiment).where(
                experiment.c.namespace_id == self.namespace_id, experiment.c.number == wanted
            )
        ).first()
        if row is None:
            raise no_experiment(wanted)
        return row

    def _active_experiment(self, connection: sa.Connection, number: int | str) -> Row:
        row = self._experiment(connection, number)
        if row.deleted_at is not None:
            raise InvalidInput(
                f"The experiment {row.number} must be in the 'active' state. "
                "Current state is deleted."
            )
        return row

    def _run(self, connection: sa.Connection, run_id: str) -> Row:
        """Its row, with `number` and `artifact_location` of the experiment."""
        row = connection.execute(
            sa.select(run, experiment.c.number, experiment.c.artifact_location)
            .join(experiment, experiment.c.id == run.c.experiment_id)
            .where(run.c.id == run_id, experiment.c.namespace_id == self.namespace_id)
        ).first()
        if row is None:
            raise NotFound(f"Run with id={run_id[:300]} not found")
        return row

    def _active_run(self, connection: sa.Connection, run_id: str) -> Row:
        row = self._run(connection, run_id)
        if row.deleted_at is not None:
            raise InvalidInput(
                f"The run {run_id} must be in the 'active' state. Current state is deleted."
            )
        return row

    def _model(self, connection: sa.Connection, model_id: str, deleted: bool = False) -> Row:
        """Its row, with `number` and `artifact_location` of the experiment."""
        row = connection.execute(
            sa.select(logged_model, experiment.c.number, experiment.c.artifact_location)
            .join(experiment, experiment.c.id == logged_model.c.experiment_id)
            .where(logged_model.c.id == model_id, experiment.c.namespace_id == self.namespace_id)
        ).first()
        if row is None or (row.deleted_at is not None and not deleted):
            raise NotFound(f"Logged model with ID '{model_id[:300]}' not found.")
        return row

    def _record(
        self,
        connection: sa.Connection,
        actor: Principal,
        action: str,
        kind: str,
        name: str,
        details: dict[str, object] | None = None,
    ) -> None:
        audit.record(connection, actor, action, Resource(kind, self._qualified(name)), details)


def parse_number(number: int | str) -> int:
    """An experiment's number, as clients write it. Raises `InvalidInput`."""
    try:
        found = int(number)
    except ValueError as error:
        raise InvalidInput(
            f"Invalid experiment ID '{str(number)[:100]}'. Experiment ID must be a valid integer."
        ) from error
    if not -(2**31) <= found < 2**31:
        raise no_experiment(found)
    return found


def no_experiment(number: int) -> NotFound:
    return NotFound(f"No Experiment with id={number} exists")


def now_ms() -> int:
    return now_us() // 1000
