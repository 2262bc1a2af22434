"""Gates that are asked for: one durable job each, cached by all that its verdict depends on.

A request names the gates of a version. Each verdict is kept under a digest of bundle, environment,
champion, data, settings and the check's own version; whoever asks for the same gets what is known.
A job may die anywhere: it runs again, and writes its verdict and audit event in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.core.ids import new_id
from modelfleet.core.jobs import JobRunner
from modelfleet.gates import people, store
from modelfleet.gates.platform import Rooms, Users, consumers_of, stable_of
from modelfleet.gates.requests import GateRequest, GateState
from modelfleet.gates.running import RUN_GATE, GateRunner, key_of
from modelfleet.gates.store import GateRun, Request, Wanted
from modelfleet.gates.wanting import check_reader, named_of, wanted_of
from modelfleet.identity import Approvals
from modelfleet.registry import Version
from modelfleet.registry.signature import Signature


class GateService:
    def __init__(self, rooms: Rooms, jobs: JobRunner, approvals: Approvals | None = None) -> None:
        """approvals: None where nobody can approve; such gates are inconclusive then."""
        self._rooms = rooms
        self._database = rooms.database
        self._registry = rooms.registry
        self._jobs = jobs
        self.approvals = approvals
        self._runner = GateRunner(rooms, self._ask_people)
        self.run = self._runner.run
        self.give_up = self._runner.give_up

    # Asking ------------------------------------------------------------------------------------

    def request(
        self,
        actor: Principal,
        model: str,
        reference: str,
        gates: Sequence[object],
        champion: str | None = None,
        *,
        again: bool = False,
    ) -> str:
        """Queue the gates of a version; the request's id. champion: a version, `none`, or None for
        the one that serves. again: don't take verdicts that are known.

        Raises `InvalidInput` for gates that can't be, `NotFound` for data that are not there,
        `Conflict` unless the version is ready.
        """
        with self._database.begin() as connection:
            return self.request_in(
                connection, actor, model, reference, gates, champion, again=again
            )

    def request_in(
        self,
        connection: sa.Connection,
        actor: Principal,
        model: str,
        reference: str,
        gates: Sequence[object],
        champion: str | None = None,
        *,
        again: bool = False,
    ) -> str:
        """The same in the caller's transaction."""
        version = self._registry.get_version(actor, model, reference)
        resource = Resource("model", version.model, version.owner_team)
        authorize(actor, Action.RUN_BATCH, resource)
        if version.status != "ready":
            raise Conflict(
                f"{version.name} is {version.status}: gates look at versions that are ready.",
                hint=f"modelfleet versions prepare {version.model} {version.version}",
            )
        named = named_of(gates)
        check_reader(connection, actor, named)
        against = self._champion(actor, version, champion)
        made = new_id()
        wanted = [
            wanted_of(self._rooms, connection, version, against, one, made, again) for one in named
        ]
        found = Request(
            made,
            version.id,
            against.id if against else None,
            tuple(wanted),
            actor.id,
            actor.name,
            "",
        )
        store.add_request(connection, found)
        for one in wanted:
            if not one.reused and one.kind != "approval":
                self._enqueue(connection, version, against, one)
        self._ask_people(connection, version, found)
        details = {
            "version": version.version,
            "gates": [one.gate for one in wanted],
            "champion": against.version if against else None,
            "request": made,
        }
        audit.record(connection, actor, "request-gates", resource, details)
        return made

    def _enqueue(
        self,
        connection: sa.Connection,
        version: Version,
        champion: Version | None,
        wanted: Wanted,
    ) -> None:
        arguments = {
            "version_id": version.id,
            "champion_id": champion.id if champion else None,
            "wanted": msgspec.to_builtins(wanted),
        }
        self._jobs.enqueue(connection, RUN_GATE, key_of(version.id, wanted), arguments)

    def _champion(self, actor: Principal, version: Version, wanted: str | None) -> Version | None:
        if wanted == "none":
            return None
        if wanted is not None:
            found = self._registry.get_version(actor, version.model, wanted)
        else:
            serving = stable_of(self._rooms, version.model)
            if serving is None or serving.id == version.id:
                return None
            found = serving
        if found.id == version.id:
            raise InvalidInput(f"{version.name} can't be its own champion.")
        if found.status != "ready":
            raise Conflict(f"The champion {found.name} is {found.status}.")
        return found

    # Answers -----------------------------------------------------------------------------------

    def get(self, actor: Principal, request: str) -> GateRequest:
        with self._database.read() as connection:
            found = store.find_request(connection, request)
            if found is None:
                raise NotFound(f"There is no request of gates {request[:40]}.")
            version = self._version_of(found)
            authorize(actor, Action.READ, Resource("model", version.model, version.owner_team))
            return self._shown(connection, found, version)

    def users(self, actor: Principal, model: str, candidate: Signature) -> Users:
        """Who would have to go on with a candidate that need not be registered yet."""
        found = self._registry.get_model(actor, model)
        champion = stable_of(self._rooms, found.name)
        return Users(champion, consumers_of(self._rooms, found.name, candidate))

    def requests(self, actor: Principal, model: str, reference: str) -> list[GateRequest]:
        """Of a version, newest first."""
        version = self._registry.get_version(actor, model, reference)
        with self._database.read() as connection:
            found = store.requests_of(connection, version.id)
            return [self._shown(connection, one, version) for one in found]

    def state(self, connection: sa.Connection, request: str) -> dict[str, GateRun | None]:
        """Verdicts by gate; None where there is none yet. Raises `NotFound`."""
        found = store.find_request(connection, request)
        if found is None:
            raise NotFound(f"There is no request of gates {request[:40]}.")
        return self._runs(connection, found)

    def standing(
        self, connection: sa.Connection, request: str
    ) -> dict[str, tuple[bool, GateRun | None]]:
        """The same, with whether each gate blocks."""
        found = store.find_request(connection, request)
        if found is None:
            raise NotFound(f"There is no request of gates {request[:40]}.")
        runs = self._runs(connection, found)
        return {one.gate: (one.blocking, runs[one.gate]) for one in found.gates}

    def _runs(self, connection: sa.Connection, request: Request) -> dict[str, GateRun | None]:
        checks = self._checks(connection, request)
        return {
            one.gate: people.standing(
                self.approvals, connection, self._version_of(request), request, one, checks
            )
            if one.kind == "approval"
            else checks[one.gate]
            for one in request.gates
        }

    def _checks(self, connection: sa.Connection, request: Request) -> dict[str, GateRun | None]:
        """Without approvals."""
        return {
            one.gate: store.find(connection, request.version_id, one.gate, one.input_digest)
            for one in request.gates
            if one.kind != "approval"
        }

    def _ask_people(self, connection: sa.Connection, version: Version, request: Request) -> None:
        checks = self._checks(connection, request)
        people.ask(self.approvals, connection, version, request, checks)

    def _version_of(self, request: Request) -> Version:
        for one in self._registry.versions_by_id([request.version_id]).values():
            return one
        raise NotFound("The version was deleted.")

    def _shown(self, connection: sa.Connection, request: Request, version: Version) -> GateRequest:
        runs = self._runs(connection, request)
        champions = self._registry.versions_by_id(
            [request.champion_id] if request.champion_id else []
        )
        return GateRequest(
            request.id,
            version.model,
            version.version,
            next((one.version for one in champions.values()), None),
            request.requested_by,
            request.created_at,
            tuple(self._gate_state(request, one, runs[one.gate]) for one in request.gates),
        )

    def _gate_state(self, request: Request, wanted: Wanted, run: GateRun | None) -> GateState:
        key = key_of(request.version_id, wanted)
        state = "done"
        if run is None:
            job = None if wanted.kind == "approval" else self._jobs.status(key)
            state = "waiting" if wanted.kind == "approval" else job.status if job else "queued"
        return GateState(
            wanted.gate,
            wanted.kind,
            wanted.blocking,
            state if state in ("queued", "waiting", "done") else "running",
            self._runner.progress.get(key),
            wanted.reused,
            run,
            wanted.told,
        )
