"""Domain types of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    id: str
    experiment_id: str
    experiment: str
    name: str
    user: str
    status: str
    """RUNNING, SCHEDULED, FINISHED, FAILED or KILLED"""
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    """the last value of each"""
    dataset: str
    git_commit: str
    created_at: str
    started_at: int | None = None
    """milliseconds since 1970"""
    ended_at: int | None = None
    """milliseconds since 1970"""
    deleted_at: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
