"""Domain types of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet.registry.bundles import Entry
from modelfleet.registry.signature import BundleInfo

CRITICALITIES = ("low", "normal", "high", "critical")
ISOLATIONS = ("shared", "team", "model")
"""With whom a model may share a worker process: anybody, its team's models, nobody."""


@dataclass(frozen=True)
class Model:
    id: str
    name: str
    owner_team: str
    business_function: str
    criticality: str
    description: str
    tags: Mapping[str, str]
    created_at: str
    latest_version: str | None
    versions: int
    isolation: str = "shared"


@dataclass(frozen=True)
class Version:
    id: str
    index: int
    """number of this version among all versions of the home; what the request way carries"""
    model_id: str
    model: str
    owner_team: str
    sequence: int
    version: str
    status: str
    """pending, ready or failed"""
    reason: str
    bundle_digest: str
    environment_digest: str | None
    requested_environment: Mapping[str, object]
    run_id: str | None
    created_by: str
    created_at: str
    info: BundleInfo
    serving: str
    """the chosen variant: source or compiled; empty until it is known"""
    metrics: Mapping[str, float]
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True)
class Placement:
    """What a model says of where it runs."""

    isolation: str
    owner_team: str
    pinned: bool
    """it stays resident, whatever else wants memory"""


@dataclass(frozen=True)
class Variant:
    kind: str
    """source or compiled"""
    bundle_digest: str
    environment_digest: str | None
    """None is the platform's own ONNX runtime"""
    evidence: Mapping[str, object]


@dataclass(frozen=True)
class Environment:
    digest: str
    python: str
    platform: str
    lock: str


@dataclass(frozen=True)
class Run:
    id: str
    experiment: str
    name: str
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    dataset: str
    git_commit: str
    created_at: str


@dataclass(frozen=True)
class NewVersion:
    """What a caller registers. `requirements` are those of the model's own environment."""

    entries: tuple[Entry, ...]
    requirements: tuple[str, ...]
    python: str
    version: str | None = None
    experiment: str = "default"
    run_name: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    dataset: str = ""
    git_commit: str = ""
    compile: bool = True
    """may it serve in its compiled form?"""
    uses: tuple[str, ...] = ()
    """models whose output is an input of this one"""
