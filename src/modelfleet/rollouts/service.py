"""Verbs of rollouts. How they move by themselves stands in `rollouts.advance`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from modelfleet.core.ids import new_id
from modelfleet.identity.approvals import Approval, Approvals
from modelfleet.identity.store import find_principal
from modelfleet.lineage import feeds_between
from modelfleet.registry import RegistryService, Version, datasets
from modelfleet.registry import store as registry_store
from modelfleet.registry.tables import model_version
from modelfleet.rollouts import freezes, groups, judge, store, windows
from modelfleet.rollouts.advance import Advancer, Gatekeeper
from modelfleet.rollouts.judging import TickSource
from modelfleet.rollouts.moving import Mover
from modelfleet.rollouts.plan import Preview, Spec
from modelfleet.rollouts.steering import SteeringVerbs, resource_of, said
from modelfleet.rollouts.step import (
    ENDED,
    UNMOVED,
    Desired,
    Move,
    State,
    Traffic,
)
from modelfleet.rollouts.store import Arm, Evidence, Notes, Rollout, Row
from modelfleet.rollouts.tables import rollout
from modelfleet.serving.endpoints import Endpoint, EndpointService

__all__ = ["Details", "RolloutService", "TickSource", "Watched"]


@dataclass(frozen=True)
class Details:
    rollout: Rollout
    moves: Sequence[store.Move]
    evidence: Sequence[Evidence]
    approvals: Sequence[Approval] = ()
    """what people were asked, newest first"""
    group: Sequence[Rollout] = ()
    """the others that move with it"""


@dataclass(frozen=True)
class Watched:
    """What the collector must count for a rollout: version indexes."""

    stable: int
    canary: int
    endpoint: str
    mirrored: bool
    scope: str = ""
    """the rollout, if its clients stick to versions and so count once"""


@dataclass(frozen=True)
class Member:
    """One rollout of a group."""

    model: str
    version: str
    endpoint: str = ""
    """defaults to the model's name"""


class RolloutService(SteeringVerbs):
    def __init__(
        self,
        database: Database,
        registry: RegistryService,
        endpoints: EndpointService,
        ticks: TickSource,
        *,
        approvals: Approvals | None = None,
        gatekeeper: Gatekeeper | None = None,
    ) -> None:
        super().__init__(database)
        self._registry = registry
        self._endpoints = endpoints
        self._approvals = approvals or Approvals(database)
        self._gatekeeper = gatekeeper
        self._mover = Mover(endpoints, self._approvals)
        self._advancer = Advancer(database, registry, endpoints, ticks, self._approvals, gatekeeper)

    # Beginning ---------------------------------------------------------------------------------

    def start(
        self,
        actor: Principal,
        endpoint_name: str,
        model: str,
        version: str,
        spec: Spec,
        *,
        supersede: bool = False,
    ) -> Rollout:
        """Begin to move an endpoint to a version. The endpoint is made if it is new.

        Of an A/B/n test the arms name the versions. supersede: a rollout that runs there ends, its
        traffic goes back, and this one takes over.
        """
        arms = self._arms(actor, model, version, spec)
        self._check_schedule(spec)
        with self._database.begin() as connection:
            made = self._start(connection, actor, endpoint_name, model, arms, spec, supersede)
            return self._shown(connection, made)

    def start_group(
        self, actor: Principal, members: Sequence[Member], spec: Spec, *, supersede: bool = False
    ) -> Sequence[Rollout]:
        """Begin rollouts that move as one, in the order in which the models use each other."""
        found = [self._arms(actor, one.model, one.version, spec) for one in members]
        names = [one.endpoint or one.model for one in members]
        for name, (target, *_) in zip(names, found, strict=True):
            authorize(actor, Action.ROLLOUT, Resource("endpoint", name, target.owner_team))
        if not 2 <= len(members) <= 50 or spec.arms:
            raise InvalidInput("A group has 2 to 50 rollouts, none of them an A/B/n test.")
        if len(set(names)) != len(names):
            raise InvalidInput("An endpoint is in the group twice.")
        self._check_schedule(spec)
        targets = dict(zip(names, found, strict=True))
        with self._database.begin() as connection:
            uses = self._uses(connection, targets)
            group, ids = new_id(), dict[str, str]()
            for name in groups.in_order(uses):
                arms = targets[name]
                ids[name] = self._start(
                    connection,
                    actor,
                    name,
                    arms[0].model,
                    arms,
                    spec,
                    supersede,
                    group=group,
                    after=[ids[used] for used in uses[name]],
                )
            return [self._shown(connection, one) for one in ids.values()]

    def _uses(
        self, connection: sa.Connection, targets: Mapping[str, Sequence[Version]]
    ) -> Mapping[str, Sequence[str]]:
        """Which endpoints of the group each uses, by the lineage of models and new versions."""
        found: dict[str, list[str]] = {}
        for name, (target, *_) in targets.items():
            feeding = feeds_between(connection, target.model, target.name)
            found[name] = [
                other
                for other, (one, *_) in targets.items()
                if other != name and one.model in feeding
            ]
        return found

    def _arms(self, actor: Principal, model: str, version: str, spec: Spec) -> Sequence[Version]:
        wanted = [one.version for one in spec.arms] or [version]
        found = [self._registry.get_version(actor, model, one) for one in wanted]
        for one in found:
            if one.status == "failed":
                raise Conflict(f"{one.name} is not fit to serve: {one.reason}")
        if len({one.id for one in found}) != len(found):
            raise InvalidInput("Two arms of the test are the same version.")
        if spec.gates and self._gatekeeper is None:
            raise Unavailable("Nothing here can check gates.")
        return found

    def _check_schedule(self, spec: Spec) -> None:
        windows.check_possible(
            now_us(), not_before=spec.not_before, windows=spec.windows, freezes=spec.freeze
        )

    def _start(
        self,
        connection: sa.Connection,
        actor: Principal,
        endpoint_name: str,
        model: str,
        targets: Sequence[Version],
        spec: Spec,
        supersede: bool,
        *,
        group: str = "",
        after: Sequence[str] = (),
        retry_of: Row | None = None,
    ) -> str:
        place = self._place(connection, actor, endpoint_name, model)
        resource = Resource("endpoint", place.name, place.owner_team)
        authorize(actor, Action.ROLLOUT, resource)
        self._check_people(connection, spec)
        _check_data(connection, actor, spec)
        place = self._make_way(connection, actor, place, supersede)
        for one in targets:
            if place.stable_version_id == one.id:
                raise Conflict(f"{place.name} serves {one.name} already.")
        if spec.arms and place.stable_version_id is None:
            raise Conflict(f"{place.name} serves nothing yet that arms could be compared with.")
        rollout_id, now = new_id(), now_us()
        shares = [one.weight for one in spec.arms] or [0]
        arms = [Arm(one.id, share) for one, share in zip(targets, shares, strict=True)]
        names = ", ".join(one.name for one in targets)
        waits = self._waits_at_first(connection, spec, place)
        connection.execute(
            sa.insert(rollout).values(
                id=rollout_id,
                endpoint_id=place.id,
                endpoint=place.name,
                owner_team=place.owner_team,
                from_version_id=place.stable_version_id,
                to_version_id=targets[0].id,
                spec=store.plain(spec),
                state=State.PENDING.value,
                desired=Desired.RUN.value,
                step=0,
                sentence="Waits for the version to be ready.",
                route_revision=place.revision,
                step_at=now,
                judge=store.plain([judge.begin(spec.analysis)] * len(arms)),
                actor=actor.name,
                started_at=now,
                attempt=retry_of.attempt + 1 if retry_of else 1,
                retry_of=retry_of.id if retry_of else "",
                group_id=group,
                after=list(after),
                arms=store.plain(arms),
                waits=waits,
            )
        )
        for one in targets:
            registry_store.hold(connection, one.id, f"rollout/{rollout_id}")
        sentence = f"{spec.strategy.value} to {names}"
        store.add_move(connection, rollout_id, State.PENDING, 0, sentence, actor.name)
        details: dict[str, object] = {"rollout": rollout_id, "to": names}
        details |= {"strategy": spec.strategy.value}
        details |= {"group": group} if group else {}
        details |= {"retry_of": retry_of.id} if retry_of else {}
        audit.record(connection, actor, "start-rollout", resource, details)
        return rollout_id

    def _waits_at_first(self, connection: sa.Connection, spec: Spec, place: Endpoint) -> str:
        known = freezes.current(connection)
        return freezes.blocked(spec, Notes(), known, place.owner_team, place.name, now_us())

    def _check_people(self, connection: sa.Connection, spec: Spec) -> None:
        """Callers that previews name are there."""
        named: list[Preview] = [one.preview for one in spec.steps if one.preview]
        named += [rule for arm in spec.arms for rule in arm.rules]
        for one in named:
            if one.caller and find_principal(connection, one.caller) is None:
                raise InvalidInput(f"There is no principal {one.caller[:120]}.")

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

    def _make_way(
        self, connection: sa.Connection, actor: Principal, place: Endpoint, supersede: bool
    ) -> Endpoint:
        """Of two rollouts of an endpoint one must end, and be told so."""
        running = store.active_of(connection, place.id)
        if running is None:
            return place
        if not supersede:
            raise Conflict(
                f"{place.name} is being rolled out already.",
                hint=f"Wait for it, abort it (modelfleet rollouts abort {running.id}), or start "
                "this one with --supersede.",
                rollout=running.id,
            )
        if running.group_id:
            raise Conflict(
                f"{place.name} is being rolled out in a group.",
                hint=f"Abort that one: modelfleet rollouts abort {running.id}",
                rollout=running.id,
            )
        resource = Resource("endpoint", place.name, place.owner_team)
        authorize(actor, Action.ROLL_BACK, resource)
        moved = running.state not in UNMOVED
        move = Move(
            State.SUPERSEDED,
            running.step,
            f"Another rollout of {actor.name} took over.",
            Traffic.STABLE if moved and running.from_version_id else None,
        )
        self._mover.make(connection, running, move, (), actor=actor)
        return self._endpoints.find(connection, place.id)

    def retry(self, actor: Principal, rollout_id: str) -> Rollout:
        """The same again: a new attempt with an id and a judge of its own."""
        with self._database.begin() as connection:
            old = self._row(connection, rollout_id)
            authorize(actor, Action.ROLLOUT, resource_of(old))
            if old.state not in ENDED or old.state is State.SUCCEEDED:
                hint = "" if old.state is State.SUCCEEDED else "Abort it first."
                raise Conflict(f"The rollout is {said(old.state)}, not failed.", hint=hint)
            if old.group_id:
                raise Conflict("A rollout of a group is not tried again alone.")
            condition = model_version.c.id.in_([arm.version_id for arm in old.arms])
            known = {one.id: one for one in registry_store.versions(connection, condition)}
            if len(known) < len(old.arms):
                raise Conflict("A version of this rollout was deleted.")
            targets = [known[arm.version_id] for arm in old.arms]
            made = self._start(
                connection,
                actor,
                old.endpoint,
                targets[0].model,
                targets,
                old.spec,
                False,
                retry_of=old,
            )
            return self._shown(connection, made)

    # Reading -----------------------------------------------------------------------------------

    def get(self, actor: Principal, rollout_id: str, ticks: int = 600) -> Details:
        with self._database.read() as connection:
            found = store.shown(connection, rollout.c.id == rollout_id)
            if not found:
                raise NotFound(f"There is no rollout {rollout_id}.")
            one = found[0]
            authorize(actor, Action.READ, Resource("endpoint", one.endpoint, one.owner_team))
            same = sa.and_(rollout.c.group_id == one.group, rollout.c.id != one.id)
            details = Details(
                one,
                store.moves(connection, rollout_id),
                store.evidence_of(connection, rollout_id, ticks),
                group=store.shown(connection, same, 50) if one.group else (),
            )
        asked = self._approvals.list(actor, subject=f"rollout/{rollout_id}/")
        return replace(details, approvals=asked)

    def list(
        self,
        actor: Principal,
        *,
        endpoint: str | None = None,
        group: str | None = None,
        active_only: bool = False,
        limit: int = 100,
    ) -> Sequence[Rollout]:
        """Newest first."""
        condition = rollout.c.endpoint == endpoint if endpoint else sa.true()
        if active_only:
            condition = sa.and_(condition, rollout.c.ended_at.is_(None))
        if group:
            condition = sa.and_(condition, rollout.c.group_id == group)
        teams = actor.teams(Action.READ)
        if teams is not None:
            condition = sa.and_(condition, rollout.c.owner_team.in_(sorted(teams)))
        with self._database.read() as connection:
            return store.shown(connection, condition, limit)

    # For the reconciler ------------------------------------------------------------------------

    def active(self) -> Sequence[Row]:
        """All that run, oldest first."""
        return self._advancer.rows()

    def advance(self, load_errors: Mapping[int, str]) -> int:
        """One look at all that run; how many were written. load_errors: by version index."""
        return self._advancer.round(load_errors)

    def watched(
        self,
        rows: Sequence[Row],
        versions: Mapping[str, Version],
        sticky: Collection[str] = (),
    ) -> Sequence[Watched]:
        """The pairs of versions that get judge ticks. sticky: ids of endpoints whose clients stick
        to versions."""
        found = []
        for row in rows:
            stable = versions.get(row.from_version_id or "")
            if stable is None or row.state in UNMOVED:
                continue
            found += [
                Watched(
                    stable.index,
                    versions[arm.version_id].index,
                    row.endpoint,
                    row.spec.mirrored,
                    row.id if row.endpoint_id in sticky and _splits(row) else "",
                )
                for arm in row.arms
                if not arm.out
            ]
        return found


def _splits(row: Row) -> bool:
    """Whether clients have been divided among versions: who came before is yet to be counted."""
    if row.state is State.BAKING:
        return True
    divided = [number for number, one in enumerate(row.spec.plan) if one.weight > 0]
    if not divided or row.step < divided[0]:
        return False
    return row.step > divided[0] or row.applied_at is not None


def _check_data(connection: sa.Connection, actor: Principal, spec: Spec) -> None:
    """Programs of gates read their data: whoever names a data set must be allowed to. One that is
    not there fails its gate."""
    for told in (one for entry in spec.gates for one in entry.values()):
        reference = told.get("dataset") if isinstance(told, Mapping) else None
        if isinstance(reference, str):
            with suppress(NotFound, InvalidInput):
                datasets.read_in(connection, actor, reference)
