"""Recorded inputs through what depends on a model, with the champion and with the candidate.

Pipelines are run step by step. A model that takes another one's answers as a feature has no record
of where they came from; rows are joined by value: a recorded feature that equals what the champion
answered to a recorded request came from it, and gets what the candidate answers instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.gates.kinds.base import Replayed
from modelfleet.serving.lab import Deadline, Lab, Subject, Table
from modelfleet.serving.pipelines.plan import PipelinePlan, StepPlan
from modelfleet.serving.pipelines.replay import replay
from modelfleet.telemetry.recorded import Recorded, columns_of, recorded, signature_of

_UPSTREAM_ROWS = 20_000
_RELATIVE = 1e-6
_ENOUGH = 0.5
"""share of a feature's rows that must be found among the answers"""
_DISTINCT = 5


@dataclass(frozen=True)
class Replayer:
    lab: Lab
    deadline: Deadline
    evidence: Path
    candidate: Subject
    champion: Subject
    champion_index: int

    def pipeline(
        self,
        plan: PipelinePlan,
        endpoints: Collection[str],
        serving: Callable[[StepPlan], Subject],
        rows: int,
    ) -> Replayed:
        """serving: what answers a step that is not ours."""
        found = recorded(self.evidence, plan.index, plan.signature, rows)
        if not found.rows:
            return _not("pipeline", plan.name, "no requests of it are recorded")

        def with_(mine: Subject) -> dict[str, Any]:
            def call(step: StepPlan, inputs: Table) -> Table:
                ours = step.model in endpoints and step.version is None
                return self._answer(mine if ours else serving(step), inputs)

            return replay(plan, found.inputs, found.rows, call)

        try:
            before, after = with_(self.champion), with_(self.candidate)
        except (InvalidInput, Conflict, NotFound) as error:
            return _not("pipeline", plan.name, error.message)
        return Replayed("pipeline", plan.name, found.rows, before, after, found.inputs)

    def model(self, subject: Subject, index: int, rows: int) -> Replayed:
        """A version that uses the model's answers as a feature."""
        theirs = recorded(self.evidence, index, signature_of(subject.folder), rows)
        if not theirs.rows:
            return _not("model", subject.name, "no requests of it are recorded")
        signature = signature_of(self.champion.folder)
        ours = recorded(self.evidence, self.champion_index, signature, _UPSTREAM_ROWS)
        if not ours.rows:
            return _not("model", subject.name, f"no requests of {self.champion.name} are recorded")
        features = columns_of(signature_of(subject.folder), theirs.inputs)
        link = _link(ours, features)
        if link is None:
            reason = f"none of its features holds what {self.champion.name} answered"
            return _not("model", subject.name, reason)
        try:
            answers = self._answer(self.candidate, ours.inputs)
            new = _flat(answers).get(link.output)
            if new is None:
                return _not("model", subject.name, f"the candidate has no output {link.output}")
            kept = np.flatnonzero(link.rows >= 0)
            before = {name: values[kept] for name, values in features.items()}
            after = before | {link.feature: new[link.rows[kept]]}
            told = self.lab.score(subject, [before, after], self.deadline)
            for one in told:
                if one.error:
                    raise InvalidInput(f"{subject.name} can't answer: {one.error}")
        except (InvalidInput, Conflict, NotFound) as error:
            return _not("model", subject.name, error.message)
        return Replayed("model", subject.name, len(kept), told[0].outputs, told[1].outputs, before)

    def _answer(self, subject: Subject, inputs: Table) -> Table:
        [told] = self.lab.score(subject, [inputs], self.deadline)
        if told.error:
            raise InvalidInput(f"{subject.name} can't answer recorded inputs: {told.error}")
        return told.outputs


@dataclass(frozen=True)
class Link:
    feature: str
    output: str
    rows: NDArray[np.intp]
    """of each of the dependent's rows: the upstream's row, -1 if there is none"""


def _not(kind: str, name: str, problem: str) -> Replayed:
    return Replayed(kind, name, 0, {}, {}, problem=problem)


def _flat(outputs: Table) -> dict[str, NDArray[Any]]:
    """Numbers by row: outputs, and the columns of matrices."""
    found: dict[str, NDArray[Any]] = {}
    for name, array in outputs.items():
        if array.dtype.kind not in "fiu":
            continue
        flat = array.reshape(len(array), -1)
        if flat.shape[1] == 1:
            found[name] = flat[:, 0]
        else:
            found |= {f"{name}[{k}]": flat[:, k] for k in range(min(flat.shape[1], 50))}
    return found


def _link(ours: Recorded, features: Table) -> Link | None:
    """The feature that holds an output, by its values; the best there is."""
    best: tuple[float, Link] | None = None
    for output, answers in _flat(ours.outputs).items():
        order = np.argsort(answers, kind="stable")
        ordered = answers[order].astype(np.float64)
        for feature, values in features.items():
            if values.dtype.kind != "f" or len(np.unique(values)) < _DISTINCT:
                continue
            wanted = values.astype(np.float64)
            near = np.clip(np.searchsorted(ordered, wanted), 0, len(ordered) - 1)
            before = np.maximum(near - 1, 0)
            closer = np.abs(ordered[before] - wanted) < np.abs(ordered[near] - wanted)
            near = np.where(closer, before, near)
            size = np.maximum(np.abs(wanted), 1e-12)
            same = np.abs(ordered[near] - wanted) <= _RELATIVE * size
            share = float(same.mean())
            if share >= _ENOUGH and (best is None or share > best[0]):
                best = share, Link(feature, output, np.where(same, order[near], -1))
    return best[1] if best else None
