"""Refuses what can't work, naming the step; what is left becomes a plan.

Pure: signatures come in, nothing is looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modelfleet.core.errors import InvalidInput
from modelfleet.serving.pipelines import kinds
from modelfleet.serving.pipelines.definition import (
    INPUT,
    Condition,
    Definition,
    From,
    Source,
    Step,
    parse_condition,
    references,
    split,
)
from modelfleet.serving.pipelines.kinds import Kind, Mismatch
from modelfleet.serving.pipelines.plan import Fed, PipelinePlan, StepPlan
from modelfleet_worker.wire.signature import TensorSpec


@dataclass(frozen=True)
class Callee:
    """What a step calls. `version` and its id: of a pinned version, else None."""

    inputs: Mapping[str, Kind]
    outputs: Mapping[str, Kind]
    version: str | None = None
    version_id: str | None = None


def check(definition: Definition, callees: Mapping[str, Callee]) -> PipelinePlan:
    """The plan of a definition; `callees` by step name. Raises `InvalidInput`."""
    _distinct([one.name for one in definition.inputs], "input")
    _distinct([one.name for one in definition.steps], "step")
    inputs = tuple(_input(one.name, one.datatype, one.shape) for one in definition.inputs)
    checked = _Types({f"{INPUT}.{spec.name}": Kind(spec.datatype, spec.shape) for spec in inputs})
    if any(step.name == INPUT for step in definition.steps):
        raise InvalidInput(f"No step may be named {INPUT!r}: that is the pipeline's own input.")
    known = {step.name: callees[step.name] for step in definition.steps}
    for step in definition.steps:
        for name, kind in known[step.name].outputs.items():
            checked.kinds[f"{step.name}.{name}"] = kind
    taken = _taken(definition)
    steps = [_step(step, known[step.name], checked, taken) for step in _ordered(definition)]
    outputs = tuple(
        Fed(_spec(name, checked.of("the outputs", source)), source)
        for name, source in definition.outputs.items()
    )
    _all_needed(definition)
    _required_of_optional(definition)
    return PipelinePlan(
        name=definition.name,
        timeout_ms=definition.timeout_ms,
        inputs=inputs,
        outputs=outputs,
        steps=tuple(steps),
    )


@dataclass(frozen=True)
class _Types:
    kinds: dict[str, Kind]

    def of(self, where: str, source: Source) -> Kind:
        """The kind of a source; `InvalidInput` says what is wrong at that place."""
        try:
            return kinds.of_source(source, self.kinds)
        except Mismatch as error:
            raise InvalidInput(f"{_capital(where)}: {error}.") from error


def _step(
    step: Step, callee: Callee, types: _Types, taken: Mapping[str, frozenset[str]]
) -> StepPlan:
    where = f"step {step.name}"
    unknown = sorted(step.inputs.keys() - callee.inputs.keys())
    if unknown:
        known = ", ".join(callee.inputs)
        raise InvalidInput(
            f"{_capital(where)}: {step.model} has no input {unknown[0]!r}; it has: {known}."
        )
    missing = [name for name in callee.inputs if name not in step.inputs]
    if missing:
        raise InvalidInput(f"{_capital(where)}: nothing feeds {step.model}'s input {missing[0]!r}.")
    fed: list[Fed] = []
    for name, wanted in callee.inputs.items():
        given = types.of(f"{where}, input {name}", step.inputs[name])
        try:
            kinds.fits(given, wanted)
        except Mismatch as error:
            raise InvalidInput(f"{_capital(where)}, input {name}: {error}.") from error
        fed.append(Fed(_spec(name, wanted), step.inputs[name]))
    used = taken.get(step.name, frozenset())
    outputs = tuple(_spec(n, kind) for n, kind in callee.outputs.items() if n in used)
    if step.fallback is not None and step.fallback.constant:
        _values(f"{where}, fallback", step.fallback.constant, outputs, types)
    return StepPlan(
        name=step.name,
        model=step.model,
        inputs=tuple(fed),
        outputs=outputs,
        needs=tuple(needs(step)),
        version=callee.version,
        version_id=callee.version_id,
        when=_condition(step, outputs, types),
        otherwise=step.otherwise,
        timeout_ms=step.timeout_ms,
        fallback=step.fallback,
        optional=step.optional,
        breaker=step.breaker,
    )


def _condition(step: Step, outputs: Sequence[TensorSpec], types: _Types) -> Condition | None:
    if step.when is None:
        if step.otherwise:
            raise InvalidInput(f"Step {step.name}: otherwise needs a condition (`when`).")
        return None
    condition = _parsed(step.name, step.when)
    kind = types.of(f"step {step.name}, when", condition.source)
    try:
        kinds.comparable(kind, condition)
    except Mismatch as error:
        raise InvalidInput(f"Step {step.name}, when: {error}.") from error
    _values(f"step {step.name}, otherwise", step.otherwise, outputs, types)
    return condition


def _values(
    where: str, given: Mapping[str, object], outputs: Sequence[TensorSpec], types: _Types
) -> None:
    """Each output that somebody takes needs a value that fits it."""
    specs = {spec.name: spec for spec in outputs}
    for name in given:
        if name not in specs:
            raise InvalidInput(f"{_capital(where)}: nobody takes an output {name!r} of this step.")
    for name, spec in specs.items():
        if name not in given:
            raise InvalidInput(f"{_capital(where)}: the output {name!r} has no value.")
        value, wanted = given[name], Kind(spec.datatype, spec.shape)
        try:
            if isinstance(value, From):
                kinds.fits(types.of(f"{where}, {name}", value.source), wanted)
            else:
                kinds.constant(value, spec, rows=1)
        except Mismatch as error:
            raise InvalidInput(f"{_capital(where)}, {name}: {error}.") from error


# The graph -------------------------------------------------------------------------------------


def sources(step: Step) -> Iterator[Source]:
    """All that a step takes, also for its condition and for the rows that it skips."""
    yield from step.inputs.values()
    if step.when is not None:
        yield _parsed(step.name, step.when).source
    for value in step.otherwise.values():
        if isinstance(value, From):
            yield value.source


def needs(step: Step) -> list[str]:
    """The steps whose outputs it takes."""
    found: dict[str, None] = {}
    for source in sources(step):
        for reference in references(source):
            owner, _ = _split(step.name, reference)
            if owner != INPUT:
                found[owner] = None
    return list(found)


def _ordered(definition: Definition) -> list[Step]:
    """A topological order. `InvalidInput` for a cycle or an unknown step."""
    steps = {step.name: step for step in definition.steps}
    waiting = {step.name: needs(step) for step in definition.steps}
    for name, wanted in waiting.items():
        for one in wanted:
            if one not in steps:
                raise InvalidInput(f"Step {name}: there is no step {one!r}.")
    done: list[Step] = []
    while waiting:
        free = [name for name, wanted in waiting.items() if not set(wanted) & waiting.keys()]
        if not free:
            raise InvalidInput(f"The steps form a cycle: {' -> '.join(_cycle(waiting))}.")
        for name in free:
            done.append(steps[name])
            del waiting[name]
    return done


def _cycle(waiting: Mapping[str, Sequence[str]]) -> list[str]:
    """One circle among steps that wait for each other, in the way that data flows."""
    way = [next(iter(waiting))]
    while True:
        following = next(one for one in waiting[way[-1]] if one in waiting)
        if following in way:
            circle = way[way.index(following) :]
            return [following, *reversed(circle)]
        way.append(following)


def _taken(definition: Definition) -> dict[str, frozenset[str]]:
    """Outputs that somebody takes, by step."""
    found: dict[str, set[str]] = {}
    every = [(f"Step {s.name}", source) for s in definition.steps for source in sources(s)]
    every += [("The outputs", source) for source in definition.outputs.values()]
    for where, source in every:
        for reference in references(source):
            try:
                owner, tensor = split(reference)
            except ValueError as error:
                raise InvalidInput(f"{where}: {error}.") from error
            found.setdefault(owner, set()).add(tensor)
    return {owner: frozenset(tensors) for owner, tensors in found.items()}


def _all_needed(definition: Definition) -> None:
    steps = {step.name: step for step in definition.steps}
    border = [
        split(reference)[0]
        for source in definition.outputs.values()
        for reference in references(source)
    ]
    reached: set[str] = set()
    while border:
        name = border.pop()
        if name in steps and name not in reached:
            reached.add(name)
            border += needs(steps[name])
    idle = [name for name in steps if name not in reached]
    if idle:
        raise InvalidInput(f"Step {idle[0]}: no output of the pipeline needs it.")


def _required_of_optional(definition: Definition) -> None:
    """A step that must answer can't wait for one that may have nothing to give."""
    may_miss = {
        s.name
        for s in definition.steps
        if s.optional and not (s.fallback is not None and s.fallback.constant)
    }
    for step in definition.steps:
        if step.optional or (step.fallback is not None and step.fallback.constant):
            continue
        for one in needs(step):
            if one in may_miss:
                raise InvalidInput(
                    f"Step {step.name}: it takes from the optional step {one}, which may have "
                    "nothing to give.",
                    hint=f"Make {step.name} optional as well, or give one of them a constant "
                    "fallback.",
                )


# Small things ----------------------------------------------------------------------------------


def _input(name: str, datatype: str, shape: tuple[int, ...]) -> TensorSpec:
    if shape[:1] != (-1,):
        raise InvalidInput(f"Input {name}: the first dimension is the rows and must be -1.")
    try:
        return TensorSpec(name, datatype, shape)
    except ValueError as error:
        raise InvalidInput(f"Input {name}: {error}.") from error


def _spec(name: str, kind: Kind) -> TensorSpec:
    return TensorSpec(name, kind.datatype, kind.shape)


def _distinct(names: Sequence[str], what: str) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidInput(f"There are two {what}s named {twice[0]}.")


def _parsed(step: str, text: str) -> Condition:
    try:
        return parse_condition(text)
    except ValueError as error:
        raise InvalidInput(f"Step {step}, when: {error}.") from error


def _split(step: str, reference: str) -> tuple[str, str]:
    try:
        return split(reference)
    except ValueError as error:
        raise InvalidInput(f"Step {step}: {error}.") from error


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
