"""What executors count, as they write it and as the control plane reads it."""

from __future__ import annotations

import msgspec

from modelfleet.core.layout import Layout
from modelfleet.serving.pipelines.plan import REPLICAS


class StepCounters(msgspec.Struct):
    """Of one step since its executor started."""

    calls: int = 0
    """requests in which the model was called"""
    errors: int = 0
    """calls that brought no good answer; timeouts are among them"""
    timeouts: int = 0
    refused: int = 0
    """requests for which the circuit was open"""
    skipped: int = 0
    """requests of which no row met the condition"""
    fallbacks: int = 0
    missing: int = 0
    """requests that went on without the step's outputs"""
    milliseconds: float = 0.0
    """spent in good calls, all together"""
    breaker: str = "closed"
    last_error: str = ""

    def add(self, other: StepCounters) -> StepCounters:
        """Both together; the worse circuit counts."""
        worse = {"closed": 0, "half-open": 1, "open": 2}
        return StepCounters(
            self.calls + other.calls,
            self.errors + other.errors,
            self.timeouts + other.timeouts,
            self.refused + other.refused,
            self.skipped + other.skipped,
            self.fallbacks + other.fallbacks,
            self.missing + other.missing,
            self.milliseconds + other.milliseconds,
            max(self.breaker, other.breaker, key=lambda state: worse.get(state, 0)),
            self.last_error or other.last_error,
        )


class PipelineCounters(msgspec.Struct):
    requests: int = 0
    errors: int = 0
    """answers of 500 and above"""
    partial: int = 0
    steps: dict[str, StepCounters] = {}
    edges: dict[str, list[str]] = {}
    """steps from which a step was seen to take values that a model gave, by step"""

    def as_document(self) -> dict[str, object]:
        """Plain values, as JSON has them."""
        found: dict[str, object] = msgspec.to_builtins(self)
        return found

    def saw(self, source: str, destination: str) -> None:
        known = self.edges.setdefault(destination, [])
        if source not in known:
            known.append(source)

    def add(self, other: PipelineCounters) -> PipelineCounters:
        steps = dict(self.steps)
        for name, counted in other.steps.items():
            steps[name] = steps[name].add(counted) if name in steps else counted
        edges = {name: list(known) for name, known in self.edges.items()}
        for name, known in other.edges.items():
            edges[name] = list(dict.fromkeys([*edges.get(name, []), *known]))
        return PipelineCounters(
            self.requests + other.requests,
            self.errors + other.errors,
            self.partial + other.partial,
            steps,
            edges,
        )


class Counted(msgspec.Struct):
    """One executor's file."""

    pipelines: dict[str, PipelineCounters] = {}


def read(layout: Layout) -> dict[str, PipelineCounters]:
    """All executors together, by pipeline. One that has not written yet counts nothing."""
    found: dict[str, PipelineCounters] = {}
    for replica in range(REPLICAS):
        try:
            raw = layout.pipeline_counters(replica).read_bytes()
            counted = msgspec.json.decode(raw, type=Counted)
        except (FileNotFoundError, msgspec.DecodeError):
            continue
        for name, counters in counted.pipelines.items():
            found[name] = found[name].add(counters) if name in found else counters
    return found
