"""Verbs of rollouts, and `advance`: one look of the reconciler at one rollout.

Whatever `advance` finds out and decides (judge state, evidence, new state, new routes, audit
event) commits in one transaction. A process that dies before it has changed nothing; one that
dies after it has nothing left to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Action, Principal, Resource, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.core.ids import new_id
from modelfleet.registry import RegistryService, Version
from modelfleet.registry import store as registry_store
from modelfleet.rollouts import judge, store
from modelfleet.rollouts.analysis import Tick
from modelfleet.rollouts.judge import Finding, JudgeState, Verdict
from modelfleet.rollouts.plan import FULL, Spec
from modelfleet.rollouts.step import (
    ENDED,
    Desired,
    Move,
    Observed,
    State,
    Traffic,
    decide,
)
from modelfleet.rollouts.store import Evidence, Rollout, Row
from modelfleet.serving.endpoints import Endpoint, EndpointService, Route

_SECOND = 1_000_000


class TickSource(Protocol):
    """Closed judge ticks of two versions (by index), each once, in order."""

    def ticks(self, stable: int, canary: int, after: int) -> Sequence[Tick]: ...

    def tick_at(self, moment_us: int) -> int:
        """The number of the tick in which a moment lies."""

    def closed_tick(self) -> int:
        """The number of the newest tick that is closed; those up to it don't change any more."""


@dataclass(frozen=True)
class Details:
    rollout: Rollout
    moves: Sequence[store.Move]
    evidence: Sequence[Evidence]


@dataclass(frozen=True)
class Watched:
    """What the collector must count for a rollout: version indexes."""

    stable: int
    canary: int
    endpoint: str
    mirrored: bool


class RolloutService:
    def __init__(
        self,
        database: Database,
        registry: RegistryService,
        endpoints: EndpointService,
        ticks: TickSource,
    ) -> None:
        self._database = database
        self._registry = registry
        self._endpoints = endpoints
        self._ticks = ticks

    # Verbs -------------------------------------------------------------------------------------

    def start(
        self, actor: Principal, endpoint_name: str, model: str, version: str, spec: Spec
    ) -> Rollout:
        """Begin to move an endpoint to a version. The endpoint is made if it is new."""
        target = self._registry.get_version(actor, model, version)
        if target.status == "failed":
            raise Conflict(f"{target.name} is not fit to serve: {target.reason}")
        with self._database.begin() as connection:
            place = self._place(connection, actor, endpoint_name, model)
            resource = Resource("endpoint", place.name, place.owner_team)
            authorize(actor, Action.ROLLOUT, resource)
            self._refuse_second(connection, place, target)
            rollout_id, now = new_id(), now_us()
            connection.execute(
                sa.insert(store.rollout).values(
                    id=rollout_id,
                    endpoint_id=place.id,
                    endpoint=place.name,
                    owner_team=place.owner_team,
                    from_version_id=place.stable_version_id,
                    to_version_id=target.id,
                    spec=msgspec.to_builtins(spec),
                    state=State.PENDING.value,
                    desired=Desired.RUN.value,
                    step=0,
                    sentence="Waits for the version to be ready.",
                    route_revision=place.revision,
                    step_at=now,
                    judge=msgspec.to_builtins(judge.begin(spec.analysis)),
                    actor=actor.name,
                    started_at=now,
                )
            )
            registry_store.hold(connection, target.id, f"rollout/{rollout_id}")
            sentence = f"{spec.strategy.value} to {target.name}"
            store.add_move(connection, rollout_id, State.PENDING, 0, sentence, actor.name)
            details = {"rollout": rollout_id, "to": target.name, "strategy": spec.strategy.value}
            audit.record(connection, actor, "start-rollout", resource, details)
            return self._shown(connection, rollout_id)

    def _place(
        self, connection: sa.Connection, actor: Principal, name: str, model: str
    ) -> Endpoint:
        try:
            found = self._endpoints.find(connection, name)
        except NotFound:
            return self._endpoints.create_in(connection, actor, name, model)
        if found.model != model:
            raise InvalidInput(f"The endpoint {name} serves the model {found.model}, not {model}.")
        return found

    def _refuse_second(self, connection: sa.Connection, place: Endpoint, target: Version) -> None:
        for one in store.active(connection):
            if one.endpoint_id == place.id:
                raise Conflict(
                    f"{place.name} is being rolled out already.",
                    hint=f"Wait for it, or: modelfleet rollouts abort {one.id}",
                    rollout=one.id,
                )
        if place.stable_version_id == target.id:
            raise Conflict(f"{place.name} serves {target.name} already.")

    def pause(self, actor: Principal, rollout_id: str) -> Rollout:
        """Stay at the present step. Harm still rolls back."""
        return self._steer(actor, rollout_id, Desired.PAUSE, Action.ROLLOUT)

    def resume(self, actor: Principal, rollout_id: str) -> Rollout:
        return self._steer(actor, rollout_id, Desired.RUN, Action.ROLLOUT)

    def abort(self, actor: Principal, rollout_id: str) -> Rollout:
        """All traffic back to the stable version, as soon as that one is resident."""
        return self._steer(actor, rollout_id, Desired.ABORT, Action.ROLL_BACK)

    def _steer(
        self, actor: Principal, rollout_id: str, desired: Desired, action: Action
    ) -> Rollout:
        with self._database.begin() as connection:
            found = store.find_row(connection, rollout_id)
            if found is None:
                raise NotFound(f"There is no rollout {rollout_id}.")
            resource = Resource("endpoint", found.endpoint, found.owner_team)
            authorize(actor, action, resource)
            if found.state in ENDED:
                raise Conflict(f"The rollout has ended: {found.state.value}.")
            if found.desired is Desired.ABORT and desired is not Desired.ABORT:
                raise Conflict("The rollout was aborted.")
            if found.state is State.FROZEN and desired is not Desired.ABORT:
                raise Conflict(
                    "The rollout is frozen.", hint=f"modelfleet rollouts abort {rollout_id}"
                )
            store.update(connection, rollout_id, desired=desired.value)
            details = {"rollout": rollout_id, "desired": desired.value}
            audit.record(connection, actor, "steer-rollout", resource, details)
            return self._shown(connection, rollout_id)

    def get(self, actor: Principal, rollout_id: str, ticks: int = 600) -> Details:
        with self._database.read() as connection:
            found = store.shown(connection, store.rollout.c.id == rollout_id)
            if not found:
                raise NotFound(f"There is no rollout {rollout_id}.")
            authorize(
                actor, Action.READ, Resource("endpoint", found[0].endpoint, found[0].owner_team)
            )
            return Details(
                found[0],
                store.moves(connection, rollout_id),
                store.evidence_of(connection, rollout_id, ticks),
            )

    def list(
        self,
        actor: Principal,
        *,
        endpoint: str | None = None,
        active_only: bool = False,
        limit: int = 100,
    ) -> Sequence[Rollout]:
        """Newest first."""
        condition = store.rollout.c.endpoint == endpoint if endpoint else sa.true()
        if active_only:
            ended = [state.value for state in ENDED]
            condition = sa.and_(condition, store.rollout.c.state.not_in(ended))
        teams = actor.teams(Action.READ)
        if teams is not None:
            condition = sa.and_(condition, store.rollout.c.owner_team.in_(sorted(teams)))
        with self._database.read() as connection:
            return store.shown(connection, condition, limit)

    def _shown(self, connection: sa.Connection, rollout_id: str) -> Rollout:
        return store.shown(connection, store.rollout.c.id == rollout_id)[0]

    # For the reconciler ------------------------------------------------------------------------

    def active(self) -> Sequence[Row]:
        with self._database.read() as connection:
            return store.active(connection)

    def watched(self, rows: Sequence[Row], versions: Mapping[str, Version]) -> Sequence[Watched]:
        """The pairs of versions that get judge ticks."""
        found = []
        for row in rows:
            stable, canary = versions.get(row.from_version_id or ""), versions[row.to_version_id]
            if stable is not None and row.state is not State.PENDING:
                found.append(Watched(stable.index, canary.index, row.endpoint, row.spec.mirrored))
        return found

    def advance(
        self, row: Row, versions: Mapping[str, Version], load_errors: Mapping[int, str]
    ) -> bool:
        """Take in new ticks and make the next move, if there is one. True if it moved."""
        stable = versions.get(row.from_version_id or "")
        canary = versions[row.to_version_id]
        with self._database.begin() as connection:
            fresh = store.find_row(connection, row.id)
            if fresh is None or fresh.state in ENDED:
                return False
            try:
                place = self._endpoints.find(connection, fresh.endpoint_id)
            except NotFound:
                self._end(connection, fresh, "The endpoint was deleted.")
                return True
            applied = place.applied_revision >= fresh.route_revision
            if applied and fresh.applied_at is None:
                fresh = replace(fresh, applied_at=now_us())
                store.update(connection, fresh.id, applied_at=fresh.applied_at)
            bake_judged = self._bake_is_closed(fresh)
            state, verdict = self._judge(connection, fresh, stable, canary)
            seen = _observed(fresh, stable, canary, applied, verdict, state, load_errors)
            move = decide(fresh.spec, replace(seen, bake_judged=bake_judged), fresh.desired)
            if move is not None:
                self._make(connection, fresh, place, move, state)
            return move is not None

    def _bake_is_closed(self, row: Row) -> bool:
        """A bake that nobody has looked at proves nothing, however long it took."""
        if row.state is not State.BAKING or row.applied_at is None:
            return False
        end = row.applied_at + int(row.spec.bake_seconds * _SECOND)
        return self._ticks.closed_tick() >= self._ticks.tick_at(end) - 1

    def _judge(
        self, connection: sa.Connection, row: Row, stable: Version | None, canary: Version
    ) -> tuple[JudgeState, Verdict | None]:
        """The judge's state after all closed ticks, and what it says; both are written."""
        state = row.judge
        judged = row.state in (State.STEPPING, State.PAUSED, State.BAKING)
        if stable is None or row.applied_at is None or not judged:
            return state, None
        first = self._ticks.tick_at(row.applied_at)
        fresh = self._ticks.ticks(stable.index, canary.index, max(state.last_tick, first - 1))
        verdict = None if row.state is State.BAKING else self._verdict(row, state)
        for tick in fresh:
            if tick.number <= state.last_tick:
                continue
            turning = tick.number <= first
            state = judge.update(state, row.spec.analysis, replace(tick, turning=turning))
            if row.state is not State.BAKING:
                found = self._verdict(row, state)
                store.add_evidence(connection, row.id, tick.number, row.step, found)
                if verdict is None or verdict.finding is not Finding.HARM:
                    verdict = found  # harm at any tick counts, however many are read at once
        if fresh:
            store.update(connection, row.id, judge=msgspec.to_builtins(state))
        return state, verdict

    def _verdict(self, row: Row, state: JudgeState) -> Verdict:
        spec = row.spec
        return judge.verdict(
            state,
            spec.analysis,
            steps=len(spec.steps),
            weight=spec.steps[row.step].weight / FULL,
            mirrored=spec.mirrored,
        )

    def _make(
        self,
        connection: sa.Connection,
        row: Row,
        place: Endpoint,
        move: Move,
        state: JudgeState,
    ) -> None:
        values: dict[str, object] = {
            "state": move.state.value,
            "step": move.step,
            "sentence": move.sentence,
        }
        if move.traffic is not None:
            if row.state is State.STEPPING:
                weight = row.spec.steps[row.step].weight / FULL
                state = judge.next_step(state, weight)
            routes, stable_id = _routes(row, move)
            values["route_revision"] = self._endpoints.set_routes(
                connection, place.id, routes, stable_version_id=stable_id
            )
            values |= {
                "step_at": now_us(),
                "applied_at": None,
                "judge": msgspec.to_builtins(state),
            }
        elif row.state is State.PAUSED:
            values["step_at"] = now_us()  # the pause doesn't count as waiting for a proof
        self._note(connection, row, move, values)

    def _end(self, connection: sa.Connection, row: Row, reason: str) -> None:
        """There is nothing left to move."""
        move = Move(State.ROLLED_BACK, row.step, reason)
        values = {"state": move.state.value, "step": move.step, "sentence": reason}
        self._note(connection, row, move, values)

    def _note(
        self, connection: sa.Connection, row: Row, move: Move, values: Mapping[str, object]
    ) -> None:
        store.update(connection, row.id, **values)
        if move.state in ENDED:
            store.update(connection, row.id, ended_at=now_us())
            registry_store.let_go(connection, row.to_version_id, f"rollout/{row.id}")
        store.add_move(connection, row.id, move.state, move.step, move.sentence, SYSTEM.name)
        details = {
            "rollout": row.id,
            "state": move.state.value,
            "step": move.step,
            "reason": move.sentence,
        }
        resource = Resource("endpoint", row.endpoint, row.owner_team)
        audit.record(connection, SYSTEM, "move-rollout", resource, details)


def _routes(row: Row, move: Move) -> tuple[list[Route], str | None]:
    """The routes that a move asks for, and the version that is then the stable one."""
    stable = row.from_version_id
    if move.traffic is Traffic.PROMOTED:
        return [Route(row.to_version_id, FULL)], row.to_version_id
    if stable is None:
        return [], None
    if move.traffic is Traffic.STABLE:
        return [Route(stable, FULL)], stable
    step = row.spec.steps[move.step]
    return [
        Route(stable, FULL - step.weight),
        Route(row.to_version_id, step.weight, step.shadow),
    ], stable


def _observed(
    row: Row,
    stable: Version | None,
    canary: Version,
    applied: bool,
    verdict: Verdict | None,
    state: JudgeState,
    load_errors: Mapping[int, str],
) -> Observed:
    now = now_us()
    since = (now - row.applied_at) / _SECOND if row.applied_at is not None else 0.0
    bake = (state.broken or state.lately) if row.state is State.BAKING else (0, 0)
    return Observed(
        state=row.state,
        step=row.step,
        step_seconds=since if applied else 0.0,
        waited_seconds=(now - row.step_at) / _SECOND,
        has_stable=stable is not None,
        version_status=canary.status,
        version_reason=canary.reason,
        load_error=load_errors.get(canary.index, ""),
        applied=applied,
        verdict=verdict,
        bake_requests=bake[0],
        bake_errors=bake[1],
        reason=row.sentence,
    )
