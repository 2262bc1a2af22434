"""What the server answers, as the client sees it. Fields that a newer server adds are ignored."""

from __future__ import annotations

import msgspec

from modelfleet.client.waiting import Progress


class Model(msgspec.Struct, frozen=True):
    name: str
    owner_team: str
    business_function: str
    criticality: str
    description: str
    tags: dict[str, str]
    latest_version: str | None
    versions: int
    created_at: str


class Version(msgspec.Struct, frozen=True):
    index: int
    model: str
    version: str
    sequence: int
    status: str
    reason: str
    serving: str
    bundle_digest: str
    metrics: dict[str, float]
    aliases: list[str]
    created_by: str
    created_at: str
    tags: dict[str, str] = {}
    stage: str = ""
    description: str = ""
    run_id: str | None = None


class VersionState(msgspec.Struct, frozen=True):
    """A version, and how far its preparation is while it is pending."""

    version: Version
    progress: Progress | None = None


class Route(msgspec.Struct, frozen=True):
    version_id: str
    weight: int
    shadow: int


class Endpoint(msgspec.Struct, frozen=True):
    name: str
    model: str
    owner_team: str
    revision: int
    applied_revision: int
    routes: list[Route]


class Pipeline(msgspec.Struct, frozen=True):
    name: str
    owner_team: str
    revision: int
    applied_revision: int
    definition: dict[str, object]
    created_by: str
    created_at: str
    problem: str = ""

    @property
    def is_live(self) -> bool:
        """The gateway routes to this revision."""
        return self.applied_revision == self.revision


class Rollout(msgspec.Struct, frozen=True):
    id: str
    endpoint: str
    model: str
    from_version: str | None
    to_version: str
    strategy: str
    state: str
    step: int
    sentence: str
    started_at: str
    ended_at: str | None

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "rolled_back", "cancelled", "superseded")


class Alert(msgspec.Struct, frozen=True):
    id: str
    kind: str
    state: str
    endpoint: str
    model: str
    version: str
    subject: str
    summary: str
    opened_at: str
    updated_at: str
