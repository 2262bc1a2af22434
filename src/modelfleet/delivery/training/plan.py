"""How a model is trained, when, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from modelfleet.rollouts.plan import Spec


class State(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"
    """its environment is built"""
    TRAINING = "training"
    REGISTERING = "registering"
    WAITING = "waiting"
    """for the endpoint: another rollout is on its way there"""
    ROLLING_OUT = "rolling-out"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    """gates or the judge said no"""
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({State.PROMOTED, State.REJECTED, State.FAILED, State.CANCELLED})
WORKING = frozenset({State.QUEUED, State.PREPARING, State.TRAINING, State.REGISTERING})
"""states in which something runs here"""
STOPPABLE = WORKING | {State.WAITING}
"""states in which a run can be cancelled: later, its rollout is aborted"""


@dataclass(frozen=True)
class Cause:
    kind: Literal["manual", "schedule", "alias", "data", "drift", "webhook"]
    detail: str = ""
    """which alias, data set, alert, or whose wish"""


@dataclass(frozen=True)
class Plan:
    """What the `train` section of a model's document says.

    files: name to sha256 of what lies in the working folder. inputs: name to a data set
    (`NAME@VERSION`), or to one of the files.
    """

    model: str
    owner_team: str
    command: tuple[str, ...] = ()
    entry: str = ""
    """`module:function`, instead of a command"""
    files: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    python: str = ""
    """that of the platform, if empty"""
    timeout_seconds: float = 3600.0
    cooldown_seconds: float = 600.0
    """the least time between two runs that nobody asked for by hand"""
    schedule: str = ""
    """cron, UTC"""
    aliases: tuple[str, ...] = ()
    """`MODEL@ALIAS`"""
    data: tuple[str, ...] = ()
    drift: bool = False
    webhook: bool = False

    @property
    def is_triggered(self) -> bool:
        return bool(self.schedule or self.aliases or self.data or self.drift)


@dataclass(frozen=True)
class Destination:
    """Where versions of a model are rolled out, and how."""

    endpoint: str
    spec: Spec
