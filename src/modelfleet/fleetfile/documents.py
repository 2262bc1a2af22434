"""The three kinds of documents: Fleet, Model, Pipeline."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from modelfleet.fleetfile.base import Bool, Int, Name, Section, Text, Tier
from modelfleet.fleetfile.rollout import Approve, Rollout
from modelfleet.fleetfile.sections import (
    Budget,
    Consumer,
    Endpoint,
    FileDigest,
    Gates,
    Metadata,
    Monitor,
    Scale,
    Serve,
    Source,
    Train,
    Use,
)
from modelfleet.fleetfile.units import Duration, Fraction

API_VERSION = "modelfleet.dev/v1"
Version = Literal["modelfleet.dev/v1"]
Overlay = dict[str, Any]
"""any part of a document, laid over it: mappings are merged, null takes a key away, everything
else is replaced"""


class ModelDocument(Section):
    """One model: what it is, where its versions come from, how they are checked, rolled out,
    served, watched and made anew."""

    apiVersion: Version
    kind: Literal["Model"]
    metadata: Metadata
    source: Source | None = None
    """without it no version is rolled out by the file"""
    uses: tuple[Use, ...] | None = None
    consumers: tuple[Consumer, ...] | None = None
    serve: Serve | None = None
    scale: Scale | None = None
    endpoint: Endpoint | None = None
    gates: Gates | None = None
    """in the order in which they run"""
    rollout: Rollout | None = None
    approvals: Approve | None = None
    """before a version gets traffic; short for an `approve` step"""
    monitor: tuple[Monitor, ...] | None = None
    budget: Budget | None = None
    train: Train | None = None
    stages: dict[str, Overlay] | None = None
    """what is different in a stage, by its name"""
    files: dict[str, FileDigest] | None = None
    """local files that the document names, as they were applied; written by `apply`"""


class Tensor(Section):
    """A tensor of the pipeline's request; its first dimension is the rows (-1)."""

    name: Name
    datatype: str
    shape: tuple[Int, ...]


class Fallback(Section):
    """What a step answers when its model does not."""

    previous: Bool | None = None
    cached: Duration | None = None
    """the last answer to the same inputs, if it is not older"""
    constant: dict[str, Any] | None = None
    """by output"""


class Breaker(Section):
    """When a step's circuit opens."""

    window: Int | None = None
    minimum: Int | None = None
    share: Fraction | None = None
    open: Duration | None = None


class PipelineStep(Section):
    """One call of a model."""

    name: Name
    model: Name
    """the endpoint that is called"""
    inputs: dict[str, Any]
    """a source for each input: `input.NAME`, `STEP.OUTPUT` or a transform"""
    version: str | None = None
    when: str | None = None
    otherwise: dict[str, Any] | None = None
    timeout: Duration | None = None
    fallback: Fallback | None = None
    optional: Bool | None = None
    breaker: Breaker | None = None


class PipelineMetadata(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,118}[A-Za-z0-9])?$")]
    owner: Annotated[str, Field(min_length=1, max_length=120)]
    description: Text | None = None


class PipelineDocument(Section):
    """A typed graph of models behind one endpoint (docs/pipelines.md)."""

    apiVersion: Version
    kind: Literal["Pipeline"]
    metadata: PipelineMetadata
    inputs: Annotated[tuple[Tensor, ...], Field(min_length=1)]
    steps: Annotated[tuple[PipelineStep, ...], Field(min_length=1, max_length=100)]
    outputs: Annotated[dict[str, Any], Field(min_length=1)]
    timeout: Duration | None = None
    consumers: tuple[Consumer, ...] | None = None
    stages: dict[str, Overlay] | None = None
    """what is different in a stage, by its name"""


class ModelDefaults(Section):
    """What models say that say nothing else: any section of a model's document."""

    metadata: Overlay | None = None
    source: Overlay | None = None
    serve: Overlay | None = None
    scale: Overlay | None = None
    endpoint: Overlay | None = None
    gates: tuple[Any, ...] | None = None
    rollout: Overlay | None = None
    approvals: Overlay | None = None
    monitor: tuple[Any, ...] | None = None
    budget: Overlay | None = None
    train: Overlay | None = None


class Stage(Section):
    """What is different in a stage (or environment): `plan --stage NAME`."""

    defaults: ModelDefaults | None = None
    tiers: dict[Tier, ModelDefaults] | None = None
    models: dict[str, Overlay] | None = None
    """by name of the model"""
    pipelines: dict[str, Overlay] | None = None
    exclude: tuple[str, ...] | None = None
    """models and pipelines that are not in this stage, by name; `*` stands for any letters"""


class FleetMetadata(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,60}[A-Za-z0-9])?$")]
    """of the fleet: objects belong to it, and `--prune` looks at no others"""


class FleetDocument(Section):
    """`fleet.yaml`: which files belong to the fleet, and what their documents have in common."""

    apiVersion: Version
    kind: Literal["Fleet"]
    metadata: FleetMetadata
    include: tuple[str, ...] = ("**/*.model.yaml", "**/*.pipeline.yaml")
    """globs, from the folder of this file"""
    defaults: ModelDefaults | None = None
    tiers: dict[Tier, ModelDefaults] | None = None
    """defaults by criticality"""
    stages: dict[str, Stage] | None = None


KINDS: dict[str, type[BaseModel]] = {
    "Fleet": FleetDocument,
    "Model": ModelDocument,
    "Pipeline": PipelineDocument,
}
