"""Domain types of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet.registry.bundles import Entry
from modelfleet.registry.signature import BundleInfo

DEFAULT_NAMESPACE_ID = "0" * 32
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
    updated_at: str
    latest_version: str | None
    versions: int
    isolation: str = "shared"
    aliases: Mapping[str, str] = field(default_factory=dict)
    """names, and the semantic versions they point at"""


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
    """registered (bytes are here, nothing was prepared), pending, ready, failed; or external: the
    bytes are elsewhere"""
    reason: str
    bundle_digest: str
    """empty if the version is external"""
    environment_digest: str | None
    requested_environment: Mapping[str, object]
    run_id: str | None
    created_by: str
    created_at: str
    info: BundleInfo
    serving: str
    """the chosen variant: source or compiled; empty until it is known"""
    metrics: Mapping[str, float]
    updated_at: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    stage: str = ""
    """dev, staging, prod or the team's own; empty: in none"""
    lifecycle: str = "active"
    """active, deprecated or retired"""
    lifecycle_reason: str = ""
    source_uri: str = ""
    run_link: str = ""
    logged_model_id: str | None = None
    code: Mapping[str, object] | None = None
    """snapshot of the code that trained it: git commit, dirty flag, files"""
    hardware: Mapping[str, object] | None = None
    """what it needs to run: memory in MB, cores, GPUs"""

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True)
class Stage:
    name: str
    position: int
    protected: bool
    """whoever promotes into it may roll out, not only register"""


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
class NewVersion:
    """What a caller registers. `requirements` are those of the model's own environment."""

    entries: tuple[Entry, ...]
    requirements: tuple[str, ...]
    python: str
    version: str | None = None
    experiment: str = "Default"
    run_name: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    dataset: str = ""
    git_commit: str = ""
    compile: bool = True
    """may it serve in its compiled form?"""
    uses: tuple[str, ...] = ()
    """models whose output is an input of this one"""
    run_id: str | None = None
    """a run that is here already; then the run's own fields above are not used"""
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    code: Mapping[str, object] | None = None
    hardware: Mapping[str, object] | None = None
    sequence: int | None = None
    """a number to keep, as of an import; None: the next. Numbers go up only, gaps stay"""
