"""Which worker pools there should be, and what each of them holds. Pure but for reading blocks.

A pool is named by its environment, and by the team or model that it serves if that one does not
share. Versions that are not promoted yet run in a pool of their own
beside it (`-canary`), so that a bad one can hurt only itself. A version that moves between pools
stays in the old one until the gateway routes it to the new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from modelfleet.core.layout import Layout
from modelfleet.serving.pulse import STALE_SECONDS
from modelfleet_worker.wire import desired
from modelfleet_worker.wire.control import ControlBlock, State
from modelfleet_worker.wire.desired import PoolSpec, VersionSpec

__all__ = [
    "Demand",
    "PoolSpec",
    "Residency",
    "VersionSpec",
    "observe",
    "plan",
    "read_pools",
    "write_pools",
]

COMPILED_POOL = "onnx"


@dataclass(frozen=True)
class Demand:
    """A version that must be resident."""

    version: VersionSpec
    environment: str | None
    """digest; None is the platform's own ONNX runtime"""
    python: str
    promoted: bool
    alone: str = ""
    """whom the workers serve, if not anybody: `team:NAME` or `model:NAME`"""
    light: bool = False
    """see `gateway.Target`"""

    @property
    def home(self) -> str:
        base = COMPILED_POOL if self.environment is None else f"env-{self.environment[:12]}"
        if self.alone:
            base += f"-{hashlib.sha256(self.alone.encode()).hexdigest()[:10]}"
        return base if self.promoted else f"{base}-canary"

    def but_not_run(self, reason: str) -> Demand:
        """The same in quarantine for that reason; as it is if there is none."""
        return replace(self, version=msgspec.structs.replace(self.version, quarantined=reason))


def plan(
    demands: Iterable[Demand],
    held: Container[tuple[str, int]],
    before: Mapping[str, PoolSpec],
    *,
    replicas: int,
    memory_mb: int,
    budget_mb: int = 0,
    cpus: int = 0,
    first_revision: int = 1,
) -> dict[str, PoolSpec]:
    """The pools that should be, by name.

    `held`: (pool, version index) to which the gateway may still send requests: these stay, wanted
    or not. A pool whose content changes gets the next revision; an unchanged one is returned as
    it was. A new pool begins at `first_revision`: above all that a pool of that name ever had, or
    workers of the old one would seem to have acknowledged it.
    """
    members: dict[str, dict[int, VersionSpec]] = {}
    pythons: dict[str, str] = {}
    for pool, spec in before.items():
        kept = {v.index: v for v in spec.versions if (pool, v.index) in held}
        if kept:
            members[pool], pythons[pool] = kept, spec.python
    for demand in demands:
        members.setdefault(demand.home, {})[demand.version.index] = demand.version
        pythons[demand.home] = demand.python
    planned: dict[str, PoolSpec] = {}
    for pool, versions in members.items():
        known = before.get(pool)
        spec = PoolSpec(
            pool=pool,
            revision=known.revision if known else first_revision,
            python=pythons[pool],
            replicas=replicas,
            memory_mb=memory_mb,
            versions=tuple(versions[index] for index in sorted(versions)),
            budget_mb=budget_mb,
            cpus=cpus,
        )
        if known is not None and spec != known:
            spec = msgspec.structs.replace(spec, revision=known.revision + 1)
        planned[pool] = spec
    return planned


@dataclass(frozen=True)
class Residency:
    """Where versions are resident in every replica, and which could not be loaded."""

    ready: frozenset[tuple[str, int]]
    """(pool, version index)"""
    failed: Mapping[int, str]
    """version index to the reason"""


def observe(layout: Layout, pools: Mapping[str, PoolSpec]) -> Residency:
    """Read the control blocks of all replicas."""
    ready: set[tuple[str, int]] = set()
    failed: dict[int, str] = {}
    for pool, spec in pools.items():
        broken: set[int] = set()
        settled = True
        for replica in range(spec.replicas):
            answer = _read(layout.control_block(pool, replica), spec.revision)
            if answer is None:
                settled = False
                continue
            reason, indexes = answer
            broken |= indexes
            failed |= dict.fromkeys(indexes, reason or "It could not be loaded.")
        if settled:
            ready |= {(pool, v.index) for v in spec.versions if v.index not in broken}
    return Residency(frozenset(ready), failed)


def _read(path: Path, revision: int) -> tuple[str, frozenset[int]] | None:
    """(last error, versions that failed) of a replica that acknowledged the revision."""
    try:
        with ControlBlock.open(path) as block:
            seen = block.snapshot()
    except (FileNotFoundError, ValueError):
        return None
    if seen.state != State.READY or seen.revision < revision:
        return None
    if seen.silent_for() > STALE_SECONDS:
        return None
    return seen.error, frozenset(seen.failed)


def read_pools(layout: Layout) -> dict[str, PoolSpec]:
    """The pools as they stand on disk."""
    return {path.stem: desired.load(path) for path in sorted(layout.desired.glob("*.json"))}


def write_pools(
    layout: Layout, before: Mapping[str, PoolSpec], planned: Mapping[str, PoolSpec]
) -> Sequence[str]:
    """Replace the files that changed and remove those of pools that are gone; their names."""
    changed = [pool for pool, spec in planned.items() if before.get(pool) != spec]
    for pool in changed:
        desired.dump(planned[pool], layout.pool(pool))
    gone = [pool for pool in before if pool not in planned]
    for pool in gone:
        layout.pool(pool).unlink(missing_ok=True)
    return [*changed, *gone]
