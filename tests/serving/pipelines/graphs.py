"""Definitions and signatures for tests of pipelines."""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet.serving.pipelines.check import Callee
from modelfleet.serving.pipelines.definition import Definition, read
from modelfleet.serving.pipelines.kinds import Kind
from modelfleet.serving.pipelines.plan import PipelinePlan

ROWS = Kind("FP64", (-1,))
MATRIX = Kind("FP64", (-1, 3))
SCORER = Callee({"x": MATRIX}, {"score": ROWS, "label": Kind("BYTES", (-1,))})
JOINER = Callee({"p": ROWS, "q": ROWS}, {"score": ROWS})
CALLEES = {"scorer": SCORER, "joiner": JOINER}
Document = dict[str, object]


def step(name: str, model: str = "scorer", **more: object) -> Document:
    return {"name": name, "model": model, "inputs": {"x": "input.x"}, **more}


def document(*steps: Document, outputs: Mapping[str, object] | None = None) -> Document:
    return {
        "name": "pipe",
        "team": "growth",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}],
        "steps": list(steps) or [step("a")],
        "outputs": dict(outputs or {"score": "a.score"}),
    }


def checked(found: Document) -> PipelinePlan:
    from modelfleet.serving.pipelines.check import check

    definition: Definition = read(found)
    return check(definition, {one.name: CALLEES[one.model] for one in definition.steps})
