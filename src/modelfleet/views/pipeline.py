"""One pipeline for those who look at it: its graph, its steps and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet.core.authorization import Principal
from modelfleet.lineage import Edge, Node
from modelfleet.serving.pipelines.counters import PipelineCounters, StepCounters
from modelfleet.serving.pipelines.definition import references, split
from modelfleet.serving.pipelines.plan import PipelinePlan, StepPlan
from modelfleet.serving.pipelines.store import Pipeline
from modelfleet.views.lineage import Picture, picture
from modelfleet.wiring import Fleet

_INPUT = "input"


@dataclass(frozen=True)
class StepView:
    plan: StepPlan
    counted: StepCounters

    @property
    def title(self) -> str:
        """What is drawn above its name."""
        state = self.counted.breaker
        return self.plan.model if state == "closed" else f"circuit {state}: {self.plan.model}"

    @property
    def mean_ms(self) -> float | None:
        """of good calls"""
        good = self.counted.calls - self.counted.errors
        return self.counted.milliseconds / good if good > 0 else None

    @property
    def rules(self) -> str:
        """What is special about it, in words."""
        found = []
        if self.plan.when is not None:
            found.append("only some rows")
        if self.plan.timeout_ms is not None:
            found.append(f"within {self.plan.timeout_ms} ms")
        if (fallback := self.plan.fallback) is not None:
            ways = [
                name
                for name, given in (
                    ("previous version", fallback.previous),
                    ("cached answer", fallback.cached_ms),
                    ("constant", fallback.constant),
                )
                if given
            ]
            found.append(f"else {', '.join(ways)}")
        if self.plan.optional:
            found.append("optional")
        return "; ".join(found)


@dataclass(frozen=True)
class PipelineView:
    pipeline: Pipeline
    counted: PipelineCounters
    steps: tuple[StepView, ...]
    drawing: Picture
    observed: tuple[Edge, ...]
    """lineage: what feeds it, as far as requests showed it"""


def pipeline_view(fleet: Fleet, principal: Principal, name: str) -> PipelineView:
    pipeline = fleet.pipelines.get(principal, name)
    plan = fleet.pipelines.plan(principal, name)
    counted = fleet.pipelines.statistics(principal, name)
    steps = tuple(StepView(s, counted.steps.get(s.name, StepCounters())) for s in plan.steps)
    here = Node("pipeline", name)
    upstream = fleet.lineage.upstream(here)
    kinds = {"endpoint", "pipeline"}
    seen = tuple(e for e in upstream if e.source.kind in kinds and e.destination.kind in kinds)
    return PipelineView(pipeline, counted, steps, _drawing(plan, steps), seen)


def _drawing(plan: PipelinePlan, steps: Sequence[StepView]) -> Picture:
    """From the input through the steps to the pipeline's answer."""
    nodes = {one.plan.name: Node(one.title, one.plan.name) for one in steps}
    nodes[_INPUT] = Node("request", _INPUT)
    answer = Node("answer", plan.name)
    edges: dict[tuple[Node, Node], Edge] = {}

    def join(source: Node, destination: Node) -> None:
        edges.setdefault((source, destination), Edge(source, destination, "feeds"))

    for step in plan.steps:
        for owner in step.needs or (_INPUT,):
            join(nodes[owner], nodes[step.name])
        for fed in step.inputs:
            if any(split(one)[0] == _INPUT for one in references(fed.source)):
                join(nodes[_INPUT], nodes[step.name])
    for fed in plan.outputs:
        for one in references(fed.source):
            join(nodes[split(one)[0]], answer)
    return picture(answer, list(edges.values()), [])
