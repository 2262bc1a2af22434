"""The composition root: reads settings, builds the rooms, hands out the fleet."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from modelfleet.batch import BatchService
from modelfleet.core.authorization import SYSTEM
from modelfleet.core.blobs import BlobStore, FolderBlobStore
from modelfleet.core.database import Database, place_of
from modelfleet.core.jobs import Handler, LocalJobRunner
from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.core.membership import Membership
from modelfleet.core.migrate import migrate
from modelfleet.core.sealing import Sealer
from modelfleet.core.settings import Settings
from modelfleet.delivery.apply import Rooms
from modelfleet.delivery.gatekeeper import GateKeeper
from modelfleet.delivery.objects import blobs_of as applied_blobs
from modelfleet.delivery.service import FleetFileService
from modelfleet.delivery.training import TrainingService, Triggers
from modelfleet.delivery.training.access import TrainingAccess
from modelfleet.delivery.training.documents import DocumentPlans
from modelfleet.delivery.training.store import files_of
from modelfleet.delivery.training.triggers import Drifted
from modelfleet.delivery.training.work import Workshop
from modelfleet.engines.engine import Engine
from modelfleet.engines.local import confined
from modelfleet.engines.local.confine import Confinement, user_ids
from modelfleet.engines.local.engine import LocalEngine
from modelfleet.events import Dispatcher, WebhookService
from modelfleet.gates import PrepareService
from modelfleet.gates.completion import Completer
from modelfleet.gates.platform import Rooms as GateRooms
from modelfleet.gates.rebuild import REBUILD, RebuildService
from modelfleet.gates.running import RUN_GATE
from modelfleet.gates.service import GateService
from modelfleet.gates.store import uploads_of
from modelfleet.gates.subjects import Subjects
from modelfleet.identity import Approvals, IdentityService
from modelfleet.lineage import LineageService
from modelfleet.monitoring import LiveVersion, MonitoringService
from modelfleet.reconcile import Reconciler
from modelfleet.reconcile.traffic import Serving, TrafficController
from modelfleet.registry import BundleStore, RegistryService
from modelfleet.registry.collaboration.people import watchers_of
from modelfleet.registry.datasets import DatasetService, blobs_of
from modelfleet.registry.garbage import GarbageService
from modelfleet.registry.service import PREPARE
from modelfleet.registry.tracking.service import TrackingService
from modelfleet.registry.tracking.store import commit_of
from modelfleet.rollouts.freezes import FreezeService
from modelfleet.rollouts.service import RolloutService
from modelfleet.rollouts.ticks import EvidenceTicks
from modelfleet.serving.beside import Beside
from modelfleet.serving.compile import Converters
from modelfleet.serving.endpoints import EndpointService
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.gateway import GatewayFiles, Limits
from modelfleet.serving.lab import Lab
from modelfleet.serving.pipelines.publisher import PlatformKey, Publisher
from modelfleet.serving.pipelines.service import PipelineService
from modelfleet.serving.quarantine import QuarantineService
from modelfleet.serving.shedding import Shedding
from modelfleet.serving.tuning import TuningService
from modelfleet.telemetry.evidence import EvidenceReader


@dataclass(frozen=True)
class Fleet:
    """All services. It has no methods of its own."""

    settings: Settings
    layout: Layout
    database: Database
    blobs: BlobStore
    registry: RegistryService
    tracking: TrackingService
    lineage: LineageService
    identity: IdentityService
    approvals: Approvals
    endpoints: EndpointService
    quarantine: QuarantineService
    pipelines: PipelineService
    rollouts: RolloutService
    freezes: FreezeService
    monitoring: MonitoringService
    evidence: EvidenceReader
    engine: Engine
    gateway: GatewayFiles
    jobs: LocalJobRunner
    membership: Membership
    reconciler: Reconciler
    converters: Converters
    prepare: PrepareService
    rebuilds: RebuildService
    gates: GateService
    datasets: DatasetService
    batches: BatchService
    tuning: TuningService
    garbage: GarbageService
    webhooks: WebhookService
    dispatcher: Dispatcher
    training: TrainingService
    files: FleetFileService
    """fleet files: what was applied, and applying more"""


def build(settings: Settings) -> Fleet:
    """Everything, built but not started. Brings the database to the present schema."""
    layout = settings.layout
    database = Database(place_of(settings))
    migrate(database)
    blobs = FolderBlobStore(layout.blobs)
    bundles = BundleStore(layout, blobs)
    handlers: dict[str, Handler] = {}
    signing_key = SigningKey(layout)
    membership = Membership(database, signing_key.thumbprint, layout.members)
    jobs = LocalJobRunner(database, handlers, membership=membership)
    registry = RegistryService(database, bundles, jobs)
    identity = IdentityService(database, signing_key)
    approvals = Approvals(database)
    endpoints = EndpointService(database, settings.serving.request_timeout_ms)
    evidence = EvidenceReader(layout.evidence_database)
    ticks = EvidenceTicks(evidence, settings.evidence.tick_seconds)
    freezes = FreezeService(database, endpoints)
    environments = EnvironmentBuilder(layout)
    confinement = confinement_of(settings)
    sandboxed = settings.serving.sandbox_checks
    converters = Converters(layout.worker_package, confinement, sandboxed)
    completer = Completer(layout, bundles, environments, confinement, sandboxed)
    prepare = PrepareService(
        layout, database, registry, bundles, environments, converters, completer
    )
    handlers[PREPARE] = Handler(prepare.prepare, prepare.give_up)
    gateway = GatewayFiles(layout, limits=Limits.of(settings.serving), tls=settings.tls)
    monitoring = MonitoringService(database, evidence, settings)
    quarantine = QuarantineService(
        database, registry, evidence.crashes, settings.serving.quarantine_crashes
    )
    beside = Beside(
        layout, registry, bundles, environments, confinement, settings.serving.memory_mb
    )
    subjects = Subjects(registry, bundles, environments)
    lab = Lab(layout.worker_package, confinement, settings.serving.memory_mb, owner_of(settings))
    rebuilds = RebuildService(layout, database, registry, jobs, environments, subjects, lab)
    handlers[REBUILD] = Handler(rebuilds.run, rebuilds.give_up)
    pipelines = PipelineService(layout, database, registry, endpoints)
    lineage = LineageService(database)
    rooms = GateRooms(
        layout,
        database,
        blobs,
        registry,
        lineage,
        endpoints,
        pipelines,
        environments,
        subjects,
        lab,
        lambda: membership.address,
    )
    gates = GateService(rooms, jobs, approvals)
    # One at a time: others find a thread, and what is measured has the machine to itself.
    handlers[RUN_GATE] = Handler(gates.run, gates.give_up, at_once=1)
    rollouts = RolloutService(
        database,
        registry,
        endpoints,
        ticks,
        approvals=approvals,
        gatekeeper=GateKeeper(registry, gates),
    )
    batches = BatchService(settings, database, registry, beside, quarantine)
    tuning = TuningService(
        database, registry, beside, layout.worker_package, settings.serving.replicas
    )
    publisher = Publisher(layout, database, registry)
    key = PlatformKey(layout.pipelines_key, identity, signing_key)
    serving = Serving(
        registry,
        bundles,
        endpoints,
        identity,
        environments,
        gateway,
        quarantine,
        Path(sys.executable),
        publisher,
        tuning,
    )
    sealer, private = Sealer(layout.sealing_key), settings.registry.private_webhooks
    datasets = DatasetService(database, blobs)
    plans = DocumentPlans(database)
    access = TrainingAccess(identity, lambda: membership.address.replace("0.0.0.0", "127.0.0.1"))
    workshop = Workshop(
        layout,
        blobs,
        environments,
        confinement,
        partial(_fetch, datasets, access),
        access,
    )
    training = TrainingService(
        database, registry, plans, workshop, rollouts, lambda: membership.id, sealer.token
    )
    triggers = Triggers(database, plans, _drifted)
    traffic = TrafficController(settings, serving)
    shedding = Shedding(layout.control, traffic.endpoints, gateway)
    reconciler = Reconciler(
        layout,
        registry,
        endpoints,
        rollouts,
        traffic,
        [
            batches.look,
            quarantine.look,
            publisher.observe,
            lambda: key.keep(publisher.is_needed),
            gateway.certificates.refresh,
            _watch_over(monitoring, endpoints, registry, gateway),
            triggers.look,
            training.look,
        ],
        settings.reconcile.interval_seconds,
        urgent=[shedding.look],
        membership=membership,
        own=[converters.end_idle],
        let_go=partial(_close, batches, training),
    )
    return Fleet(
        settings=settings,
        layout=layout,
        database=database,
        blobs=blobs,
        registry=registry,
        tracking=TrackingService(database, bundles),
        lineage=lineage,
        identity=identity,
        approvals=approvals,
        endpoints=endpoints,
        quarantine=quarantine,
        pipelines=pipelines,
        rollouts=rollouts,
        freezes=freezes,
        monitoring=monitoring,
        evidence=evidence,
        engine=LocalEngine(layout.desired, layout.observed),
        gateway=gateway,
        jobs=jobs,
        membership=membership,
        reconciler=reconciler,
        converters=converters,
        prepare=prepare,
        rebuilds=rebuilds,
        gates=gates,
        datasets=datasets,
        batches=batches,
        tuning=tuning,
        garbage=GarbageService(database, blobs, [blobs_of, uploads_of, applied_blobs, files_of]),
        webhooks=WebhookService(
            database, sealer, registry.namespace, registry.namespace_id, private=private
        ),
        dispatcher=Dispatcher(
            database, sealer, private=private, watchers=watchers_of, commits=_commit
        ),
        training=training,
        files=FleetFileService(
            Rooms(database, registry, endpoints, rollouts, pipelines),
            evidence,
            settings.serving.replicas,
        ),
    )


def confinement_of(settings: Settings) -> Callable[[Sequence[str]], Sequence[str]]:
    """How model code runs outside of workers: as nobody, with the home out of sight."""
    layout, serving = settings.layout, settings.serving
    if os.geteuid() != 0 or serving.allow_root_workers:
        return lambda argv: argv
    keep = (layout.worker_package, layout.bundles, layout.environments)
    confinement = Confinement(serving.worker_user, keep, (layout.home,))
    return lambda argv: confined.command(confinement, argv)


def _close(batches: BatchService, training: TrainingService) -> None:
    batches.close()
    training.close()


def _commit(connection: sa.Connection, row: Mapping[str, Any]) -> str:
    """Of the version that an audit event is about."""
    return commit_of(connection, row["resource"], str(row["details"].get("version", "")))


def _fetch(
    datasets: DatasetService, access: TrainingAccess, team: str, reference: str, folder: Path
) -> Path:
    """A copy of a data set's table. Raises `NotFound`, or `NotAllowed` for another team's."""
    found = datasets.get(access.principal(team), reference)
    place = folder / f"{found.name}-{found.version}.{found.format}"
    shutil.copyfile(datasets.path(found), place)
    return place


def _drifted(connection: sa.Connection, since_us: int) -> Sequence[Drifted]:
    return [
        Drifted(one.model, one.id, one.alert.summary, one.alert.fired_at or 0)
        for one in MonitoringService.drifted(connection, since_us)
    ]


def owner_of(settings: Settings) -> tuple[int, int] | None:
    """User and group of model code that runs beside serving."""
    if os.geteuid() != 0 or settings.serving.allow_root_workers:
        return None
    return user_ids(settings.serving.worker_user)


def _watch_over(
    monitoring: MonitoringService,
    endpoints: EndpointService,
    registry: RegistryService,
    gateway: GatewayFiles,
) -> Callable[[], None]:
    """One look of the monitors at all that is live."""

    def look() -> None:
        places = endpoints.all()
        ids = sorted({route.version_id for one in places for route in one.routes})
        versions = registry.versions_by_id(ids)
        live = [
            LiveVersion(one.name, found.index, found.model, found.version, one.owner_team)
            for one in places
            for route in one.routes
            if (found := versions.get(route.version_id)) is not None and route.weight > 0
        ]
        monitoring.run_due(SYSTEM, live)
        monitoring.check_overload(SYSTEM, gateway.shares(), live)

    return look
