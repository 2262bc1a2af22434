"""Running a version beside serving: the variant that serves, in its environment, confined."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modelfleet.core.layout import Layout
from modelfleet.registry import BundleStore, RegistryService, Variant, Version
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet_worker.wire.desired import VersionSpec

Confined = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True)
class Program:
    """A module of the worker package that takes a version and a memory limit."""

    spec: VersionSpec
    argv: tuple[str, ...]


class Beside:
    """`confined` turns a command line into one that runs it where it can do no harm."""

    def __init__(
        self,
        layout: Layout,
        registry: RegistryService,
        bundles: BundleStore,
        environments: EnvironmentBuilder,
        confined: Confined,
        memory_mb: int,
    ) -> None:
        self._layout = layout
        self._registry = registry
        self._bundles = bundles
        self._environments = environments
        self._confined = confined
        self._memory_mb = memory_mb

    def program(
        self,
        version: Version,
        module: str,
        *,
        variant: Variant | None = None,
        python: Path | None = None,
    ) -> Program:
        """How to run `module` for that version. Raises `Conflict` while it can't serve.

        variant: another one than serves; python: another one than its environment's.
        """
        variant = variant or self._registry.serving_variant(version)
        bundle = self._bundles.materialise(self._registry.entries(variant.bundle_digest))
        if python is None and variant.environment_digest is not None:
            environment = self._registry.get_environment(variant.environment_digest)
            python = self._environments.python(environment)
        python = python or Path(sys.executable)
        spec = VersionSpec(
            index=version.index,
            model=version.model,
            version=version.version,
            sequence=version.sequence,
            digest=variant.bundle_digest,
            path=str(bundle),
            variant=variant.kind,
        )
        told = msgspec.json.encode(spec).decode()
        argv = [str(python), "-m", module, told, str(self._memory_mb)]
        return Program(spec, tuple(self._confined(argv)))


def environment(worker_package: Path) -> dict[str, str]:
    """What a process of model code inherits: where its package is, and one thread for numerics."""
    found = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(worker_package),
        "PYTHONSAFEPATH": "1",  # no module of the working folder, which anybody may write
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    return found | {k: v for k, v in os.environ.items() if k.startswith("OPENBLAS_")}
