"""The words of an import, and the seam behind which each source lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

IMPORTED, ATTENTION, REFUSED = "imported", "attention", "refused"


class Attention(Exception):
    """Somebody must decide or do something before this item can be imported."""


class Refused(Exception):
    """This item is not taken."""


@dataclass(frozen=True)
class Item:
    """One thing to import. key: the same in every look at the source. version: a semantic version
    to keep, None to let the registry propose one. sequence: a version number to keep, where the
    source numbers versions as we do. what: `version`, `run` or `model` (a logged model)."""

    key: str
    model: str
    version: str | None = None
    what: str = "version"
    title: str = ""
    sequence: int | None = None


@dataclass
class Found:
    """A model, fetched. path: what `client.saving` reads; kind: its runtime where the path does not
    tell. example: rows of its inputs, `example_from`: where from; `made_up`: by whoever fetched it.
    requirements: None for those of the framework. origin: what the source says of it, kept in the
    bundle.

    source_uri: its address at a server that numbers versions as we do: it is registered in any
    case, with its description, tags and stage. unserved: why as it is; elsewhere: where its files
    stay, if they could not be fetched. run_key: of the run that made it.
    """

    path: Path
    kind: str | None = None
    example: object | None = None
    example_from: str = ""
    made_up: bool = False
    requirements: Sequence[str] | None = None
    python: str | None = None
    code: Path | None = None
    class_name: str | None = None
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Sequence[str] = ()
    experiment: str = "imported"
    parameters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    origin: Mapping[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unserved: str = ""
    source_uri: str = ""
    elsewhere: str = ""
    run_key: str = ""
    stage: str = ""


class MetricPoint(msgspec.Struct, frozen=True):
    """timestamp: milliseconds since 1970."""

    key: str
    value: float
    timestamp: int
    step: int


class RunRecord(msgspec.Struct, frozen=True):
    """A training run as others keep it. Times: milliseconds since 1970. artifacts: path to file."""

    key: str
    experiment: str
    name: str
    status: str = "FINISHED"
    started: int = 0
    ended: int | None = None
    parameters: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: list[MetricPoint] = []
    artifacts: dict[str, str] = {}
    notes: list[str] = []
    datasets: list[dict[str, Any]] = []
    """as MLflow's protocol tells of them"""
    experiment_tags: dict[str, str] = {}


class LoggedModel(msgspec.Struct, frozen=True):
    """A logged model of MLflow 3. status: without its prefix. metrics, links: with the keys of
    their runs; links: (run key, `input` or `output`, step)."""

    key: str
    experiment: str
    name: str
    model_type: str = ""
    status: str = "READY"
    run_key: str = ""
    parameters: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: list[tuple[str, dict[str, Any]]] = []
    links: list[tuple[str, str, int]] = []
    artifacts: dict[str, str] = {}


class Outcome(msgspec.Struct, frozen=True):
    """What became of an item: one line of the journal and of the report.

    example: `recorded` (rows of the source), `made up` (drawn at random), or empty. kept: where
    what was not registered lies. sandbox: empty if complete, else what it lacked.
    """

    key: str
    what: str
    model: str
    version: str | None
    state: str
    reason: str = ""
    example: str = ""
    kept: str = ""
    sandbox: str = ""
    notes: list[str] = []
    digest: str = ""
    earlier: bool = False
    sequence: int | None = None


class Source(Protocol):
    """Where models come from. `items` is cheap and gives versions of a model oldest first."""

    @property
    def name(self) -> str: ...

    @property
    def fetches(self) -> bool:
        """What it takes lies elsewhere, so that it is kept here if it can't be registered."""
        ...

    def items(self) -> Iterator[Item]: ...

    def take(self, item: Item, work: Path) -> Found | RunRecord | LoggedModel:
        """Fetch it into `work`. Raises `Attention`, `Refused`, or what keeps it from being read."""
        ...

    def model_facts(self, model: str) -> Mapping[str, object]:
        """`description`, `tags`, `team` of a model, as far as the source has them."""
        ...
