"""Between the database, the executors and the gateway: what pipelines need to be callable.

A definition reaches the gateway only when every executor holds it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from modelfleet.core.authorization import SYSTEM
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, Unauthenticated
from modelfleet.core.files import write_atomically
from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.identity import IdentityService
from modelfleet.lineage import Node, add_edge
from modelfleet.registry import RegistryService
from modelfleet.serving.endpoints import FULL, Endpoint
from modelfleet.serving.gateway import EndpointRoutes, GatewayConfig, Target
from modelfleet.serving.pipelines import counters, store
from modelfleet.serving.pipelines.plan import POOL, REPLICAS, PipelinePlan, Published, load
from modelfleet.serving.pulse import read_pulse
from modelfleet_worker.wire import desired
from modelfleet_worker.wire.bundle import FILES
from modelfleet_worker.wire.spec import BUNDLE_FILE, BundleSpec

log = structlog.get_logger(__name__)
PRINCIPAL = "pipelines"
FEEDS, CALLED_BY = "feeds", "called-by"
"""lineage, as requests showed it: between endpoints, and from an endpoint to a pipeline"""
_KEY_SECONDS = 30 * 86_400
_STALE_SECONDS = 3.0


@dataclass(frozen=True)
class Additions:
    """What pipelines add to the plan of pools and gateway."""

    endpoints: tuple[EndpointRoutes, ...]
    pins: Mapping[str, tuple[str, ...]]
    """ids of versions that steps pin or fall back to, by endpoint"""
    sockets: dict[str, tuple[str, ...]]

    @property
    def pinned(self) -> set[str]:
        return {version_id for ids in self.pins.values() for version_id in ids}


class Publisher:
    """For the reconciler's thread alone."""

    def __init__(self, layout: Layout, database: Database, registry: RegistryService) -> None:
        self._layout = layout
        self._database = database
        self._registry = registry
        self._heads: list[tuple[str, int]] | None = None
        self._applied: dict[str, int] = {}
        self._plans: list[PipelinePlan] = []
        self._published: Published | None = None
        self._drawn: set[tuple[Node, str, Node]] = set()

    def take_over(self) -> None:
        """Another control plane may have published meanwhile: the file counts."""
        self._heads = self._published = None

    @property
    def is_needed(self) -> bool:
        """Is there any pipeline?"""
        return bool(self._plans)

    def round(self, endpoints: Sequence[Endpoint], before: GatewayConfig) -> Additions:
        """Tell the executors what to hold; what they hold goes to the gateway."""
        self._read()
        previous = {one.name: one.previous_version_id for one in endpoints}
        published = self._publish([self._with_previous(plan, previous) for plan in self._plans])
        ready = self._are_ready(published.revision)
        known = {one.name: one for one in before.endpoints if _is_ours(one)}
        made = []
        for plan in published.pipelines:
            if ready:
                made.append(_routes(plan))
            elif plan.name in known:
                made.append(known[plan.name])
        sockets = (str(self._layout.worker_socket(POOL, replica)) for replica in range(REPLICAS))
        return Additions(tuple(made), self._pins(previous), {POOL: tuple(sockets)})

    def mark_applied(self, config: GatewayConfig) -> None:
        """Note which revision of each pipeline the gateway runs."""
        running = {one.name: one.targets[0].sequence for one in config.endpoints if _is_ours(one)}
        changed = {n: r for n, r in running.items() if self._applied.get(n, r) != r}
        if changed:
            with self._database.begin() as connection:
                for name, revision in changed.items():
                    store.mark_applied(connection, name, revision)

    def observe(self) -> None:
        """Draw what executors saw into the lineage; each edge once."""
        if not self._plans:
            return
        found = counters.read(self._layout)
        edges: set[tuple[Node, str, Node]] = set()
        for plan in self._plans:
            seen = found.get(plan.name, counters.PipelineCounters())
            models = {step.name: Node("endpoint", step.model) for step in plan.steps}
            for name, counted in seen.steps.items():
                if name in models and counted.calls > counted.errors:
                    edges.add((models[name], CALLED_BY, Node("pipeline", plan.name)))
            for name, origins in seen.edges.items():
                for origin in origins:
                    if name in models and models.get(origin) not in (None, models[name]):
                        edges.add((models[origin], FEEDS, models[name]))
        new = edges - self._drawn
        if new:
            with self._database.begin() as connection:
                for source, relation, destination in new:
                    add_edge(connection, source, relation, destination)
        self._drawn |= new

    def _read(self) -> None:
        with self._database.read() as connection:
            heads = store.heads(connection)
            self._applied = {name: applied for name, _, applied in heads}
            now = [(name, revision) for name, revision, _ in heads]
            if now != self._heads:
                self._plans = [row.plan for row in store.find(connection)]
                self._heads = now
                self._drawn = set()  # a redefined pipeline has lost its edges

    def _with_previous(
        self, plan: PipelinePlan, previous: Mapping[str, str | None]
    ) -> PipelinePlan:
        steps = []
        for step in plan.steps:
            version_id = previous.get(step.model)
            if step.fallback is not None and step.fallback.previous and version_id is not None:
                version = self._registry.versions_by_id([version_id]).get(version_id)
                previously = version.version if version is not None else None
                step = msgspec.structs.replace(step, previous=previously)
            steps.append(step)
        return msgspec.structs.replace(plan, steps=tuple(steps))

    def _pins(self, previous: Mapping[str, str | None]) -> dict[str, tuple[str, ...]]:
        found: dict[str, set[str]] = {}
        for plan in self._plans:
            for step in plan.steps:
                wanted = {step.version_id}
                if step.fallback is not None and step.fallback.previous:
                    wanted.add(previous.get(step.model))
                found.setdefault(step.model, set()).update(v for v in wanted if v is not None)
        return {name: tuple(sorted(ids)) for name, ids in found.items() if ids}

    def _publish(self, plans: Sequence[PipelinePlan]) -> Published:
        before = self._published or _on_disk(self._layout)
        if before.pipelines == tuple(plans) and (before.revision or not plans):
            self._published = before
            return before
        # The first one is above all that executors of an earlier file acknowledged.
        revision = before.revision + 1 if before.revision else now_us()
        made = Published(revision, tuple(plans))
        self._write_layouts(made)
        write_atomically(self._layout.pipelines, msgspec.json.encode(made), 0o600)
        self._published = made
        return made

    def _write_layouts(self, published: Published) -> None:
        """Signatures for readers of records; those of earlier revisions stay for their records."""
        versions = []
        for plan in published.pipelines:
            folder = self._layout.pipeline_bundle(plan.index)
            spec = BundleSpec("python", "none", plan.signature)
            path = folder / FILES / BUNDLE_FILE
            if not path.exists():
                write_atomically(path, msgspec.json.encode(spec))
            versions.append(
                desired.VersionSpec(
                    index=plan.index,
                    model=plan.name,
                    version=str(plan.revision),
                    sequence=plan.revision,
                    digest="",
                    path=str(folder),
                )
            )
        pool = desired.PoolSpec(POOL, published.revision, "", REPLICAS, versions=tuple(versions))
        desired.dump(pool, self._layout.pipeline_layouts)

    def _are_ready(self, revision: int) -> bool:
        """Does every executor hold this revision, and a key to call its models?"""
        if not self._layout.pipelines_key.exists():
            return False
        for replica in range(REPLICAS):
            pulse = read_pulse(self._layout.control_block(POOL, replica))
            if pulse is None or pulse.state != "ready" or pulse.revision < revision:
                return False
            if pulse.silent_seconds > _STALE_SECONDS:
                return False
        return True


class PlatformKey:
    """The key with which executors call models: theirs alone, renewed before it expires."""

    def __init__(self, path: Path, identity: IdentityService, signing_key: SigningKey) -> None:
        self._path = path
        self._identity = identity
        self._signing_key = signing_key

    def keep(self, needed: bool) -> None:
        """Have a valid key in the file. To revoke it is to ask for a new one."""
        if not needed or self._is_good():
            return
        with suppress(Conflict):  # it has had a key before
            self._identity.create_principal(SYSTEM, PRINCIPAL, "service")
        text, _ = self._identity.create_key(
            SYSTEM, PRINCIPAL, name="pipelines", models=("*",), seconds=_KEY_SECONDS
        )
        write_atomically(self._path, text.encode(), 0o600)

    def _is_good(self) -> bool:
        try:
            text = self._path.read_text("ascii").strip()
            token = self._signing_key.verify(text)
            self._identity.authenticate(text)
        except (FileNotFoundError, UnicodeDecodeError, Unauthenticated):
            return False
        return token.expires_at - time.time() > _KEY_SECONDS / 2


def _on_disk(layout: Layout) -> Published:
    """What was published last. A file that can't be read must not hold up the fleet."""
    try:
        return load(layout)
    except msgspec.DecodeError as error:
        log.error("pipelines.json can't be read; it is written anew", error=str(error))
        return Published()


def _routes(plan: PipelinePlan) -> EndpointRoutes:
    target = Target(plan.index, str(plan.revision), plan.revision, POOL, FULL)
    return EndpointRoutes(plan.name, (target,), timeout_ms=plan.timeout_ms, retries_503=False)


def _is_ours(endpoint: EndpointRoutes) -> bool:
    return any(target.pool == POOL for target in endpoint.targets)
