"""Verbs by which people steer a rollout that runs."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.identity.approvals import has_role
from modelfleet.rollouts import freezes, store
from modelfleet.rollouts.step import AT_A_STEP, ENDED, UNMOVED, Desired, State
from modelfleet.rollouts.store import Rollout, Row
from modelfleet.rollouts.tables import rollout

_MAX_REASON = 2000


class SteeringVerbs:
    def __init__(self, database: Database) -> None:
        self._database = database

    def pause(self, actor: Principal, rollout_id: str) -> Rollout:
        """Stay at the present step. Harm still rolls back."""
        return self._steer(actor, rollout_id, Desired.PAUSE, Action.ROLLOUT)

    def resume(self, actor: Principal, rollout_id: str) -> Rollout:
        return self._steer(actor, rollout_id, Desired.RUN, Action.ROLLOUT)

    def abort(self, actor: Principal, rollout_id: str, reason: str = "") -> Rollout:
        """All traffic back to the stable version, as soon as that one is resident."""
        return self._steer(actor, rollout_id, Desired.ABORT, Action.ROLL_BACK, reason)

    def promote(self, actor: Principal, rollout_id: str, reason: str) -> Rollout:
        """All traffic to the new version without waiting for the judge's proof.

        Not before it has passed its gates, and not in a freeze window.
        """
        if not reason.strip():
            raise InvalidInput("Promoting by hand needs a reason.")
        return self._steer(actor, rollout_id, Desired.PROMOTE, Action.ROLLOUT, reason)

    def override(self, actor: Principal, rollout_id: str, reason: str) -> Rollout:
        """Let one rollout advance in freeze windows; by the role that each of them names."""
        if not reason.strip():
            raise InvalidInput("Overriding a freeze window needs a reason.")
        with self._database.begin() as connection:
            found = self._row(connection, rollout_id)
            resource = resource_of(found)
            authorize(actor, Action.READ, resource)
            known = freezes.holding(freezes.current(connection), found.owner_team, found.endpoint)
            roles = {one.role for one in known} or {"approver"}
            for role in sorted(roles):
                if not has_role(actor, role, found.owner_team):
                    authorize(actor, Action.MANAGE_ACCESS, resource)
            if found.state in ENDED:
                raise Conflict(f"The rollout has ended: {said(found.state)}.")
            given = {"by": actor.name, "reason": reason.strip()[:_MAX_REASON]}
            notes = replace(found.notes, override=given)
            store.update(connection, found, notes=store.plain(notes))
            details = {"rollout": found.id, "reason": given["reason"]}
            details |= {"windows": ", ".join(one.name for one in known)}
            audit.record(connection, actor, "override-freeze", resource, details)
            return self._shown(connection, rollout_id)

    def _steer(
        self,
        actor: Principal,
        rollout_id: str,
        desired: Desired,
        action: Action,
        reason: str = "",
    ) -> Rollout:
        if len(reason) > _MAX_REASON:
            raise InvalidInput(f"A reason has at most {_MAX_REASON} characters.")
        with self._database.begin() as connection:
            found = self._row(connection, rollout_id)
            members = [found]
            if found.group_id:
                members = store.group_of(connection, found.group_id)
                members = [one for one in members if one.state not in ENDED] or [found]
            for one in members:
                authorize(actor, action, resource_of(one))
            for one in members:
                self._refuse(connection, one, desired)
            for one in members:
                values: dict[str, object] = {"desired": desired.value}
                if reason:
                    request = {"by": actor.name, "reason": reason.strip()}
                    values["notes"] = store.plain(replace(one.notes, request=request))
                store.update(connection, one, **values)
                details = {"rollout": one.id, "desired": desired.value}
                details |= {"reason": reason.strip()} if reason else {}
                audit.record(connection, actor, "steer-rollout", resource_of(one), details)
                if desired is Desired.PROMOTE:
                    sentence = f"{actor.name} promotes it: {reason.strip()}"
                    store.add_move(connection, one.id, one.state, one.step, sentence, actor.name)
            return self._shown(connection, rollout_id)

    def _refuse(self, connection: sa.Connection, found: Row, desired: Desired) -> None:
        if found.state in ENDED:
            raise Conflict(f"The rollout has ended: {said(found.state)}.")
        if found.desired is Desired.ABORT and desired is not Desired.ABORT:
            raise Conflict("The rollout was aborted.")
        if found.state is State.ROLLING_BACK and desired is not Desired.ABORT:
            raise Conflict("The rollout goes back already.")
        if found.state is State.FROZEN and desired not in (Desired.ABORT, Desired.PROMOTE):
            raise Conflict(
                "The rollout is frozen.",
                hint=f"modelfleet rollouts abort {found.id}, or promote it",
            )
        if desired is Desired.PROMOTE:
            self._refuse_promotion(connection, found)

    def _refuse_promotion(self, connection: sa.Connection, found: Row) -> None:
        if found.spec.arms:
            raise Conflict(
                "An A/B/n test is not promoted by hand.",
                hint="Abort it and roll out the arm that you want.",
            )
        if found.state in UNMOVED:
            raise Conflict("The version is not ready, or has not passed its gates, yet.")
        if found.state not in AT_A_STEP:
            raise Conflict(f"The rollout is {said(found.state)}: there is nothing to promote.")
        known = freezes.current(connection)
        frozen = freezes.blocked(
            replace(found.spec, windows=(), not_before=""),
            found.notes,
            known,
            found.owner_team,
            found.endpoint,
            now_us(),
        )
        if frozen:
            hint = f'modelfleet rollouts override {found.id} --reason "..."'
            raise Conflict(frozen, hint=hint)

    def _row(self, connection: sa.Connection, rollout_id: str) -> Row:
        found = store.find_row(connection, rollout_id)
        if found is None:
            raise NotFound(f"There is no rollout {rollout_id}.")
        return found

    def _shown(self, connection: sa.Connection, rollout_id: str) -> Rollout:
        return store.shown(connection, rollout.c.id == rollout_id)[0]


def resource_of(row: Row) -> Resource:
    return Resource("endpoint", row.endpoint, row.owner_team)


def said(state: State) -> str:
    return state.value.replace("_", " ")
