"""Registered versions as things to try."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from modelfleet.core.errors import Conflict
from modelfleet.registry import BundleStore, RegistryService, Variant, Version
from modelfleet.registry.signature import read
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.lab import Subject, own_python
from modelfleet.serving.progress import Report, nobody


class Subjects:
    def __init__(
        self, registry: RegistryService, bundles: BundleStore, environments: EnvironmentBuilder
    ) -> None:
        self._registry = registry
        self._bundles = bundles
        self._environments = environments

    def of(
        self, version: Version, variant: Variant | None = None, report: Report = nobody
    ) -> Subject:
        """In the form that serves, unless another is given. Builds the environment if it must.

        Raises `Conflict` unless the version is ready.
        """
        variant = variant or self._registry.serving_variant(version)
        entries = self._registry.entries(variant.bundle_digest)
        folder = self._bundles.materialise(entries)
        python, lock = own_python(), self._lock(version)
        if variant.environment_digest is not None:
            environment = self._registry.get_environment(variant.environment_digest)
            python = self._environments.python(environment, report)
        return Subject(
            version.model,
            version.version,
            variant.bundle_digest,
            folder,
            python,
            read(self._bundles.read(entries, "bundle.json")),
            variant.kind,
            version.environment_digest or "",
            lock,
            self._tags(version),
        )

    def registered(self, version: Version) -> Path:
        """The folder of its bundle."""
        return self._bundles.materialise(self._registry.entries(version.bundle_digest))

    def source(self, version: Version, report: Report = nobody) -> Subject:
        """In the form that was registered, with its environment. Raises `Conflict`."""
        for one in self._registry.variants([version.id]).get(version.id, ()):
            if one.kind == "source" and one.environment_digest is not None:
                return self.of(version, one, report)
        raise Conflict(f"{version.name} has no source form with a lock.")

    def _lock(self, version: Version) -> str:
        if version.environment_digest is None:
            return ""
        return self._registry.get_environment(version.environment_digest).lock

    def _tags(self, version: Version) -> Mapping[str, str]:
        return msgspec.convert(dict(version.tags), dict[str, str])
