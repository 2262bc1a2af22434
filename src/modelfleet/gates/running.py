"""The jobs of gates: each check in surroundings of its own, its verdict kept once."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Resource
from modelfleet.core.errors import Conflict, FleetError, InvalidInput, NotFound, Unavailable
from modelfleet.core.ids import digest
from modelfleet.fleetfile.gates import Gate, parse
from modelfleet.gates import kinds, store
from modelfleet.gates.kinds.base import Case, Unknown
from modelfleet.gates.people import evidence_digest
from modelfleet.gates.platform import PlatformAround, Rooms
from modelfleet.gates.store import GateRun, Request, Verdict, Wanted
from modelfleet.registry import Version
from modelfleet.serving.lab import Deadline, TimedOut
from modelfleet.serving.progress import Progress

RUN_GATE = "run-gate"
"""Kind of the job"""
Kept = Callable[[sa.Connection, Version, Request], None]
"""told of each request that a new verdict belongs to, in the verdict's transaction"""


class GateRunner:
    def __init__(self, rooms: Rooms, kept: Kept) -> None:
        self._rooms = rooms
        self._database = rooms.database
        self._registry = rooms.registry
        self._kept = kept
        self.progress: dict[str, Progress] = {}
        """of what runs here, by key"""

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
        key = key_of(version.id, wanted)
        try:
            found = self._check(version, champion, wanted, key)
        finally:
            self.progress.pop(key, None)
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
        report = partial(self.progress.__setitem__, key)
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
                first=champion is None,
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
                    self._kept(connection, version, one)


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


def key_of(version_id: str, wanted: Wanted) -> str:
    return f"gate/{version_id}/{wanted.gate}/{wanted.input_digest}"
