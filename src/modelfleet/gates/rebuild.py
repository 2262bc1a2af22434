"""Reproducing a version: its environment made again from the lock, its golden inputs asked again.

The fresh environment stands beside the one in use and goes when it was asked; both answer confined,
from the same bundle. What came of it is a gate run of the version, and an audit event.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Action, Principal, Resource, authorize
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.core.ids import digest, new_id
from modelfleet.core.jobs import JobRunner
from modelfleet.core.layout import Layout
from modelfleet.gates import store
from modelfleet.gates.golden import GATE, ask, judge
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.gates.subjects import Subjects
from modelfleet.registry import Environment, RegistryService, Variant, Version
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.lab import Deadline, Lab, TimedOut
from modelfleet.serving.progress import Progress, Report

REBUILD = "rebuild-version"
"""Kind of the job; its arguments are `version_id` and `rebuild`."""
_SECONDS = 600
"""for a model to load and answer"""


@dataclass(frozen=True)
class Rebuild:
    id: str
    model: str
    version: str
    state: str
    """queued, running, equal, different or failed"""
    progress: Progress | None
    result: GateRun | None
    """None until it ended"""


class RebuildService:
    def __init__(
        self,
        layout: Layout,
        database: Database,
        registry: RegistryService,
        jobs: JobRunner,
        environments: EnvironmentBuilder,
        subjects: Subjects,
        lab: Lab,
    ) -> None:
        self._layout = layout
        self._database = database
        self._registry = registry
        self._jobs = jobs
        self._environments = environments
        self._subjects = subjects
        self._lab = lab
        self._progress: dict[str, Progress] = {}

    def request(self, actor: Principal, model: str, reference: str) -> Rebuild:
        """Queue it. Raises `Conflict` unless the version is ready and its files are here."""
        version = self._registry.get_version(actor, model, reference)
        resource = Resource("model", version.model, version.owner_team)
        authorize(actor, Action.RUN_BATCH, resource)
        self._source(version)
        made = new_id()
        with self._database.begin() as connection:
            arguments = {"version_id": version.id, "rebuild": made}
            self._jobs.enqueue(connection, REBUILD, f"{REBUILD}/{made}", arguments)
            details = {"version": version.version, "rebuild": made}
            audit.record(connection, actor, "request-rebuild", resource, details)
        return self._shown(version, made)

    def get(self, actor: Principal, model: str, reference: str, rebuild: str) -> Rebuild:
        return self._shown(self._registry.get_version(actor, model, reference), rebuild)

    def run(self, arguments: Mapping[str, object]) -> None:
        """Handler of the job; running it again gives the same end."""
        found = self._registry.versions_by_id([str(arguments["version_id"])])
        for version in found.values():  # deleted meanwhile: nothing to do
            made = str(arguments["rebuild"])
            try:
                result = self._rebuild(version, made, partial(self._progress.__setitem__, made))
            except (InvalidInput, NotFound, Conflict, TimedOut) as error:
                result = _failed(made, error.message)
            finally:
                self._progress.pop(made, None)
            self._keep(version, made, result)

    def give_up(self, arguments: Mapping[str, object], reason: str) -> None:
        made = str(arguments["rebuild"])
        for version in self._registry.versions_by_id([str(arguments["version_id"])]).values():
            self._keep(version, made, _failed(made, reason))

    def _source(self, version: Version) -> tuple[Variant, Environment]:
        if version.status == "external":
            raise Conflict(
                f"The files of {version.name} are at {version.source_uri}, not here.",
                hint="Import the model to rebuild it.",
            )
        variants = self._registry.variants([version.id]).get(version.id, ())
        source = next((one for one in variants if one.kind == "source"), None)
        if version.status != "ready" or source is None or source.environment_digest is None:
            raise Conflict(
                f"{version.name} is {version.status}: there is no lock to rebuild it from.",
                hint=f"modelfleet versions prepare {version.model} {version.version}",
            )
        return source, self._registry.get_environment(source.environment_digest)

    def _rebuild(self, version: Version, made: str, report: Report) -> GateRun:
        source, environment = self._source(version)
        begun = time.monotonic()
        present = self._environments.python(environment, report)
        place = self._layout.environment(f"{environment.digest}-rebuild-{made}")
        shutil.rmtree(place, ignore_errors=True)  # of a control plane that died over it
        try:
            building = time.monotonic()
            fresh = self._environments.again(environment, place, report)
            build_s = time.monotonic() - building
            report(Progress("running the golden inputs"))
            subject = self._subjects.of(version, source, report)
            sides = [
                ask(self._lab, subject, Deadline.after(_SECONDS), python=python)
                for python in (fresh, present)
            ]
        finally:
            shutil.rmtree(place, ignore_errors=True)
        evidence = {
            "rebuild": made,
            "lock": environment.digest,
            "bundle": source.bundle_digest,
            "build_s": round(build_s, 3),
            "seconds": round(time.monotonic() - begun, 3),
        }
        return judge(sides[0], sides[1], evidence)

    def _keep(self, version: Version, made: str, result: GateRun) -> None:
        resource = Resource("model", version.model, version.owner_team)
        details: dict[str, object] = {"version": version.version, "sentence": result.sentence}
        details |= {"rebuild": made, "verdict": result.verdict.value}
        with self._database.begin() as connection:
            store.save_in(connection, version.id, digest(made.encode()), [result])
            audit.record(connection, SYSTEM, "rebuild-version", resource, details)

    def _shown(self, version: Version, made: str) -> Rebuild:
        runs = store.list_runs(self._database, version.id)
        mine = [r for r in runs if r.gate == GATE and r.evidence.get("rebuild") == made]
        if mine:
            state = str(mine[-1].evidence["state"])
            return Rebuild(made, version.model, version.version, state, None, mine[-1])
        job = self._jobs.status(f"{REBUILD}/{made}")
        if job is None or job.arguments.get("version_id") != version.id:
            raise NotFound(f"{version.name} has no rebuild {made[:40]}.")
        state = job.status if job.status in ("queued", "running") else "running"
        progress = self._progress.get(made)
        return Rebuild(made, version.model, version.version, state, progress, None)


def _failed(made: str, reason: str) -> GateRun:
    evidence = {"rebuild": made, "state": "failed"}
    return GateRun(GATE, Verdict.FAIL, f"It can't be rebuilt: {reason[:2000]}", evidence)
