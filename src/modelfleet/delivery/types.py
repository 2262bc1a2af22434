"""What planning and applying fleet files say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelfleet.core.errors import Conflict
from modelfleet.delivery.diff import Change
from modelfleet.delivery.objects import FleetObject
from modelfleet.delivery.samples import Expected

NONE, RECORD, CREATE, UPDATE, DELETE = "none", "record", "create", "update", "delete"
UNMADE = "unmade"


@dataclass(frozen=True)
class VersionMove:
    """Which version serves, and which one the source means now."""

    reference: str
    before: str
    """empty if none serves"""
    after: str
    """empty if the source means none yet"""
    state: str
    """same, rollout (apply starts one), unmade (apply registers it first), running, held, blocked
    or missing"""
    sentence: str = ""

    @property
    def moves(self) -> bool:
        """Whether applying moves traffic, sooner or later."""
        return self.state in ("rollout", UNMADE)


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a document, as far as only the platform can know."""

    kind: str
    name: str
    path: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class ObjectPlan:
    kind: str
    name: str
    action: str
    """none, record (all is so already, only the record is not), create, update or delete"""
    changes: tuple[Change, ...] = ()
    version: VersionMove | None = None
    steps: tuple[str, ...] = ()
    affected: tuple[str, ...] = ()
    """what takes its answers, directly or not: `model upsell`"""
    samples: tuple[Expected, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    generation: int = 0
    """that was applied last; 0: none was"""
    replicas: int = 0
    """more (or fewer) workers while it rolls out"""
    memory: int | None = None
    """bytes that these declare; None if the document doesn't say"""
    fingerprint: str = ""
    """of all that the plan was made from: it is stale once this changes"""

    @property
    def counts(self) -> bool:
        """Whether applying changes anything."""
        return self.action in (CREATE, UPDATE, DELETE)


@dataclass(frozen=True)
class Plan:
    id: str
    fleet: str
    stage: str
    objects: tuple[ObjectPlan, ...]
    """in the order in which they are applied"""
    troubles: tuple[Trouble, ...]
    """if there are any, nothing can be applied"""
    replicas: int
    """more (or fewer) workers while the rollouts of this plan run"""
    memory: int
    """bytes that these declare, as far as documents say so"""
    unpriced: str = "not priced yet"


@dataclass(frozen=True)
class Order:
    """One object to apply. fingerprint: of the plan that was shown; empty: whatever is there."""

    document: Any
    fingerprint: str = ""


@dataclass(frozen=True)
class Result:
    kind: str
    name: str
    outcome: str
    """created, updated, recorded, unchanged, removed; conflict, waiting, refused"""
    message: str = ""
    hint: str = ""
    generation: int = 0
    rollout: str | None = None
    version: str = ""
    status: int = 0
    """of the error, as HTTP has it; 0 if there is none"""


@dataclass(frozen=True)
class Standing:
    """Where an object stands against its last-applied document."""

    object: FleetObject
    state: str
    """ok, drift, stepping, rolled_back, waiting or unreadable"""
    sentence: str = ""


class Stale(Conflict):
    """The plan is not what it was when it was shown."""

    slug = "stale-plan"
