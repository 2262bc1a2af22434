"""A pipeline over many recorded rows at once, with whatever answers its steps.

As the executors run it, but without deadlines, breakers and fallbacks: a step that fails is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from modelfleet.core.errors import InvalidInput
from modelfleet.serving.pipelines.definition import From
from modelfleet.serving.pipelines.executor.values import (
    MissingTensor,
    Unusable,
    evaluate,
    rows_where,
    scatter,
)
from modelfleet.serving.pipelines.kinds import Mismatch, constant
from modelfleet.serving.pipelines.plan import PipelinePlan, StepPlan

Tensors = Mapping[str, Any]
Call = Callable[[StepPlan, Tensors], Tensors]
"""outputs of a step's model by name, of its inputs by name"""


def replay(plan: PipelinePlan, inputs: Tensors, rows: int, call: Call) -> dict[str, Any]:
    """The outputs by name. Raises `InvalidInput` for a step that can't be run."""
    known: dict[str, Any] = {f"input.{name}": array for name, array in inputs.items()}
    for step in plan.steps:
        try:
            known |= _step(step, known, rows, call)
        except (MissingTensor, Unusable, Mismatch) as error:
            raise InvalidInput(f"Step {step.name}: {error}.") from error
    return {fed.spec.name: evaluate(fed.source, known) for fed in plan.outputs}


def _step(step: StepPlan, known: Tensors, rows: int, call: Call) -> dict[str, Any]:
    given = {fed.spec.name: evaluate(fed.source, known) for fed in step.inputs}
    if step.when is None:
        told = call(step, given)
        return {f"{step.name}.{spec.name}": told[spec.name] for spec in step.outputs}
    mask = rows_where(step.when, known)
    others = [_otherwise(step, spec.name, known, rows) for spec in step.outputs]
    if not mask.any():
        return {
            f"{step.name}.{spec.name}": array
            for spec, array in zip(step.outputs, others, strict=True)
        }
    told = call(step, {name: np.ascontiguousarray(array[mask]) for name, array in given.items()})
    chosen = [told[spec.name] for spec in step.outputs]
    made = scatter(mask, chosen, others)
    return {f"{step.name}.{spec.name}": one for spec, one in zip(step.outputs, made, strict=True)}


def _otherwise(step: StepPlan, name: str, known: Tensors, rows: int) -> Any:
    spec = next(one for one in step.outputs if one.name == name)
    wanted = step.otherwise[name]
    if isinstance(wanted, From):
        return evaluate(wanted.source, known)
    return constant(wanted, spec, rows)
