"""Versions for tests, through the real registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet.core.blobs import FolderBlobStore
from modelfleet.registry import Entry, NewVersion, Version
from modelfleet.wiring import Fleet
from people import ADMIN


@dataclass
class Registrar:
    """Registers small versions through the real registry."""

    fleet: Fleet
    count: int = 0

    def new(
        self,
        *,
        version: str | None = None,
        features: int = 2,
        content: bytes | None = None,
        python: str = "3.11",
        dataset: str = "",
        uses: tuple[str, ...] = (),
    ) -> NewVersion:
        self.count += 1
        artifact = content if content is not None else f"model {self.count}".encode()
        x = {"name": "x", "datatype": "FP64", "shape": [-1, features]}
        x["features"] = [f"f{k}" for k in range(features)]
        info = {
            "format": 1,
            "runtime": "sklearn",
            "artifact": "model.joblib",
            "method": "predict",
            "signature": {
                "inputs": [x],
                "outputs": [{"name": "prediction", "datatype": "FP64", "shape": [-1]}],
            },
            "score": {"output": "prediction", "column": None},
            "options": {},
        }
        files = {"bundle.json": json.dumps(info).encode(), "model.joblib": artifact}
        blobs = FolderBlobStore(self.fleet.layout.blobs)
        entries = []
        for path, data in files.items():
            sha256, size = blobs.put([data])
            entries.append(Entry(path, sha256, size))
        return NewVersion(
            tuple(entries), ("numpy",), python, version=version, dataset=dataset, uses=uses
        )

    def model(self, name: str = "churn", team: str = "growth") -> None:
        self.fleet.registry.create_model(ADMIN, name, owner_team=team)

    def version(self, name: str = "churn", **given: object) -> Version:
        return self.fleet.registry.register(ADMIN, name, self.new(**given))  # type: ignore[arg-type]

    def ready(
        self, name: str = "churn", evidence: Mapping[str, object] | None = None, **given: object
    ) -> Version:
        """A version as the preparing job leaves it, served by its compiled form."""
        from modelfleet.core.authorization import SYSTEM
        from modelfleet.registry import Environment, Variant

        made = self.version(name, **given)
        entries = self.fleet.registry.entries(made.bundle_digest)
        environment = Environment("e" * 64, "3.11", "linux-x86_64", "numpy==2.0\n")
        variant = Variant("compiled", made.bundle_digest, None, evidence or {})
        self.fleet.registry.mark_ready(SYSTEM, made, environment, [(variant, entries)], "compiled")
        return self.fleet.registry.get_version(ADMIN, name, str(made.sequence))
