"""Gates that are asked for: one durable job each, cached by all that its verdict depends on.

A request names the gates of a version. Each verdict is kept under a digest of bundle, environment,
champion, data, settings and the check's own version; whoever asks for the same gets what is known.
A job may die anywhere: it runs again, and writes its verdict and audit event in one transaction.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Action, Principal, Resource, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.errors import Conflict, FleetError, InvalidInput, NotFound, Unavailable
from modelfleet.core.ids import digest, new_id
from modelfleet.core.jobs import JobRunner
from modelfleet.fleetfile.gates import UNTOLD, Approval, Gate, Named, digest_of, parse, parse_all
from modelfleet.gates import kinds, store
from modelfleet.gates.kinds.base import Case, Unknown
from modelfleet.gates.platform import PlatformAround, Rooms, Users, consumers_of, stable_of
from modelfleet.gates.store import GateRun, Request, Verdict, Wanted
from modelfleet.registry import Version, datasets
from modelfleet.registry.signature import Signature
from modelfleet.serving.lab import Deadline, TimedOut
from modelfleet.serving.progress import Progress

RUN_GATE = "run-gate"
"""Kind of the job"""
_MOST = 50
"""gates of a request"""
_HOUR_US = 3600 * 1_000_000


class Approvals(Protocol):
    """Who said yes; see `modelfleet.identity`."""

    def ask(
        self,
        connection: sa.Connection,
        actor: Principal,
        subject: str,
        digests: Mapping[str, str],
        *,
        role: str,
        quorum: int = 1,
        team: str = "*",
        sentence: str = "",
        not_by: Sequence[str] = (),
        expires_seconds: float = 0.0,
    ) -> str:
        """Ask people; what was asked already is not asked again."""

    def standing(
        self,
        connection: sa.Connection,
        subject: str,
        digests: Mapping[str, str],
        role: str,
        quorum: int,
        not_by: Sequence[str],
    ) -> tuple[str, str]:
        """waiting, approved, rejected or expired; and a sentence."""


@dataclass(frozen=True)
class GateState:
    gate: str
    kind: str
    blocking: bool
    state: str
    """queued, running, waiting (for people) or done"""
    progress: Progress | None
    reused: bool
    run: GateRun | None
    spec: Mapping[str, object]


@dataclass(frozen=True)
class GateRequest:
    id: str
    model: str
    version: str
    champion: str | None
    requested_by: str
    created_at: str
    gates: tuple[GateState, ...]

    @property
    def ended(self) -> bool:
        return all(one.run is not None for one in self.gates)

    @property
    def verdict(self) -> str:
        return verdict_of([(one.blocking, one.run) for one in self.gates])


def verdict_of(gates: Sequence[tuple[bool, GateRun | None]]) -> str:
    """Of all that block: fail, running, inconclusive, warn or pass, the first that holds of any."""
    blocking = [run for blocks, run in gates if blocks]
    found = {run.verdict if run else None for run in blocking}
    if Verdict.FAIL in found:
        return "fail"
    if None in found:
        return "running"
    for one in (Verdict.INCONCLUSIVE, Verdict.WARN):
        if one in found:
            return one.value
    return "pass"


class GateService:
    def __init__(self, rooms: Rooms, jobs: JobRunner, approvals: Approvals | None = None) -> None:
        """approvals: None where nobody can approve; such gates are inconclusive then."""
        self._rooms = rooms
        self._database = rooms.database
        self._registry = rooms.registry
        self._jobs = jobs
        self.approvals = approvals
        self._progress: dict[str, Progress] = {}

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
        against = self._champion(actor, version, champion)
        made = new_id()
        wanted = [self._wanted(connection, version, against, one, made, again) for one in named]
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
        self._jobs.enqueue(connection, RUN_GATE, _key(version.id, wanted), arguments)

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

    def _wanted(
        self,
        connection: sa.Connection,
        version: Version,
        champion: Version | None,
        named: Named,
        request: str,
        again: bool,
    ) -> Wanted:
        kind = kinds.find(named.kind)
        settled = _settled(connection, named.spec)
        entry: dict[str, object] = {
            named.kind: settled.model_dump(mode="json", exclude_defaults=True)
        }
        told = settled.model_dump(mode="json", exclude={"name", "blocking", "timeout"})
        inputs: dict[str, object] = {
            "kind": named.kind,
            "check": kind.version,
            "told": told,
            "candidate": self._identity(version),
            "data": _data_digest(connection, settled),
        }
        if "champion" in kind.uses:
            inputs["champion"] = self._identity(champion) if champion else None
        if "consumers" in kind.uses:
            known = consumers_of(self._rooms, version.model, version.info.signature)
            inputs["consumers"] = sorted(f"{one.kind} {one.name}" for one in known)
        if kind.uses & {"recorded", "moment"}:
            inputs["hour"] = now_us() // _HOUR_US
            inputs["champion"] = self._identity(champion) if champion else None
        base = digest(msgspec.json.encode(inputs, order="sorted"))
        known_run = store.find(connection, version.id, named.name, base)
        undecided = known_run is not None and known_run.verdict is Verdict.INCONCLUSIVE
        anew = again or undecided or named.kind == "approval"
        return Wanted(
            named.name,
            named.kind,
            entry,
            digest(f"{base}{request}".encode()) if anew else base,
            reused=known_run is not None and not anew,
            blocking=settled.blocking,
        )

    def _identity(self, version: Version) -> list[object]:
        variant = self._registry.serving_variant(version)
        return [variant.bundle_digest, version.environment_digest, variant.environment_digest]

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
            one.gate: self._approval(connection, request, one, checks)
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
        """Once all checks ended and none that blocks failed: people see what they approve."""
        checks = self._checks(connection, request)
        blocking = {one.gate for one in request.gates if one.blocking}
        failed = any(
            run.verdict is Verdict.FAIL for gate, run in checks.items() if run and gate in blocking
        )
        if self.approvals is None or failed or None in checks.values():
            return
        for one in request.gates:
            if one.kind == "approval":
                _, spec = parse(one.entry)
                assert isinstance(spec, Approval)
                self.approvals.ask(
                    connection,
                    SYSTEM,
                    subject_of(request, one),
                    approval_digests(version, request, checks),
                    role=spec.role,
                    quorum=spec.quorum,
                    team=version.owner_team,
                    sentence=f"{version.name} with the evidence of its gates.",
                    not_by=[request.requested_by, version.created_by],
                    expires_seconds=spec.expires,
                )

    def _approval(
        self,
        connection: sa.Connection,
        request: Request,
        wanted: Wanted,
        others: Mapping[str, GateRun | None],
    ) -> GateRun | None:
        _, spec = parse(wanted.entry)
        assert isinstance(spec, Approval)
        if self.approvals is None:
            sentence = "Nobody can approve here."
            return GateRun(wanted.gate, Verdict.INCONCLUSIVE, sentence, {}, kind="approval")
        version = self._version_of(request)
        digests = approval_digests(version, request, others)
        standing, sentence = self.approvals.standing(
            connection,
            subject_of(request, wanted),
            digests,
            spec.role,
            spec.quorum,
            [request.requested_by, version.created_by],
        )
        verdict = {
            "approved": Verdict.PASS,
            "rejected": Verdict.FAIL,
            "expired": Verdict.INCONCLUSIVE,
        }.get(standing)
        if verdict is None:
            return None
        evidence = {"facts": {"role": spec.role, "quorum": spec.quorum}, "digests": dict(digests)}
        return GateRun(wanted.gate, verdict, sentence, evidence, kind="approval")

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
        key = _key(request.version_id, wanted)
        state = "done"
        if run is None:
            job = None if wanted.kind == "approval" else self._jobs.status(key)
            state = "waiting" if wanted.kind == "approval" else job.status if job else "queued"
        return GateState(
            wanted.gate,
            wanted.kind,
            wanted.blocking,
            state if state in ("queued", "waiting", "done") else "running",
            self._progress.get(key),
            wanted.reused,
            run,
            wanted.told,
        )

    # Running -----------------------------------------------------------------------------------

    def run(self, arguments: Mapping[str, object]) -> None:
        """Handler of the job; running it again gives the same end."""
        wanted = msgspec.convert(arguments["wanted"], Wanted)
        version, champion = self._versions(arguments)
        if version is None:
            return  # deleted meanwhile
        with self._database.read() as connection:
            if store.find(connection, version.id, wanted.gate, wanted.input_digest):
                return  # the verdict was written, the job's end was not
        begun = time.monotonic()
        key = _key(version.id, wanted)
        try:
            found = self._check(version, champion, wanted, key)
        finally:
            self._progress.pop(key, None)
        seconds = round(time.monotonic() - begun, 3)
        self._keep(version, champion, wanted, replace(found, seconds=seconds))

    def give_up(self, arguments: Mapping[str, object], reason: str) -> None:
        """The job failed for good: that proves nothing about the version."""
        wanted = msgspec.convert(arguments["wanted"], Wanted)
        version, champion = self._versions(arguments)
        if version is not None:
            sentence = f"The check itself failed: {reason[:1000]}"
            failed = GateRun(wanted.gate, Verdict.INCONCLUSIVE, sentence, {})
            self._keep(version, champion, wanted, failed)

    def _versions(self, arguments: Mapping[str, object]) -> tuple[Version | None, Version | None]:
        one, other = arguments["version_id"], arguments["champion_id"]
        found = self._registry.versions_by_id([str(id_) for id_ in (one, other) if id_])
        return found.get(str(one)), found.get(str(other))

    def _check(
        self, version: Version, champion: Version | None, wanted: Wanted, key: str
    ) -> GateRun:
        _, spec = parse(wanted.entry)
        kind = kinds.find(wanted.kind)
        report = partial(self._progress.__setitem__, key)
        folder = Path(tempfile.gettempdir()) / f"modelfleet-gate-{digest(key.encode())[:16]}"
        shutil.rmtree(folder, ignore_errors=True)  # of a control plane that died over it
        folder.mkdir(mode=0o755)
        try:
            report(Progress("preparing"))
            candidate = self._rooms.subjects.of(version, report=report)
            against = None
            if champion is not None:
                against = champion, self._rooms.subjects.of(champion, report=report)
            deadline = Deadline.after(spec.timeout)
            around = PlatformAround(
                self._rooms, version, candidate, against, deadline, digest(key.encode())
            )
            case = Case(
                candidate,
                against[1] if against else None,
                f"{version.model} serves no other version.",
                around,
                self._rooms.lab,
                deadline,
                self._rooms.subjects.registered(version),
                folder,
                report,
            )
            try:
                return checked(kind, spec, case)
            finally:
                around.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _keep(
        self, version: Version, champion: Version | None, wanted: Wanted, found: GateRun
    ) -> None:
        run = replace(
            found,
            gate=wanted.gate,
            kind=wanted.kind,
            champion=champion.name if champion else "",
            spec=wanted.told,
        )
        resource = Resource("model", version.model, version.owner_team)
        details: dict[str, object] = {"version": version.version, "gate": wanted.gate}
        details |= {"verdict": run.verdict.value, "sentence": run.sentence}
        details |= {"evidence": evidence_digest(run)}
        with self._database.begin() as connection:
            store.save_in(connection, version.id, wanted.input_digest, [run])
            audit.record(connection, SYSTEM, "run-gate", resource, details)
            for one in store.requests_of(connection, version.id):
                if any(gate.input_digest == wanted.input_digest for gate in one.gates):
                    self._ask_people(connection, version, one)


def checked(kind: kinds.Kind, spec: Gate, case: Case) -> GateRun:
    """The verdict, also of a check that can't be made."""
    try:
        return kind.check(spec, case)
    except TimedOut:
        sentence = f"The check took longer than {spec.timeout:g} s."
        return GateRun(kind.name, Verdict.INCONCLUSIVE, sentence, {})
    except InvalidInput as error:
        hint = {"notes": [error.hint]} if error.hint else {}
        return GateRun(kind.name, Verdict.FAIL, error.message, hint)
    except Unavailable:
        raise  # the job is tried again
    except (Unknown, NotFound, Conflict) as error:
        hint = {"notes": [error.hint]} if error.hint else {}
        return GateRun(kind.name, Verdict.INCONCLUSIVE, error.message, hint)
    except FleetError as error:
        return GateRun(kind.name, Verdict.INCONCLUSIVE, error.message, {})


def named_of(gates: Sequence[object]) -> tuple[Named, ...]:
    """The gates of a list, or what is checked if it is empty. Raises `InvalidInput`."""
    if len(gates) > _MOST:
        raise InvalidInput(f"At most {_MOST} gates are asked for at a time.")
    try:
        return parse_all(list(gates) or list(UNTOLD))
    except ValueError as error:
        raise InvalidInput(str(error), hint="docs/gates.md explains every gate.") from error


def subject_of(request: Request, wanted: Wanted) -> str:
    """What an approval is about."""
    return f"gate/{request.id}/{wanted.gate}"


def evidence_digest(run: GateRun) -> str:
    told = [run.gate, run.verdict.value, run.sentence, dict(run.evidence), run.input_digest]
    return digest(msgspec.json.encode(told, order="sorted"))


def approval_digests(
    version: Version, request: Request, others: Mapping[str, GateRun | None]
) -> dict[str, str]:
    """What an approval binds: the bundle, what was asked, and the evidence so far."""
    runs = [evidence_digest(run) for _, run in sorted(others.items()) if run is not None]
    return {
        "bundle": version.bundle_digest,
        "spec": digest(msgspec.json.encode(request.gates, order="sorted")),
        "evidence": digest("\n".join(runs).encode()),
    }


def _key(version_id: str, wanted: Wanted) -> str:
    return f"gate/{version_id}/{wanted.gate}/{wanted.input_digest}"


def _settled(connection: sa.Connection, spec: Gate) -> Gate:
    """With `@latest` as the version that it is now. Raises `NotFound`."""
    reference = getattr(spec, "dataset", None)
    if not isinstance(reference, str) or digest_of(reference) is not None:
        return spec
    found = datasets.find_in(connection, reference)
    return spec.model_copy(update={"dataset": found.reference})


def _data_digest(connection: sa.Connection, spec: Gate) -> str | None:
    reference = getattr(spec, "dataset", None)
    if not isinstance(reference, str):
        return None
    return digest_of(reference) or datasets.find_in(connection, reference).sha256
