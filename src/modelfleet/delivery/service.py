"""Verbs of fleet files: plan, apply, remove, list, export."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.errors import FleetError, InvalidInput, NotAllowed
from modelfleet.core.ids import new_id
from modelfleet.delivery import objects
from modelfleet.delivery.apply import Rooms, Signed, carry_out, may_apply, take_away
from modelfleet.delivery.export import exported
from modelfleet.delivery.objects import FleetObject, Key
from modelfleet.delivery.order import in_order, last_first, references, users_of
from modelfleet.delivery.plan import Planner
from modelfleet.delivery.troubles import circle, troubles
from modelfleet.delivery.types import (
    CREATE,
    DELETE,
    NONE,
    ObjectPlan,
    Order,
    Plan,
    Result,
    Stale,
    Standing,
)
from modelfleet.delivery.wanted import Wanted, place_of, read
from modelfleet.delivery.world import World, look
from modelfleet.telemetry.evidence import EvidenceReader

MAX_OBJECTS = 20_000
_RECENT_SECONDS = 3600


class FleetFileService:
    def __init__(self, rooms: Rooms, evidence: EvidenceReader, replicas: int) -> None:
        self._rooms = rooms
        self._evidence = evidence
        self._replicas = replicas

    # Planning ----------------------------------------------------------------------------------

    def plan(
        self,
        actor: Principal,
        fleet: str,
        documents: Sequence[Any],
        *,
        stage: str = "",
        prune: bool = False,
        retry: bool = False,
    ) -> Plan:
        """What applying these documents would do. prune: objects of the fleet that are not among
        them would be removed. Raises `InvalidInput` for a document that is none."""
        if len(documents) > MAX_OBJECTS:
            raise InvalidInput(f"A fleet has at most {MAX_OBJECTS} documents.")
        wanted = [read(one) for one in documents]
        self._refuse_twice(wanted)
        for one in wanted:
            resource = Resource(one.key[0].lower(), one.key[1], one.document.metadata.owner)
            authorize(actor, Action.READ, resource)
        keys = {one.key for one in wanted}
        with self._rooms.database.read() as connection:
            last = objects.find(connection)
            gone = [
                one for key, one in last.items() if prune and one.fleet == fleet and key not in keys
            ]
            world = self._look(connection, wanted, [*gone, *(last[k] for k in keys if k in last)])
        self._refuse_unseen(actor, world, wanted, last)
        planner = Planner(
            world,
            last,
            fleet,
            self._replicas,
            frozenset(keys | set(last)),
            self._rates(),
            retry,
        )
        found = [planner.plan(one) for one in in_order(wanted)]
        wrong = [trouble for one in wanted for trouble in troubles(one, world, planner.known)]
        wrong += circle(wanted, last)
        found += [self._removal(one, world, last, keys) for one in last_first(gone)]
        return Plan(
            id=new_id(),
            fleet=fleet,
            stage=stage,
            objects=tuple(found),
            troubles=tuple(wrong),
            replicas=sum(one.replicas for one in found),
            memory=sum(one.memory or 0 for one in found),
        )

    def _look(
        self,
        connection: sa.Connection,
        wanted: Sequence[Wanted],
        gone: Collection[FleetObject],
        *,
        lineage: bool = True,
    ) -> World:
        models = {one.key[1] for one in wanted if one.key[0] == "Model"}
        models |= {name for one in wanted for name in references(one)} if lineage else set()
        models |= {one.name for one in gone if one.kind == "Model"}
        places = {one.place for one in wanted if one.key[0] == "Model"}
        places |= {place_of(one.document) for one in gone if one.kind == "Model"}
        pipelines = {one.key[1] for one in wanted if one.key[0] == "Pipeline"}
        pipelines |= {one.name for one in gone if one.kind == "Pipeline"}
        return look(connection, self._rooms.endpoints, models, places, pipelines, lineage=lineage)

    def _rates(self) -> dict[int, float]:
        """Requests a second of the last hour, by version index."""
        now = now_us()
        begin = now - _RECENT_SECONDS * 1_000_000
        counts: dict[int, int] = defaultdict(int)
        first = now
        for index, start, requests in self._evidence.pulse(begin, now):
            counts[index] += requests
            first = min(first, start)
        seconds = max((now - first) / 1e6, 60.0)
        return {index: count / seconds for index, count in counts.items()}

    def _refuse_twice(self, wanted: Sequence[Wanted]) -> None:
        seen: set[Key] = set()
        for one in wanted:
            if one.key in seen:
                raise InvalidInput(f"There are two documents of the {one.key[0]} {one.key[1]}.")
            seen.add(one.key)

    def _refuse_unseen(
        self,
        actor: Principal,
        world: World,
        wanted: Sequence[Wanted],
        last: Mapping[Key, FleetObject],
    ) -> None:
        """A plan tells what is there: of other teams' models only to those who may read them."""
        for one in wanted:
            kind, name = one.key
            teams = set()
            if kind == "Model" and name in world.models:
                teams.add(world.models[name].owner_team)
            if kind == "Pipeline" and name in world.pipelines:
                teams.add(world.pipelines[name].owner_team)
            if one.key in last:
                teams.add(last[one.key].owner_team)
            if kind == "Model" and one.place in world.endpoints:
                teams.add(world.endpoints[one.place].owner_team)
            for team in sorted(teams):
                authorize(actor, Action.READ, Resource(kind.lower(), name, team))

    def _removal(
        self,
        one: FleetObject,
        world: World,
        last: Mapping[Key, FleetObject],
        staying: Collection[Key],
    ) -> ObjectPlan:
        users = users_of(last.values(), staying)
        steps, warnings = [], []
        if one.kind == "Pipeline":
            steps.append("stop serving the pipeline")
        else:
            place = place_of(one.document)
            if place in world.endpoints:
                steps.append(f"delete the endpoint {place}: clients get 404")
            model = world.models.get(one.name)
            if model is not None:
                kept = f"its {model.versions} versions stay in the registry"
                steps.append(kept if model.versions else "delete the model, which has no version")
        if one.kind == "Model" and users.get(one.name):
            warnings.append(f"refused while it is used by {', '.join(users[one.name])}")
        return ObjectPlan(
            one.kind,
            one.name,
            DELETE,
            steps=tuple(steps),
            affected=tuple(world.affected(f"{one.kind.lower()} {one.name}")),
            warnings=tuple(warnings),
            generation=one.generation,
        )

    # Applying ----------------------------------------------------------------------------------

    def apply(
        self,
        actor: Principal,
        signed: Signed,
        orders: Sequence[Order],
        *,
        rollouts: bool = True,
        retry: bool = False,
    ) -> list[Result]:
        """Each object in a transaction of its own; one that can't be doesn't keep others back.

        Applying again does what is left. An object whose plan is not what was shown (its
        `fingerprint`) is a conflict, which names who applied what meanwhile. Raises `NotAllowed`
        if the caller may do nothing of it.
        """
        return _unless_forbidden(
            [self._one(actor, signed, order, rollouts=rollouts, retry=retry) for order in orders]
        )

    def _one(
        self, actor: Principal, signed: Signed, order: Order, *, rollouts: bool, retry: bool
    ) -> Result:
        wanted = read(order.document)
        kind, name = wanted.key
        try:
            with self._rooms.database.together() as connection:
                return self._settle(
                    connection, actor, signed, wanted, order, rollouts=rollouts, retry=retry
                )
        except FleetError as error:
            waiting = "serves no version yet" in error.message
            outcome = "conflict" if isinstance(error, Stale) else "refused"
            return Result(
                kind,
                name,
                "waiting" if waiting else outcome,
                error.message,
                error.hint,
                status=error.status,
            )

    def _settle(
        self,
        connection: sa.Connection,
        actor: Principal,
        signed: Signed,
        wanted: Wanted,
        order: Order,
        *,
        rollouts: bool,
        retry: bool,
    ) -> Result:
        kind, name = wanted.key
        last = objects.find(connection, [wanted.key])
        before = last.get(wanted.key)
        may_apply(actor, wanted, before)
        world = self._look(connection, [wanted], [before] if before else [], lineage=False)
        self._refuse_unseen(actor, world, [wanted], last)
        planner = Planner(world, last, signed.fleet, self._replicas, retry=retry)
        for trouble in troubles(wanted, world, (), references=False):
            where = f"{trouble.path}: " if trouble.path else ""
            raise InvalidInput(f"{where}{trouble.message}.", hint=trouble.hint)
        plan = planner.plan(wanted)
        if order.fingerprint and plan.fingerprint != order.fingerprint:
            if (
                before is not None
                and before.plan == signed.plan
                and before.document == wanted.plain
            ):
                return Result(kind, name, "unchanged", generation=before.generation)
            raise _stale(wanted, before, plan)
        if plan.action == NONE:
            move = plan.version
            blocked = move.sentence if move and move.state in ("held", "blocked", "missing") else ""
            return Result(kind, name, "unchanged", blocked, generation=plan.generation)
        done = carry_out(
            self._rooms, connection, actor, wanted, plan, world, before, signed, rollouts=rollouts
        )
        outcome = {"create": "created", "update": "updated", "record": "recorded"}[plan.action]
        move = plan.version
        message = move.sentence if move and move.state in ("held", "blocked", "missing") else ""
        return Result(
            kind, name, outcome, message,
            generation=done.generation, rollout=done.rollout, version=done.version,
        )  # fmt: skip

    # Removing ----------------------------------------------------------------------------------

    def remove(
        self, actor: Principal, signed: Signed, keys: Sequence[Key], generations: Mapping[Key, int]
    ) -> list[Result]:
        """Stop serving these objects, each in a transaction of its own, users before what they
        use. generations: those that the removal was planned for; another one is a conflict."""
        with self._rooms.database.read() as connection:
            known = objects.find(connection, keys)
        results = [
            Result(kind, name, "unchanged", "was not applied by a file")
            for kind, name in keys
            if (kind, name) not in known
        ]
        leaving = set(known)
        for one in last_first(known.values()):
            key = (one.kind, one.name)
            try:
                with self._rooms.database.together() as connection:
                    last = objects.find(connection)
                    found = last.get(key)
                    if found is None:
                        results.append(Result(*key, "unchanged"))
                        continue
                    if generations.get(key, found.generation) != found.generation:
                        raise Stale(f"{key[0]} {key[1]} is not as planned: {found.told}.")
                    world = self._look(connection, [], [found], lineage=False)
                    users = users_of(last.values(), set(last) - leaving)
                    take_away(self._rooms, connection, actor, found, world, users, signed)
                    results.append(Result(*key, "removed", generation=found.generation))
            except FleetError as error:
                leaving.discard(key)
                outcome = "conflict" if isinstance(error, Stale) else "refused"
                results.append(
                    Result(*key, outcome, error.message, error.hint, status=error.status)
                )
        return _unless_forbidden(results)

    # Reading -----------------------------------------------------------------------------------

    def applied(self, actor: Principal, fleet: str | None = None) -> list[FleetObject]:
        """What was applied, of teams that the caller may read."""
        with self._rooms.database.read() as connection:
            found = objects.find(connection, fleet=fleet)
        return [one for one in found.values() if actor.may(Action.READ, one.owner_team)]

    def standings(self, actor: Principal, fleet: str | None = None) -> list[Standing]:
        """What was applied, and whether it is still so: no files are needed for that."""
        known = self.applied(actor, fleet)
        wanted = {(one.kind, one.name): _readable(one) for one in known}
        typed = [one for one in wanted.values() if one is not None]
        with self._rooms.database.read() as connection:
            world = self._look(connection, typed, ())
        last = {(one.kind, one.name): one for one in known}
        found = []
        for one in known:
            document = wanted[(one.kind, one.name)]
            if document is None:
                found.append(
                    Standing(one, "unreadable", "an earlier release wrote it: apply again")
                )
                continue
            plan = Planner(world, last, one.fleet, self._replicas).plan(document)
            found.append(_standing(one, plan))
        return found

    def export(self, actor: Principal, names: Collection[str] = ()) -> list[dict[str, Any]]:
        """Documents of what is there now, applied by files or not."""
        return exported(self._rooms, actor, names)


def _readable(one: FleetObject) -> Wanted | None:
    try:
        return read(dict(one.document))
    except InvalidInput:
        return None


def _standing(one: FleetObject, plan: ObjectPlan) -> Standing:
    drift = [change.path for change in plan.changes if not change.recorded_only]
    if drift or plan.action == CREATE:
        said = ", ".join(drift[:5]) or "it is gone"
        return Standing(one, "drift", f"changed outside of files: {said}")
    move = plan.version
    if move is not None and move.state not in ("same", "missing"):
        said = move.sentence or f"serves {move.before or 'nothing'}, source means {move.after}"
        state = {"running": "stepping", "held": "rolled_back"}.get(move.state, "waiting")
        return Standing(one, state, said)
    if move is not None and move.state == "missing":
        return Standing(one, "waiting", move.sentence)
    return Standing(one, "ok")


def _unless_forbidden(results: list[Result]) -> list[Result]:
    """Raises `NotAllowed` if the caller may do nothing of all this."""
    if results and all(one.status == NotAllowed.status for one in results):
        raise NotAllowed(results[0].message, hint=results[0].hint)
    return results


def _stale(wanted: Wanted, before: FleetObject | None, plan: ObjectPlan) -> Stale:
    kind, name = wanted.key
    told = f"{before.told}" if before else "it was changed outside of files"
    fields = ", ".join(one.path for one in plan.changes[:5])
    return Stale(
        f"{kind} {name} is not what it was when the plan was made: {told}.",
        hint=f"Plan again{f'; now it would change {fields}' if fields else ''}.",
        generation=plan.generation,
    )
