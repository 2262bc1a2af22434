"""What a gate sees of the world when it runs on the platform."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelfleet.core.authorization import SYSTEM
from modelfleet.core.blobs import BlobStore
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, NotFound
from modelfleet.core.layout import Layout
from modelfleet.fleetfile.gate_lists import digest_of, file_of
from modelfleet.gates import tables
from modelfleet.gates.kinds.base import Consumer, Dataset, FeatureCounts, Replayed, Unknown
from modelfleet.gates.replay import Replayer
from modelfleet.gates.subjects import Subjects
from modelfleet.lineage import LineageService, Node
from modelfleet.registry import RegistryService, Version, datasets
from modelfleet.registry.signature import Signature
from modelfleet.serving.endpoints import EndpointService
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.lab import Deadline, Lab, Subject, Table
from modelfleet.serving.pipelines.plan import StepPlan
from modelfleet.serving.pipelines.service import PipelineService
from modelfleet.serving.progress import Report
from modelfleet.telemetry.recorded import binned, columns_of, recorded, signature_of

_RECENT_ROWS = 50_000


@dataclass(frozen=True)
class Rooms:
    """What the platform has, for those who look around in it."""

    layout: Layout
    database: Database
    blobs: BlobStore
    registry: RegistryService
    lineage: LineageService
    endpoints: EndpointService
    pipelines: PipelineService
    environments: EnvironmentBuilder
    subjects: Subjects
    lab: Lab
    url: Callable[[], str]


class PlatformAround:
    """Of one run. `close` removes what it made."""

    def __init__(
        self,
        rooms: Rooms,
        version: Version,
        candidate: Subject,
        champion: tuple[Version, Subject] | None,
        deadline: Deadline,
        key: str,
    ) -> None:
        self._rooms = rooms
        self._version = version
        self._candidate = candidate
        self._champion = champion
        self._deadline = deadline
        self._place = rooms.layout.environment(
            f"{version.environment_digest or 'none'}-rebuild-{key[:16]}"
        )

    def close(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)

    def dataset(self, reference: str) -> Dataset:
        rooms = self._rooms
        sha256 = digest_of(reference)
        if sha256 is not None:
            path, kind = rooms.blobs.path(sha256), tables.format_of(file_of(reference))
            return Dataset(file_of(reference), sha256, tables.read(path, kind), path, kind)
        with rooms.database.read() as connection:
            found = datasets.find_in(connection, reference)
        path = rooms.blobs.path(found.sha256)
        table = tables.read(path, found.format)
        return Dataset(found.reference, found.sha256, table, path, found.format)

    def file(self, reference: str) -> Path:
        sha256 = digest_of(reference)
        if sha256 is None:
            raise Unknown(
                f"{reference} was not uploaded.", hint="`modelfleet gates run` uploads files."
            )
        return self._rooms.blobs.path(sha256)

    def consumers(self) -> Sequence[Consumer]:
        return consumers_of(self._rooms, self._version.model, self._candidate.info.signature)

    def recorded(self, rows: int) -> Table:
        version, subject = self._champion or (self._version, self._candidate)
        signature = signature_of(subject.folder)
        rooms = self._rooms
        found = recorded(rooms.layout.evidence_database, version.index, signature, rows)
        if not found.rows:
            raise Unknown(f"No requests of {version.name} are recorded yet.")
        if signature.inputs == signature_of(self._candidate.folder).inputs:
            return found.inputs
        return columns_of(signature, found.inputs)

    def recent(self, seconds: float) -> Sequence[FeatureCounts]:
        version, subject = self._champion or (self._version, self._candidate)
        signature = signature_of(subject.folder)
        found = recorded(
            self._rooms.layout.evidence_database,
            version.index,
            signature,
            _RECENT_ROWS,
            now_us() - int(seconds * 1e6),
        )
        if not found.rows:
            raise Unknown(f"No requests of {version.name} are recorded in that time.")
        counted = binned(self._candidate.folder, columns_of(signature, found.inputs))
        if counted is None:
            raise Unknown(
                f"{self._candidate.name} has no training reference.",
                hint="Register it with reference=... (--reference FILE).",
            )
        return [
            FeatureCounts(one.name, one.numeric, one.labels, one.reference, one.recent)
            for one in counted
        ]

    def replay(self, rows: int) -> Sequence[Replayed]:
        if self._champion is None:
            raise Unknown("There is no champion to replay with.")
        version, subject = self._champion
        rooms = self._rooms
        replayer = Replayer(
            rooms.lab,
            self._deadline,
            rooms.layout.evidence_database,
            self._candidate,
            subject,
            version.index,
        )
        places = endpoints_of(rooms, version.model)
        found = [
            replayer.pipeline(row.plan, places, self._serving, rows)
            for row, _ in rooms.pipelines.with_candidate(places, self._candidate.info.signature)
        ]
        for one in _feeding(rooms, version.model):
            try:
                found.append(replayer.model(rooms.subjects.of(one), one.index, rows))
            except Conflict as error:
                found.append(Replayed("model", one.name, 0, {}, {}, problem=error.message))
        return found

    def _serving(self, step: StepPlan) -> Subject:
        """What answers a step of a pipeline today. Raises `NotFound` or `Conflict`."""
        identifier = step.version_id
        if identifier is None:
            with self._rooms.database.read() as connection:
                identifier = self._rooms.endpoints.find(connection, step.model).stable_version_id
        found = self._rooms.registry.versions_by_id([identifier] if identifier else [])
        for version in found.values():
            return self._rooms.subjects.of(version)
        raise NotFound(f"The endpoint {step.model} serves no version.")

    def python(self, report: Report) -> Path:
        return self._rooms.subjects.source(self._version, report).python

    def rebuilt(self, report: Report) -> tuple[Subject, Path]:
        source = self._rooms.subjects.source(self._version, report)
        environment = self._rooms.registry.get_environment(source.environment)
        self.close()  # what a control plane left that died over it
        return source, self._rooms.environments.again(environment, self._place, report)

    def variables(self) -> Mapping[str, str]:
        url = self._rooms.url()
        return {"MODELFLEET_URL": url} if url else {}


@dataclass(frozen=True)
class Users:
    """champion: the version that serves, None if none does."""

    champion: Version | None
    consumers: Sequence[Consumer]


def endpoints_of(rooms: Rooms, model: str) -> dict[str, str | None]:
    """Names of the endpoints of a model, and the version that each serves."""
    return {one.name: one.stable_version_id for one in rooms.endpoints.all() if one.model == model}


def stable_of(rooms: Rooms, model: str) -> Version | None:
    """The version that serves: at the endpoint of the model's name, else at any."""
    places = endpoints_of(rooms, model)
    names = sorted(places, key=lambda name: (name != model, name))
    found = next((places[name] for name in names if places[name]), None)
    return next(iter(rooms.registry.versions_by_id([found]).values()), None) if found else None


def consumers_of(rooms: Rooms, model: str, candidate: Signature) -> Sequence[Consumer]:
    """Who would have to go on with the candidate."""
    places = endpoints_of(rooms, model)
    found = [
        Consumer("pipeline", row.pipeline.name, problem, checked=True)
        for row, problem in rooms.pipelines.with_candidate(places, candidate)
    ]
    seen: set[str] = set()
    for node in _nodes(rooms, model, places):
        for edge in rooms.lineage.around(node):
            name = edge.destination.name
            if edge.source == node and edge.relation == "consumed-by" and name not in seen:
                seen.add(name)
                found.append(Consumer("application", name))
    return [*found, *(Consumer("model", one.name) for one in _feeding(rooms, model))]


def _nodes(rooms: Rooms, model: str, places: Mapping[str, str | None]) -> Iterator[Node]:
    yield Node("model", model)
    for name, serving in places.items():
        yield Node("endpoint", name)
        for one in rooms.registry.versions_by_id([serving] if serving else []).values():
            yield Node("version", one.name)


def _feeding(rooms: Rooms, model: str) -> list[Version]:
    """The versions in use of models that take this one's answers."""
    edges = rooms.lineage.around(Node("model", model))
    fed = {e.destination.name for e in edges if e.source.name == model and e.relation == "feeds"}
    found: dict[str, Version] = {}
    for name in sorted(fed):
        user, _, number = name.rpartition("@")
        live = stable_of(rooms, user)
        if live is not None and live.name == name:
            found[user] = live
        elif live is None:
            try:
                found[user] = rooms.registry.get_version(SYSTEM, user, number)
            except NotFound:
                continue  # deleted
    return list(found.values())
