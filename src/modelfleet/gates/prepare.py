"""From `pending` to `ready`: resolve the environment, check the source, compile, choose.

Every version is checked in a process of its model's own environment: it loads, and it answers its
example. The compiled form serves only if it is proven equal and measured faster.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import structlog

from modelfleet.core.authorization import SYSTEM
from modelfleet.core.database import Database
from modelfleet.core.errors import FleetError, InvalidInput
from modelfleet.core.ids import digest
from modelfleet.core.layout import Layout
from modelfleet.gates import store
from modelfleet.gates.completion import Completer
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.registry import BundleStore, Entry, Environment, RegistryService, Variant, Version
from modelfleet.serving.compile import Conversion, Converters
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.progress import Progress, Report

log = structlog.get_logger(__name__)


class PrepareService:
    def __init__(
        self,
        layout: Layout,
        database: Database,
        registry: RegistryService,
        bundles: BundleStore,
        environments: EnvironmentBuilder,
        converters: Converters,
        completer: Completer,
    ) -> None:
        self._layout = layout
        self._database = database
        self._registry = registry
        self._bundles = bundles
        self._environments = environments
        self._converters = converters
        self._completer = completer
        self._progress: dict[str, Progress] = {}

    def progress(self, version_id: str) -> Progress | None:
        """How far the preparation of a pending version is; None if it has not begun."""
        return self._progress.get(version_id)

    def prepare(self, arguments: Mapping[str, object]) -> None:
        """Handler of the job; running it again gives the same end."""
        found = self._registry.versions_by_id([str(arguments["version_id"])])
        for version in found.values():  # deleted meanwhile: nothing to do
            if version.status != "pending":
                continue
            try:
                self._prepare(version)
            except InvalidInput as error:
                self._fail(version, "environment", error.message)
            finally:
                self._progress.pop(version.id, None)

    def give_up(self, arguments: Mapping[str, object], reason: str) -> None:
        """The job failed for good: say so at the version."""
        for version in self._registry.versions_by_id([str(arguments["version_id"])]).values():
            if version.status == "pending":
                self._registry.mark_failed(SYSTEM, version, reason)

    def _prepare(self, version: Version) -> None:
        report = partial(self._progress.__setitem__, version.id)
        entries = self._registry.entries(version.bundle_digest)
        if not any(entry.path == "bundle.json" for entry in entries):
            version, entries = self._complete(version, entries, report)
        wanted = version.requested_environment
        requirements = msgspec.convert(wanted["requirements"], list[str])
        environment = self._environments.resolve(requirements, str(wanted["python"]), report)
        python = self._environments.converter_python(environment, version.info.runtime, report)
        folder = self._bundles.materialise(entries)
        out = Path(tempfile.mkdtemp(prefix="modelfleet-compile-"))
        try:
            out.chmod(0o777)
            try:
                result = self._converters.convert(python, folder, out / "bundle", report)
            except InvalidInput as error:
                self._fail(version, "loads", error.message)
                return
            runs = _judge(result, made_up=version.info.options.get("example") == "made up")
            self._save(version, runs)
            broken = [run for run in runs if run.verdict is Verdict.FAIL and run.gate != "parity"]
            if broken:
                self._registry.mark_failed(SYSTEM, version, broken[0].sentence)
                return
            self._finish(version, environment, entries, result, out / "bundle")
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def _complete(
        self, version: Version, entries: Sequence[Entry], report: Report
    ) -> tuple[Version, tuple[Entry, ...]]:
        """The version with what its model said of itself, and the files that serve it."""
        made = self._completer.complete(version, entries, report)
        info = self._bundles.read(made.entries, "bundle.json")
        wanted = {"requirements": list(made.requirements), "python": made.python}
        return self._registry.complete(SYSTEM, version, info, wanted), made.entries

    def _fail(self, version: Version, gate: str, reason: str) -> None:
        self._save(version, [GateRun(gate, Verdict.FAIL, reason, {})])
        self._registry.mark_failed(SYSTEM, version, reason)

    def _finish(
        self,
        version: Version,
        environment: Environment,
        entries: Sequence[Entry],
        result: Conversion,
        compiled: Path,
    ) -> None:
        evidence = msgspec.to_builtins(result)
        source_digest = self._bundles.check(entries)
        source = Variant("source", source_digest, environment.digest, evidence)
        variants: list[tuple[Variant, Sequence[Entry]]] = [(source, entries)]
        if result.converted:
            made = self._bundles.take(compiled)
            made_digest = self._bundles.check(made)
            if made_digest != result.digest:
                raise FleetError("The compiled bundle is not the one that was measured.")
            variants.append((Variant("compiled", made_digest, None, evidence), made))
        proven = result.converted and result.parity is not None and result.parity.passed
        wanted = version.requested_environment.get("compile", True)
        faster = proven and result.chosen == "compiled"
        serving = "compiled" if faster and wanted else "source"
        if serving == "compiled":
            self._bundles.materialise(variants[1][1])
        else:
            self._environments.python(environment, partial(self._progress.__setitem__, version.id))
        self._registry.mark_ready(SYSTEM, version, environment, variants, serving)
        log.info("version ready", version=version.name, serving=serving)

    def _save(self, version: Version, runs: Sequence[GateRun]) -> None:
        wanted = msgspec.json.encode(version.requested_environment, order="sorted")
        input_digest = digest(version.bundle_digest.encode() + wanted)
        store.save(self._database, version.id, input_digest, runs)


def _judge(result: Conversion, made_up: bool = False) -> list[GateRun]:
    """The gates of one conversion. made_up: the example rows were drawn at random."""
    runs = [GateRun("environment", Verdict.PASS, "The lock resolves and installs.", {})]
    if not result.loads:
        return [*runs, GateRun("loads", Verdict.FAIL, result.reason, {})]
    denied = {"sandbox": result.sandbox} if result.sandbox is not None else {}
    runs.append(GateRun("loads", Verdict.PASS, "The model loads in its environment.", denied))
    if not result.answers:
        return [*runs, GateRun("example", Verdict.FAIL, result.reason, {})]
    speed = msgspec.to_builtins(result.speed) if result.speed else {}
    runs.append(GateRun("example", Verdict.PASS, "It answers its example.", speed))
    parity = result.parity
    if parity is None:
        sentence = result.reason or "The model was not converted."
        return [*runs, GateRun("parity", Verdict.INCONCLUSIVE, sentence, {})]
    verdict = Verdict.PASS if parity.passed else Verdict.FAIL
    rows = f"{parity.rows} {'made-up rows' if made_up else 'rows'}"
    if parity.where:
        rows += f" where {parity.where}"
    sentence = (
        f"Over {rows} source and compiled differ by at most "
        f"{parity.max_abs_diff:.3g}, with {parity.label_flips} labels flipped."
    )
    return [*runs, GateRun("parity", verdict, sentence, msgspec.to_builtins(parity))]
