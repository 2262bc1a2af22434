"""What executors read: checked pipelines, steps in an order in which each can run.

`HOME/run/pipelines.json`, replaced by rename.
"""

from __future__ import annotations

import msgspec

from modelfleet.core.layout import Layout
from modelfleet.serving.pipelines.definition import (
    BreakerRule,
    Condition,
    Constant,
    Fallback,
    From,
    Source,
)
from modelfleet_worker.wire.signature import Signature, TensorSpec

POOL = "pipelines"
REPLICAS = 2
INDEX_BASE = 0xC000_0000
"""Pipelines have version indexes, too, for their prediction records: far above those of models."""


class Fed(msgspec.Struct, frozen=True):
    """A tensor and where its values come from."""

    spec: TensorSpec
    source: Source


class StepPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    model: str
    inputs: tuple[Fed, ...]
    outputs: tuple[TensorSpec, ...]
    """those that somebody takes"""
    needs: tuple[str, ...]
    """steps whose outputs it takes"""
    version: str | None = None
    version_id: str | None = None
    when: Condition | None = None
    otherwise: dict[str, Constant | From] = {}
    timeout_ms: int | None = None
    fallback: Fallback | None = None
    previous: str | None = None
    """the version to fall back to; known at the time of publishing"""
    optional: bool = False
    breaker: BreakerRule = BreakerRule()


class PipelinePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    timeout_ms: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[Fed, ...]
    steps: tuple[StepPlan, ...]
    revision: int = 0
    index: int = 0

    @property
    def signature(self) -> Signature:
        return Signature(self.inputs, tuple(fed.spec for fed in self.outputs))


FORMAT = 1
"""Raised when an executor of an earlier release would get the file wrong."""


class Published(msgspec.Struct, frozen=True):
    """The whole file."""

    revision: int = 0
    pipelines: tuple[PipelinePlan, ...] = ()
    format: int = FORMAT


class _Format(msgspec.Struct, frozen=True):
    format: int = FORMAT


def load(layout: Layout) -> Published:
    """Nothing yet: revision 0. Raises `msgspec.DecodeError`, also for a newer format."""
    try:
        content = layout.pipelines.read_bytes()
    except FileNotFoundError:
        return Published()
    found = msgspec.json.decode(content, type=_Format).format
    if found > FORMAT:
        raise msgspec.DecodeError(
            f"it has the format {found} of a newer release; this one knows {FORMAT}"
        )
    return msgspec.json.decode(content, type=Published)
