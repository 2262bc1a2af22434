"""Pools and gateway: from endpoints and rollouts to what workers hold and where requests go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from modelfleet.core.clock import now_us
from modelfleet.core.courtesy import give_way
from modelfleet.core.errors import FleetError
from modelfleet.core.files import write_atomically
from modelfleet.core.settings import ServingSettings, Settings
from modelfleet.identity import IdentityService
from modelfleet.registry import BundleStore, Placement, RegistryService, Variant, Version
from modelfleet.rollouts.store import Row
from modelfleet.serving import pools, routing
from modelfleet.serving.compile import Conversion
from modelfleet.serving.endpoints import Endpoint, EndpointService
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.gateway import EndpointRoutes, GatewayConfig, GatewayFiles
from modelfleet.serving.pipelines.publisher import Additions, Publisher
from modelfleet.serving.quarantine import QuarantineService
from modelfleet.serving.tuning import OWN, Choice, TuningService

log = structlog.get_logger(__name__)
LIGHT_US, LIGHT_64_US = 20.0, 200.0
"""A model that takes no longer for one row, and for 64, is light (see `gateway.Target`)."""


@dataclass(frozen=True)
class Serving:
    """The rooms that this controller moves."""

    registry: RegistryService
    bundles: BundleStore
    endpoints: EndpointService
    identity: IdentityService
    environments: EnvironmentBuilder
    gateway: GatewayFiles
    quarantine: QuarantineService
    own_python: Path
    pipelines: Publisher
    tuning: TuningService


class TrafficController:
    """Holds the gateway configuration that was written last; it is on disk as well."""

    def __init__(self, settings: Settings, serving: Serving) -> None:
        self._settings = settings
        self._layout = settings.layout
        self._rooms = serving
        self._path = self._layout.gateway / "config.json"
        self._config = self._load()
        self._variants: dict[str, Variant] = {}
        self._quick: dict[str, bool] = {}

    def endpoints(self) -> Sequence[EndpointRoutes]:
        """As the gateway was told of them last."""
        return self._config.endpoints

    def take_over(self) -> None:
        """Forget what another control plane may have replaced meanwhile."""
        self._config = self._load()
        self._rooms.pipelines.take_over()
        self._rooms.gateway.take_over()

    def _load(self) -> GatewayConfig:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=GatewayConfig)
        except FileNotFoundError:
            return GatewayConfig(0)

    def round(self, endpoints: Sequence[Endpoint], rollouts: Sequence[Row]) -> Mapping[int, str]:
        """Move pools and gateway one step; return why versions (by index) can't be loaded."""
        pipelines = self._rooms.pipelines.round(endpoints, self._config)
        versions = self._versions(endpoints, rollouts, pipelines)
        give_way()
        demands = self._demands(endpoints, rollouts, versions, pipelines)
        give_way()
        before = pools.read_pools(self._layout)
        running = self._rooms.gateway.acknowledged()
        planned = pools.plan(
            demands,
            routing.held(self._config, running == self._config.revision, before),
            before,
            replicas=self._settings.serving.replicas,
            memory_mb=self._settings.serving.memory_mb,
            budget_mb=budget_mb(self._settings.serving),
            cpus=self._settings.serving.worker_cpus,
            first_revision=now_us(),
        )
        pools.write_pools(self._layout, before, planned)
        give_way()
        residency = pools.observe(self._layout, planned)
        give_way()
        self._route(endpoints, versions, demands, residency, planned, pipelines, running)
        return residency.failed

    def _versions(
        self, endpoints: Sequence[Endpoint], rollouts: Sequence[Row], pipelines: Additions
    ) -> dict[str, Version]:
        wanted = {version_id for one in endpoints for version_id in one.version_ids}
        wanted |= pipelines.pinned
        wanted |= {one for row in rollouts for one in row.version_ids}
        return self._rooms.registry.versions_by_id(sorted(wanted))

    def _demands(
        self,
        endpoints: Sequence[Endpoint],
        rollouts: Sequence[Row],
        versions: Mapping[str, Version],
        pipelines: Additions,
    ) -> list[pools.Demand]:
        promoted = {one.stable_version_id for one in endpoints}
        promoted |= pipelines.pinned - {arm.version_id for row in rollouts for arm in row.arms}
        promoted |= {row.from_version_id for row in rollouts}
        placements = self._rooms.registry.placements({one.model for one in versions.values()})
        quarantined = self._rooms.quarantine.current()
        tuned = self._rooms.tuning.applied()
        found = []
        for version in versions.values():
            if version.status != "ready":
                continue
            try:
                demand = self._demand(
                    version, version.id in promoted, placements[version.model], tuned
                )
                found.append(demand.but_not_run(quarantined.get(version.index, "")))
            except FleetError as error:  # one that can't be had must not stop the others
                log.error("no place", version=version.name, error=error.message)
        return found

    def _demand(
        self,
        version: Version,
        promoted: bool,
        placement: Placement,
        tuned: Mapping[str, Choice],
    ) -> pools.Demand:
        variant = self._variant(version)
        folder = self._layout.bundle(variant.bundle_digest)
        if not folder.exists():
            self._rooms.bundles.materialise(self._rooms.registry.entries(variant.bundle_digest))
        choice = tuned.get(version.id, OWN)
        spec = pools.VersionSpec(
            index=version.index,
            model=version.model,
            version=version.version,
            sequence=version.sequence,
            digest=variant.bundle_digest,
            path=str(folder),
            variant=variant.kind,
            pinned=placement.pinned,
            batch_rows=choice.batch_rows,
            inline=choice.inline,
        )
        alone = _alone(version, placement)
        light = self._quick[version.id] and choice.inline is not False
        if variant.environment_digest is None:
            return pools.Demand(spec, None, str(self._rooms.own_python), promoted, alone, light)
        python = self._layout.environment(variant.environment_digest) / "bin" / "python"
        if not python.exists():
            environment = self._rooms.registry.get_environment(variant.environment_digest)
            self._rooms.environments.python(environment)
        digest = variant.environment_digest
        return pools.Demand(spec, digest, str(python), promoted, alone, light)

    def _variant(self, version: Version) -> Variant:
        """A version's serving variant never changes once it is ready."""
        if version.id not in self._variants:
            found = self._rooms.registry.serving_variant(version)
            self._variants[version.id], self._quick[version.id] = found, _is_quick(found)
        return self._variants[version.id]

    def _route(
        self,
        endpoints: Sequence[Endpoint],
        versions: Mapping[str, Version],
        demands: Sequence[pools.Demand],
        residency: pools.Residency,
        planned: Mapping[str, pools.PoolSpec],
        pipelines: Additions,
        running: int,
    ) -> None:
        """running: the revision that the gateway runs."""
        sockets = {
            pool: tuple(
                str(self._layout.worker_socket(pool, replica)) for replica in range(spec.replicas)
            )
            for pool, spec in planned.items()
        } | pipelines.sockets
        plan = routing.plan(
            endpoints,
            versions,
            {demand.version.index: demand.home for demand in demands},
            residency,
            sockets,
            self._rooms.identity.revoked(),
            self._config,
            light={demand.version.index for demand in demands if demand.light},
            pins=pipelines.pins,
            others=pipelines.endpoints,
        )
        if plan.config.revision != self._config.revision:
            write_atomically(self._path, msgspec.json.encode(plan.config))
            self._config = plan.config
        if running != self._config.revision:
            try:
                self._rooms.gateway.write(self._config)
            except FleetError as error:
                log.error("gateway refused", revision=self._config.revision, error=error.message)
                return
            running = self._rooms.gateway.acknowledged()
        self._rooms.gateway.tidy()
        if running == self._config.revision:
            known = {one.id: one.applied_revision for one in endpoints}
            self._rooms.endpoints.mark_applied(
                {e: r for e, r in plan.applied.items() if known.get(e) != r}
            )
            self._rooms.pipelines.mark_applied(self._config)


def budget_mb(settings: ServingSettings) -> int:
    return settings.resident_mb or settings.memory_mb * 3 // 4


def _is_quick(variant: Variant) -> bool:
    """Whether one worker runs the model faster than a gateway brings requests, as it was measured
    when the variant was made."""
    found = Conversion.of(variant.evidence)
    if variant.kind != "compiled" or found is None or found.speed is None:
        return False
    one, many = found.speed.compiled_1_us, found.speed.compiled_64_us
    return one is not None and one <= LIGHT_US and many is not None and many <= LIGHT_64_US


def _alone(version: Version, placement: Placement) -> str:
    """Whom its workers serve, if not anybody."""
    if placement.isolation == "model":
        return f"model:{version.model}"
    return f"team:{placement.owner_team}" if placement.isolation == "team" else ""
