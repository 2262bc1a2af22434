"""Gates on this machine, before anything is registered: a model's file, and what a platform tells.

Environments, bundles and downloaded data stay in a cache folder, so that the second run is quick.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from modelfleet.client import Client
from modelfleet.client.errors import ApiError, ClientError, Unreachable
from modelfleet.client.saving.objects import Saved
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.errors import NotFound
from modelfleet.core.layout import Layout
from modelfleet.fleetfile.gate_lists import Named, digest_of, is_registered
from modelfleet.gates import kinds, tables
from modelfleet.gates.kinds.base import (
    Case,
    Consumer,
    Dataset,
    FeatureCounts,
    Replayed,
    Unknown,
    inconclusive,
)
from modelfleet.gates.running import checked
from modelfleet.gates.store import GateRun
from modelfleet.registry import BundleStore
from modelfleet.registry.signature import read
from modelfleet.serving.beside import Confined
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.lab import Deadline, Lab, Subject, Table
from modelfleet.serving.progress import Progress
from modelfleet.serving.progress import Report as Tell

_ON_THE_PLATFORM = "Recorded requests are on the platform: run this gate on a registered version."


@dataclass(frozen=True)
class Checked:
    """What came of all gates, in their order."""

    candidate: Subject
    champion: Subject | None
    runs: tuple[tuple[Named, GateRun], ...]


@dataclass(frozen=True)
class Workshop:
    """Where local gates run. client: of a platform, None if none can be reached."""

    layout: Layout
    confined: Confined
    owner: tuple[int, int] | None
    memory_mb: int
    client: Client | None
    beside: Path
    """folder that files of gates are named from"""

    @property
    def blobs(self) -> FolderBlobStore:
        return FolderBlobStore(self.layout.blobs)

    @property
    def lab(self) -> Lab:
        return Lab(self.layout.worker_package, self.confined, self.memory_mb, self.owner)

    def subject(self, model: str, version: str, saved: Saved, tell: Tell) -> Subject:
        """What was saved, in an environment of its own."""
        folder = Path(tempfile.mkdtemp(prefix="modelfleet-gate-"))
        try:
            for name, content in saved.files.items():
                target = folder / "files" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    target.write_bytes(content)
                else:
                    shutil.copyfile(content, target)
            bundles = BundleStore(self.layout, self.blobs)
            entries = bundles.take(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        builder = EnvironmentBuilder(self.layout)
        environment = builder.resolve(saved.requirements, saved.python, tell)
        python = builder.python(environment, tell)
        return Subject(
            model,
            version,
            bundles.check(entries),
            bundles.materialise(entries),
            python,
            read(bundles.read(entries, "bundle.json")),
            "source",
            environment.digest,
            environment.lock,
        )


class LocalAround:
    def __init__(self, shop: Workshop, candidate: Subject) -> None:
        self._shop = shop
        self._candidate = candidate
        self._place = shop.layout.environment(f"{candidate.environment}-rebuild-local")
        self._users: Any = None

    def close(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)

    def dataset(self, reference: str) -> Dataset:
        if is_registered(reference):
            return self._download(reference)
        path = self.file(reference)
        sha256, _ = self._shop.blobs.put([path.read_bytes()])
        kind = tables.format_of(path.name)
        return Dataset(reference, sha256, tables.read(path, kind), path, kind)

    def file(self, reference: str) -> Path:
        if digest_of(reference) is not None:
            raise Unknown(f"{reference} is a file of the platform.")
        path = (self._shop.beside / reference).resolve()
        if not path.is_file():
            raise NotFound(f"There is no file {path}.")
        return path

    def _download(self, reference: str) -> Dataset:
        client = self._client(f"the data set {reference}")
        name, _, version = reference.partition("@")
        found: Any = client.api.get(f"/v1/datasets/{name}/versions/{version}")
        if not self._shop.blobs.has(found["sha256"]):
            chunks = client.api.stream(f"/v1/datasets/{name}/versions/{version}/content")
            self._shop.blobs.put(chunks, found["sha256"])
        path = self._shop.blobs.path(found["sha256"])
        known = f"{name}@{found['version']}"
        table = tables.read(path, found["format"])
        return Dataset(known, found["sha256"], table, path, found["format"])

    def _client(self, what: str) -> Client:
        if self._shop.client is None:
            raise Unknown(f"No platform was reached that could tell {what}.")
        return self._shop.client

    def users(self) -> Any:
        """What the platform says: champion and consumers. Raises `Unknown`."""
        if self._users is None:
            client = self._client("the champion and the consumers")
            body = msgspec.to_builtins(self._candidate.info.signature)
            try:
                self._users = client.api.post(f"/v1/models/{self._candidate.model}/users", body)
            except ApiError as error:
                if error.status != 404:
                    raise
                self._users = {"champion": None, "consumers": []}
        return self._users

    def consumers(self) -> Sequence[Consumer]:
        return [msgspec.convert(one, Consumer) for one in self.users()["consumers"]]

    def recorded(self, rows: int) -> Table:
        raise Unknown(_ON_THE_PLATFORM)

    def recent(self, seconds: float) -> Sequence[FeatureCounts]:
        raise Unknown(_ON_THE_PLATFORM)

    def replay(self, rows: int) -> Sequence[Replayed]:
        raise Unknown(_ON_THE_PLATFORM)

    def python(self, report: Tell) -> Path:
        return self._candidate.python

    def rebuilt(self, report: Tell) -> tuple[Subject, Path]:
        from modelfleet.registry import Environment

        self.close()
        builder = EnvironmentBuilder(self._shop.layout)
        one = self._candidate
        found = Environment(one.environment, builder_python(one), "", one.lock)
        return one, builder.again(found, self._place, report)

    def variables(self) -> Mapping[str, str]:
        client = self._shop.client
        return {"MODELFLEET_URL": client.api.url} if client is not None else {}

    def champion(self, tell: Tell) -> tuple[Subject | None, str]:
        """The version that serves, fetched and made ready here; or why there is none."""
        try:
            version = self.users()["champion"]
        except Unknown as error:
            return None, error.message
        if version is None:
            return None, f"{self._candidate.model} serves no version."
        client = self._client("the champion")
        path = f"/v1/models/{version['model']}/versions/{version['version']}"
        found: Any = client.api.get(path)
        names = {entry["path"] for entry in found["files"]}
        if "bundle.json" not in names:
            return None, f"{version['model']}@{version['version']} can be run on the platform only."
        files: dict[str, bytes | Path] = {}
        for entry in found["files"]:
            if not self._shop.blobs.has(entry["sha256"]):
                chunks = client.api.stream(f"{path}/files/{entry['path']}")
                self._shop.blobs.put(chunks, entry["sha256"])
            files[entry["path"]] = self._shop.blobs.path(entry["sha256"])
        wanted = found["version"]["requested_environment"]
        saved = Saved(files, tuple(wanted["requirements"]), str(wanted["python"]))
        return self._shop.subject(version["model"], version["version"], saved, tell), ""


def builder_python(subject: Subject) -> str:
    """The Python of an environment, from its interpreter's own configuration."""
    for line in (subject.python.parent.parent / "pyvenv.cfg").read_text().splitlines():
        name, _, value = line.partition("=")
        if name.strip() in ("version", "version_info"):
            return ".".join(value.strip().split(".")[:2])
    raise NotFound(f"{subject.python} says no version.")


def run_all(
    shop: Workshop,
    candidate: Subject,
    gates: Sequence[Named],
    tell: Callable[[str, Progress], None],
) -> Checked:
    """Each gate, one after the other. tell: hears the gate and how far it is."""
    around = LocalAround(shop, candidate)
    champion, why = around.champion(lambda said: tell("champion", said))
    runs: list[tuple[Named, GateRun]] = []
    for one in gates:
        begun = time.monotonic()
        with _folder() as folder:
            case = Case(
                candidate,
                champion,
                why,
                around,
                shop.lab,
                Deadline.after(one.spec.timeout),
                candidate.folder,
                folder,
                lambda said, gate=one.name: tell(gate, said),  # type: ignore[misc]
            )
            try:
                found = checked(kinds.find(one.kind), one.spec, case)
            except (ClientError, Unreachable) as error:
                found = inconclusive(one.kind, str(error))
            except Exception as error:  # noqa: BLE001 - a plug-in's mistake proves nothing
                text = f"The check itself failed: {type(error).__name__}: {error}"
                found = inconclusive(one.kind, text)
            finally:
                around.close()
        run = replace(
            found,
            gate=one.name,
            kind=one.kind,
            seconds=round(time.monotonic() - begun, 3),
            champion=champion.name if champion else "",
        )
        runs.append((one, run))
    return Checked(candidate, champion, tuple(runs))


@contextmanager
def _folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="modelfleet-gate-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
