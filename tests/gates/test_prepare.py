"""From pending to ready or failed, with a converter that answers what a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.errors import FleetError, InvalidInput, Unavailable
from modelfleet.core.ids import digest
from modelfleet.gates import PrepareService, list_runs
from modelfleet.gates.completion import Completer
from modelfleet.registry import BundleStore, Environment, Version
from modelfleet.registry.bundles import Entry, manifest
from modelfleet.serving.compile import Conversion, Converters, Parity, Speed
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.progress import Progress, Report
from modelfleet.wiring import Fleet
from people import ADMIN
from registrar import Registrar

FILES = {"bundle.json": json.dumps({"compiled": True}).encode(), "model.onnx": b"onnx"}
PARITY = Parity(rows=100, max_abs_diff=1e-7, label_flips=0, passed=True)
SPEED = Speed(100.0, 200.0, 5.0, 20.0)


@dataclass
class Fakes:
    """Environments without an index, and a converter without a process."""

    answer: Callable[[Path], Conversion]
    resolvable: bool = True
    calls: int = 0
    built: list[str] = field(default_factory=list)

    def resolve(self, requirements: list[str], python: str, report: Report) -> Environment:
        report(Progress("resolving", 0, len(requirements)))
        if not self.resolvable:
            raise InvalidInput("The environment can't be made: no such package.")
        return Environment("e" * 64, python, "linux-x86_64", "\n".join(requirements))

    def converter_python(self, environment: Environment, runtime: str, report: Report) -> Path:
        assert runtime == "sklearn"
        return Path("/convert/python")

    def python(self, environment: Environment, report: Report) -> Path:
        self.built.append(environment.digest)
        return Path("/env/python")

    def convert(self, python: Path, bundle: Path, out: Path, report: Report) -> Conversion:
        report(Progress("compiling"))
        assert (bundle / "manifest.json").exists()
        self.calls += 1
        return self.answer(out)


def written(out: Path, files: dict[str, bytes] = FILES) -> str:
    """As the converter writes it; returns the digest of the bundle."""
    (out / "files").mkdir(parents=True)
    for name, content in files.items():
        (out / "files" / name).write_bytes(content)
    entries = [Entry(name, digest(content), len(content)) for name, content in files.items()]
    return digest(manifest(entries))


def compiled(out: Path, **changed: object) -> Conversion:
    given = {"parity": PARITY, "speed": SPEED, "chosen": "compiled"} | changed
    return Conversion(True, digest=written(out), **given)  # type: ignore[arg-type]


Prepare = Callable[[Fakes], Version]


@pytest.fixture
def prepare(fleet: Fleet, registrar: Registrar) -> Prepare:
    registrar.model()

    def run(fakes: Fakes) -> Version:
        made = registrar.version()
        bundles = BundleStore(fleet.layout, FolderBlobStore(fleet.layout.blobs))
        service = PrepareService(
            fleet.layout,
            fleet.database,
            fleet.registry,
            bundles,
            cast(EnvironmentBuilder, fakes),
            cast(Converters, fakes),
            cast(Completer, fakes),
        )
        arguments = {"version_id": made.id}
        try:
            service.prepare(arguments)
        except FleetError as error:
            service.give_up(arguments, error.message)
        service.prepare(arguments)  # again, as after a crash
        return fleet.registry.get_version(ADMIN, "churn", str(made.sequence))

    return run


def verdicts(fleet: Fleet, version: Version) -> dict[str, str]:
    return {run.gate: run.verdict.value for run in list_runs(fleet.database, version.id)}


def test_what_is_equal_and_faster_serves_compiled(fleet: Fleet, prepare: Prepare) -> None:
    fakes = Fakes(compiled)
    found = prepare(fakes)
    assert (found.status, found.serving, found.environment_digest) == (
        "ready",
        "compiled",
        "e" * 64,
    )
    assert fakes.calls == 1
    assert fakes.built == []  # the source's environment is not needed to serve
    variants = {v.kind: v for v in fleet.registry.variants([found.id])[found.id]}
    assert set(variants) == {"source", "compiled"}
    assert variants["compiled"].environment_digest is None
    assert (fleet.layout.bundle(variants["compiled"].bundle_digest) / "files/model.onnx").exists()
    assert verdicts(fleet, found) == dict.fromkeys(
        ("environment", "loads", "example", "parity"), "pass"
    )
    runs = {run.gate: run for run in list_runs(fleet.database, found.id)}
    assert runs["parity"].evidence["rows"] == 100
    assert runs["example"].evidence["compiled_1_us"] == 5.0


def test_what_is_not_converted_serves_from_its_source(fleet: Fleet, prepare: Prepare) -> None:
    fakes = Fakes(lambda _: Conversion(False, reason="no converter for MyModel", speed=SPEED))
    found = prepare(fakes)
    assert (found.status, found.serving) == ("ready", "source")
    assert fakes.built == ["e" * 64]
    assert verdicts(fleet, found)["parity"] == "inconclusive"
    assert [v.kind for v in fleet.registry.variants([found.id])[found.id]] == ["source"]


@pytest.mark.parametrize("chosen", ["source", "compiled"])
def test_what_is_not_equal_never_serves_compiled(
    fleet: Fleet, prepare: Prepare, chosen: str
) -> None:
    bad = Parity(rows=100, max_abs_diff=0.4, label_flips=12, passed=False)
    fakes = Fakes(lambda out: compiled(out, parity=bad, chosen=chosen))
    found = prepare(fakes)
    assert (found.status, found.serving) == ("ready", "source")
    assert verdicts(fleet, found)["parity"] == "fail"
    assert fakes.built == ["e" * 64]


def test_a_compiled_form_that_is_slower_is_kept_but_does_not_serve(prepare: Prepare) -> None:
    assert prepare(Fakes(lambda out: compiled(out, chosen="source"))).serving == "source"


def test_a_converter_that_claims_what_it_did_not_do_is_not_believed(prepare: Prepare) -> None:
    found = prepare(Fakes(lambda _: Conversion(False, chosen="compiled")))
    assert (found.status, found.serving) == ("ready", "source")


@pytest.mark.parametrize(
    ("answer", "gate", "reason"),
    [
        (Conversion(False, loads=False, reason="No module named x"), "loads", "No module named x"),
        (Conversion(False, answers=False, reason="raises ValueError"), "example", "raises"),
    ],
)
def test_what_does_not_load_or_answer_is_failed(
    fleet: Fleet, prepare: Prepare, answer: Conversion, gate: str, reason: str
) -> None:
    found = prepare(Fakes(lambda _: answer))
    assert (found.status, found.serving) == ("failed", "")
    assert reason in found.reason
    assert verdicts(fleet, found)[gate] == "fail"


def test_a_model_that_kills_its_process_is_failed(fleet: Fleet, prepare: Prepare) -> None:
    def die(_: Path) -> Conversion:
        raise InvalidInput("The model took its process down or hung while it was being checked.")

    found = prepare(Fakes(die))
    assert found.status == "failed"
    assert "took its process down" in found.reason
    assert verdicts(fleet, found) == {"loads": "fail"}


def test_requirements_that_do_not_resolve_are_failed(fleet: Fleet, prepare: Prepare) -> None:
    fakes = Fakes(compiled, resolvable=False)
    found = prepare(fakes)
    assert found.status == "failed"
    assert verdicts(fleet, found) == {"environment": "fail"}
    assert fakes.calls == 0


def test_another_bundle_than_the_measured_one_is_never_served(
    fleet: Fleet, prepare: Prepare
) -> None:
    def swap(out: Path) -> Conversion:
        written(out)
        return Conversion(True, digest="0" * 64, parity=PARITY, chosen="compiled")

    found = prepare(Fakes(swap))
    assert found.status == "failed"
    assert "not the one that was measured" in found.reason


def test_a_link_in_what_was_compiled_is_refused(fleet: Fleet, prepare: Prepare) -> None:
    def smuggle(out: Path) -> Conversion:
        found = written(out)
        (out / "files" / "key").symlink_to(fleet.layout.signing_key)
        return Conversion(True, digest=found, parity=PARITY, chosen="compiled")

    assert prepare(Fakes(smuggle)).status == "failed"


def test_trouble_of_ours_is_tried_again_before_it_is_failed(
    fleet: Fleet, registrar: Registrar
) -> None:
    def trouble(_: Path) -> Conversion:
        raise Unavailable("The converter answered rubbish.")

    registrar.model()
    made = registrar.version()
    bundles = BundleStore(fleet.layout, FolderBlobStore(fleet.layout.blobs))
    fakes = Fakes(trouble)
    service = PrepareService(
        fleet.layout,
        fleet.database,
        fleet.registry,
        bundles,
        cast(EnvironmentBuilder, fakes),
        cast(Converters, fakes),
        cast(Completer, fakes),
    )
    with pytest.raises(Unavailable):
        service.prepare({"version_id": made.id})
    assert fleet.registry.get_version(ADMIN, "churn", "1").status == "pending"
    fakes.answer = compiled
    service.prepare({"version_id": made.id})
    assert fleet.registry.get_version(ADMIN, "churn", "1").status == "ready"
    service.give_up({"version_id": made.id}, "too late")
    assert fleet.registry.get_version(ADMIN, "churn", "1").status == "ready"
    service.prepare({"version_id": "deleted meanwhile"})


def test_progress_is_told_while_it_is_made_and_not_after(
    fleet: Fleet, registrar: Registrar
) -> None:
    registrar.model()
    made = registrar.version()
    heard: list[Progress | None] = []

    def look(out: Path) -> Conversion:
        heard.append(service.progress(made.id))
        return compiled(out)

    fakes = Fakes(look)
    service = PrepareService(
        fleet.layout,
        fleet.database,
        fleet.registry,
        BundleStore(fleet.layout, FolderBlobStore(fleet.layout.blobs)),
        cast(EnvironmentBuilder, fakes),
        cast(Converters, fakes),
        cast(Completer, fakes),
    )
    assert service.progress(made.id) is None
    service.prepare({"version_id": made.id})
    assert heard == [Progress("compiling")]
    assert service.progress(made.id) is None
