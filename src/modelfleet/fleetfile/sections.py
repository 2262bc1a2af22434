"""The sections of a model's document. What each says can be left to `fleet.yaml`'s defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, create_model, model_validator

from modelfleet.fleetfile import gates
from modelfleet.fleetfile.base import (
    Bool,
    Int,
    Name,
    Number,
    Section,
    Sticky,
    Text,
    Tier,
    words,
)
from modelfleet.fleetfile.units import Duration, Fraction, Size


class Metadata(Section):
    """Whose model it is and what for."""

    name: Name
    owner: Annotated[str, Field(min_length=1, max_length=120)]
    """the team; grants count by team"""
    description: Text | None = None
    function: Annotated[str, Field(max_length=120)] | None = None
    """the business function that it serves"""
    tier: Tier | None = None
    """how critical it is. `fleet.yaml` can hold defaults for each tier; models of the tier
    `critical` stay loaded"""
    tags: dict[str, str] | None = None
    """these tags are the file's own; others are left alone"""


class Source(Section):
    """Where versions come from: the registry, or files beside the document."""

    registry: Annotated[str, Field(pattern=r"^models:/[^/@]+$")] | None = None
    """`models:/NAME`; the document's own name if nothing is said"""
    version: str | None = None
    """a range (`^1.4`, `~2.1.0`, `>=1,<3`), a version, an alias, a stage or `latest`"""
    path: str | None = None
    """a bundle or a model as its framework saved it, registered at apply; a path beside the
    document"""
    kind: str | None = None
    """of what is at `path`, if that can't be told: sklearn, onnx, python, ..."""
    example: str | None = None
    """file with rows of its inputs: .npy, .npz, .json or .csv"""
    reference: str | None = None
    """file with training rows that production is compared with"""
    requirements: tuple[str, ...] | None = None
    python: str | None = None
    digest: str | None = None
    """of what is at `path`; written by `apply`, not by people"""

    @model_validator(mode="after")
    def _one(self) -> Source:
        if (self.path is None) == (self.version is None):
            raise ValueError("a source has a version (of the registry) or a path (of files)")
        beside = (self.kind, self.example, self.reference, self.requirements, self.python)
        if self.path is None and any(one is not None for one in beside):
            raise ValueError("kind, example, reference, requirements and python belong to a path")
        if self.path is not None and self.registry is not None:
            raise ValueError("files are registered as versions of the document's own model")
        return self


class Use(Section):
    """A model whose answers this one takes in."""

    model: Name
    version: str | None = None
    """the range of its versions that this model was made for"""
    alias: str | None = Field(None, alias="as")
    """what this model calls it"""


class Consumer(Section):
    """Who uses the answers: another model, a pipeline, or an application."""

    model: Name | None = None
    app: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Consumer:
        if (self.model is None) == (self.app is None):
            raise ValueError("a consumer is a model or an app")
        return self


class Resources(Section):
    """What one replica needs."""

    memory: Size | None = None
    cpu: Annotated[Number, Field(gt=0)] | None = None
    gpu: Annotated[Int, Field(ge=0)] | None = None


class Serve(Section):
    """How the model runs. `isolate` is another word for `isolation`."""

    @model_validator(mode="before")
    @classmethod
    def _isolate(cls, given: Any) -> Any:
        if isinstance(given, dict) and "isolate" in given and "isolation" not in given:
            return {("isolation" if key == "isolate" else key): v for key, v in given.items()}
        return given

    runtime: Literal["auto", "source", "compiled", "onnx"] | None = None
    """auto: compiled where that is proven equal and measured faster"""
    env: Literal["auto"] | None = None
    isolation: Literal["shared", "team", "model"] | None = None
    """with whom it may share a process: anybody, its team's models, nobody"""
    pinned: Bool | None = None
    """stays loaded, whatever else wants memory"""
    timeout: Duration | None = None
    """of a request"""
    resources: Resources | None = None


class Target(Section):
    """What a replica is meant to carry."""

    concurrency: Annotated[Number, Field(gt=0)] | None = None
    requests_per_second: Annotated[Number, Field(gt=0)] | None = None
    latency: Duration | None = None


class ScaleWindow(Section):
    """Other bounds at some times."""

    cron: str
    """when it begins"""
    min: Annotated[Int, Field(ge=0)] | None = None
    max: Annotated[Int, Field(ge=1)] | None = None


class Scale(Section):
    """How many replicas."""

    min: Annotated[Int, Field(ge=0)] | None = None
    max: Annotated[Int, Field(ge=1)] | None = None
    target: Target | None = None
    idle: Duration | None = None
    """unused for so long, it goes down to `min`"""
    schedule: tuple[ScaleWindow, ...] | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Scale:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self


class Rule(Section):
    """Requests that go to `version` before any weight counts: by header, caller or team."""

    version: str
    header: str | None = None
    equals: str | None = None
    prefix: str | None = None
    """instead of `equals`: how the header's value begins"""
    caller: str | None = None
    team: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Rule:
        if sum(one is not None for one in (self.header, self.caller, self.team)) != 1:
            raise ValueError("a rule asks for one of header, caller and team")
        if self.header is not None and (self.equals is None) == (self.prefix is None):
            raise ValueError("a rule for a header has one of equals and prefix")
        return self


class RateLimit(Section):
    """Of each caller by itself; beyond it 429."""

    requests: Annotated[Int, Field(ge=1, le=1_000_000)]
    per: Duration = 1.0

    @model_validator(mode="after")
    def _seconds(self) -> RateLimit:
        if self.per != int(self.per) or not 1 <= self.per <= 86_400:
            raise ValueError("per is whole seconds, up to a day")
        return self


class Endpoint(Section):
    """The public name that clients call, and its traffic policy."""

    name: (
        Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,118}[A-Za-z0-9])?$")] | None
    ) = None
    """the model's name if nothing is said"""
    sticky: Sticky | None = None
    rules: tuple[Rule, ...] | None = None
    rate_limit: RateLimit | None = None
    concurrency: Annotated[Int, Field(ge=1, le=10_000)] | None = None
    """requests that one worker runs at once for this endpoint"""
    priority: Literal["high", "normal", "low"] | None = None
    try_timeout: Duration | None = None
    """of one try: after it another worker is asked"""


def _gate(entry: object) -> object:
    """`- signature` is `- signature: {}`."""
    if isinstance(entry, str):
        return {entry: {}}
    if isinstance(entry, dict):
        return {kind: {} if told is None else told for kind, told in entry.items()}
    return entry


class _OneKind(Section):
    """One gate: its kind and what it is told."""

    @model_validator(mode="after")
    def _one(self) -> _OneKind:
        if len(self.model_fields_set) != 1:
            raise ValueError("a gate is written as `- kind: {...}`, one kind an entry")
        return self


_kinds: dict[str, Any] = {kind: (made | None, None) for kind, made in gates.KINDS.items()}
if TYPE_CHECKING:
    GateEntry = _OneKind
else:
    GateEntry = create_model("GateEntry", __base__=_OneKind, __doc__=_OneKind.__doc__, **_kinds)
Gates: TypeAlias = tuple[Annotated[GateEntry, BeforeValidator(_gate)], ...]


class DriftMonitor(Section):
    test: Literal["tolerance"] = "tolerance"
    window: Duration = 86400.0
    max_distance: Annotated[Number, Field(gt=0)] | None = None


class Slo(Section):
    availability: Fraction | None = None
    latency: Duration | None = None
    window: Duration = 30 * 86400.0


class Monitor(Section):
    """One of the things to watch."""

    drift: DriftMonitor | None = None
    slo: Slo | None = None

    @model_validator(mode="after")
    def _one(self) -> Monitor:
        if len(self.model_fields_set) != 1:
            raise ValueError("a monitor is written as `- drift: {...}` or `- slo: {...}`")
        return self


class Budget(Section):
    monthly: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]{1,2})? [A-Z]{3}$")]
    """amount and currency: `300 EUR`"""
    on_exceed: Literal["alert", "block"] = "alert"


class Triggers(Section):
    """What starts a training run."""

    alias: str | None = None
    """`MODEL@ALIAS` or an alias of this model: when it moves"""
    data: tuple[str, ...] | None = None
    """data sets: when one has a new version"""
    drift: Bool | None = None
    """when an incident of drift opens"""
    schedule: str | None = None
    """cron, UTC"""
    webhook: Bool | None = None


class Train(Section):
    """How a better version is made: a command or a Python function, with its inputs."""

    command: Annotated[tuple[str, ...], BeforeValidator(words)] | None = None
    """a line, split as a shell would, or a list of words"""
    entry: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """`module:function`"""
    code: tuple[str, ...] | None = None
    """files beside the document that it needs"""
    inputs: dict[str, str] | None = None
    """data sets by the name that the code knows them by"""
    requirements: tuple[str, ...] | None = None
    python: str | None = None
    schedule: str | None = None
    """cron, UTC; short for triggers.schedule"""
    triggers: Triggers | None = None
    timeout: Duration | None = None
    cooldown: Duration | None = None
    """the least time between two runs"""

    @model_validator(mode="after")
    def _one(self) -> Train:
        if (self.command is None) == (self.entry is None):
            raise ValueError("training is a command or an entry (module:function)")
        return self


class FileDigest(Section):
    """A file beside the document as it was applied."""

    digest: str
    size: Int
