"""Domain types of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

_T = TypeVar("_T")
RUN_STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
MODEL_STATUSES = ("PENDING", "READY", "UPLOAD_FAILED")
View = Literal["active", "deleted", "all"]


@dataclass(frozen=True)
class Page(Generic[_T]):
    items: Sequence[_T]
    more: bool
    """there are others behind these"""


@dataclass(frozen=True)
class Experiment:
    id: str
    number: int
    """counts within its namespace; what clients call the experiment's id"""
    name: str
    artifact_location: str
    created_at: int
    """milliseconds since 1970"""
    updated_at: int
    """milliseconds since 1970"""
    deleted: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    key: str
    value: float
    """NaN as it is; infinities become the largest doubles when they are stored"""
    timestamp: int
    """milliseconds since 1970"""
    step: int = 0
    model_id: str = ""
    """of the logged model that was measured"""
    dataset_name: str = ""
    dataset_digest: str = ""
    run_id: str = ""


@dataclass(frozen=True)
class Dataset:
    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None


@dataclass(frozen=True)
class Input:
    """A dataset that a run read."""

    dataset: Dataset
    tags: Mapping[str, str] = field(default_factory=dict)
    """`mlflow.data.context` says what for"""


@dataclass(frozen=True)
class ModelLink:
    """A logged model that a run read or made."""

    model_id: str
    direction: Literal["input", "output"]
    step: int = 0


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
    experiment_number: int = 0
    artifact_uri: str = ""
    points: Sequence[Point] = ()
    """the last value of each metric, with step and time"""
    inputs: Sequence[Input] = ()
    models: Sequence[ModelLink] = ()


@dataclass(frozen=True)
class LoggedModel:
    """A model that a run logged. It is frozen into a bundle when it gets READY."""

    id: str
    experiment_number: int
    name: str
    model_type: str
    source_run_id: str
    status: str
    """PENDING, READY or UPLOAD_FAILED"""
    status_message: str
    artifact_uri: str
    bundle_digest: str | None
    """None while it is not READY, and if it has no files"""
    created_at: int
    """milliseconds since 1970"""
    updated_at: int
    """milliseconds since 1970"""
    deleted: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[Point] = ()


@dataclass(frozen=True)
class FileInfo:
    path: str
    """its last segment"""
    is_dir: bool
    size: int = 0
    """bytes"""
