"""Reproducing a version: its environment made again from the lock, its golden inputs asked again.

The fresh environment stands beside the one in use and goes when it was asked; both answer confined,
from the same bundle. What came of it is a gate run of the version, and an audit event.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Action, Principal, Resource, authorize
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.core.ids import digest, new_id
from modelfleet.core.jobs import JobRunner
from modelfleet.core.layout import Layout
from modelfleet.gates import store
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.registry import Environment, RegistryService, Variant, Version
from modelfleet.serving.beside import Beside
from modelfleet.serving.beside import environment as process_environment
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.progress import Progress, Report

REBUILD = "rebuild-version"
"""Kind of the job; its arguments are `version_id` and `rebuild`."""
GATE = "rebuild"
_MODULE = "modelfleet_worker.golden"
_SECONDS = 600
"""for a model to load and answer"""
_LARGEST = 512 * 2**20
"""bytes of an answer"""


class Answer(msgspec.Struct, frozen=True):
    """What `modelfleet_worker.golden` says before the arrays."""

    outputs: dict[str, str] = {}
    rows: int = 0
    python: str = ""
    packages: dict[str, str] = {}
    load_s: float = 0.0
    call_s: float = 0.0
    made_up: bool = False
    error: str = ""


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
        beside: Beside,
    ) -> None:
        self._layout = layout
        self._database = database
        self._registry = registry
        self._jobs = jobs
        self._environments = environments
        self._beside = beside
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
            except (InvalidInput, NotFound, Conflict) as error:
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
            sides = [self._ask(version, source, python) for python in (fresh, present)]
        finally:
            shutil.rmtree(place, ignore_errors=True)
        evidence = {
            "rebuild": made,
            "lock": environment.digest,
            "bundle": source.bundle_digest,
            "build_s": round(build_s, 3),
            "seconds": round(time.monotonic() - begun, 3),
        }
        return _judge(sides[0], sides[1], evidence)

    def _ask(
        self, version: Version, source: Variant, python: Path
    ) -> tuple[Answer, dict[str, np.ndarray]]:
        """What the version answers there. Raises `InvalidInput` with the model's complaint."""
        program = self._beside.program(version, _MODULE, variant=source, python=python)
        with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said:
            try:
                done = subprocess.run(
                    program.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=told,
                    stderr=said,
                    timeout=_SECONDS,
                    env=process_environment(self._layout.worker_package),
                    cwd=tempfile.gettempdir(),
                )
            except subprocess.TimeoutExpired as error:
                raise InvalidInput(f"The golden inputs took over {_SECONDS} s.") from error
            if told.tell() > _LARGEST:
                raise InvalidInput("The answer to the golden inputs is too large.")
            told.seek(0)
            line, arrays = told.readline(), told.read()
            said.seek(max(0, said.seek(0, 2) - 800))
            trace = " ".join(said.read().decode("utf-8", "replace").split())
        try:
            answer = msgspec.json.decode(line, type=Answer)
            if answer.error:
                raise InvalidInput(f"The model can't answer: {answer.error}")
            with np.load(io.BytesIO(arrays), allow_pickle=False) as file:
                return answer, {name: file[name] for name in file.files}
        except (ValueError, OSError, msgspec.MsgspecError) as error:
            raise InvalidInput(
                f"The model gave no answer (exit code {done.returncode}): {trace}"
            ) from error

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


def _judge(
    fresh: tuple[Answer, dict[str, np.ndarray]],
    present: tuple[Answer, dict[str, np.ndarray]],
    evidence: dict[str, object],
) -> GateRun:
    """Equal means bitwise; else the largest difference is told."""
    one, other = fresh[0], present[0]
    differences = differences_of(fresh[1], present[1])
    packages = {
        name: f"{other.packages.get(name, '-')} -> {one.packages.get(name, '-')}"
        for name in sorted({*one.packages, *other.packages})
        if one.packages.get(name) != other.packages.get(name)
    }
    equal = one.outputs == other.outputs and not differences
    rows = f"{one.rows} {'made-up rows' if one.made_up else 'golden rows'}"
    if equal:
        sentence = f"Rebuilt from its lock, it answers {rows} bitwise as before."
    else:
        told = ", ".join(f"{name} by {how}" for name, how in differences.items())
        sentence = f"Rebuilt from its lock, its answers to {rows} differ: {told}."
    evidence |= {
        "state": "equal" if equal else "different",
        "rows": one.rows,
        "outputs": one.outputs,
        "before": other.outputs,
        "differences": differences,
        "python": one.python,
        "packages": one.packages,
        "changed_packages": packages,
        "load_s": round(one.load_s, 4),
        "call_s": round(one.call_s, 6),
        "call_before_s": round(other.call_s, 6),
    }
    return GateRun(GATE, Verdict.PASS if equal else Verdict.FAIL, sentence, evidence)


def differences_of(
    fresh: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Of each output that is not bitwise the same: the largest difference, or what else it is."""
    found: dict[str, str] = {}
    for name in sorted({*fresh, *present}):
        if name not in fresh or name not in present:
            found[name] = "being there on one side only"
            continue
        a, b = fresh[name], present[name]
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            found[name] = f"{a.dtype} {list(a.shape)} against {b.dtype} {list(b.shape)}"
        elif a.dtype == b.dtype and a.tobytes() == b.tobytes():
            continue
        elif a.dtype.kind in "fiu":
            apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
            unlike = int((np.isnan(a) != np.isnan(b)).sum()) if a.dtype.kind == "f" else 0
            largest = float(np.nanmax(apart)) if np.isfinite(apart).any() else 0.0
            found[name] = f"at most {largest:.3g}" + (f", {unlike} NaN" if unlike else "")
        else:
            found[name] = f"{int((a != b).sum())} of {a.size} values"
    return found
