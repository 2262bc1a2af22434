"""What types can't say: schedules that never come, gates that contradict each other, cycles."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from graphlib import CycleError, TopologicalSorter
from typing import Protocol

from cronsim import CronSim, CronSimError
from pydantic import BaseModel

from modelfleet.fleetfile.documents import ModelDocument, PipelineDocument
from modelfleet.fleetfile.gate_lists import same_question
from modelfleet.fleetfile.gates import Gate, Latency
from modelfleet.fleetfile.nodes import Node
from modelfleet.fleetfile.problems import Path, Problem, did_you_mean, written


class Named(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def document(self) -> ModelDocument | PipelineDocument: ...
    @property
    def node(self) -> Node: ...


def alone(document: ModelDocument | PipelineDocument, node: Node) -> list[Problem]:
    """Problems of one document."""
    if isinstance(document, PipelineDocument):
        return list(_steps(document, node))
    return [
        *_schedules(document, node),
        *_gates(document, node),
        *_rollout(document, node),
        *_endpoint(document, node),
    ]


def together(objects: Sequence[Named]) -> list[Problem]:
    """Problems between documents."""
    return [*_duplicates(objects), *_cycles(objects), *_near_names(objects)]


def overlays(fleet: Node) -> Iterator[Problem]:
    """Keys of a stage's overlays that no document has, whichever stage is asked for."""
    stages = fleet.at(("stages",))
    if stages is None or not isinstance(stages.value, dict):
        return
    kinds: dict[str, type[BaseModel]] = {"models": ModelDocument, "pipelines": PipelineDocument}
    for stage, (plural, kind) in itertools.product(stages.value, kinds.items()):
        path: Path = ("stages", stage, plural)
        named = fleet.at(path)
        if named is None or not isinstance(named.value, dict):
            continue
        for name, overlay in named.value.items():
            for key in overlay.value if isinstance(overlay.value, dict) else ():
                if key not in kind.model_fields:
                    where = (*path, name, key)
                    hint = did_you_mean(key, kind.model_fields)
                    message = f"there is no key {key!r} here"
                    yield Problem(fleet.place_of(where), written(where), message, hint)


def _say(node: Node, path: Path, message: str, hint: str = "") -> Problem:
    return Problem(node.place_of(path), written(path), message, hint)


# Of one document ---------------------------------------------------------------------------------


def schedule(text: str) -> str:
    """What is wrong with a cron schedule; empty if nothing is."""
    try:
        next(CronSim(text, datetime.now(UTC)))
    except CronSimError as error:
        return f"{text!r} is no schedule: {str(error).lower()}; write it like `0 3 * * 1-5` (UTC)"
    except StopIteration:
        return f"{text!r} never comes: no such day in the next fifty years"
    return ""


def _crons(document: ModelDocument) -> Iterator[tuple[Path, str]]:
    train, scale, rollout = document.train, document.scale, document.rollout
    if train is not None:
        if train.schedule is not None:
            yield ("train", "schedule"), train.schedule
        if train.triggers is not None and train.triggers.schedule is not None:
            yield ("train", "triggers", "schedule"), train.triggers.schedule
    for number, window in enumerate(scale.schedule or () if scale else ()):
        yield ("scale", "schedule", number, "cron"), window.cron
    for number, freeze in enumerate(rollout.freeze or () if rollout else ()):
        if freeze.cron is not None:
            yield ("rollout", "freeze", number, "cron"), freeze.cron


def _schedules(document: ModelDocument, node: Node) -> Iterator[Problem]:
    for path, text in _crons(document):
        wrong = schedule(text)
        if wrong:
            yield _say(node, path, wrong)
    train = document.train
    if train is not None and train.schedule and train.triggers and train.triggers.schedule:
        yield _say(node, ("train", "triggers", "schedule"), "schedule is said twice")
    for number, freeze in enumerate((document.rollout and document.rollout.freeze) or ()):
        if freeze.from_ is None or freeze.to is None:
            continue
        at: Path = ("rollout", "freeze", number)
        try:
            begin, end = (_moment(one) for one in (freeze.from_, freeze.to))
        except ValueError as error:
            yield _say(node, at, f"{error}; write times like 2026-12-20T00:00Z")
            continue
        if begin >= end:
            yield _say(node, at, "it ends before it begins")


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _gates(document: ModelDocument, node: Node) -> Iterator[Problem]:
    seen: list[tuple[str, Gate]] = []
    names: set[str] = set()
    for number, entry in enumerate(document.gates or ()):
        [kind] = entry.model_fields_set
        told: Gate = getattr(entry, kind)
        if told.name in names:
            yield _say(
                node, ("gates", number, kind, "name"), f"there is a gate {told.name} already"
            )
        names |= {told.name} - {""}
        seen.append((kind, told))
        first = next(
            n for n, (k, other) in enumerate(seen) if k == kind and same_question(kind, told, other)
        )
        if first != number:
            other = seen[first][1]
            differs = [k for k in type(told).model_fields if getattr(told, k) != getattr(other, k)]
            say = (
                f"contradicts gates[{first}]: the same check, but another {', '.join(differs)}"
                if differs
                else f"is gates[{first}] once more"
            )
            yield _say(node, ("gates", number, kind), say, "keep one of them")
        if isinstance(told, Latency):
            yield from _latency(document, node, number, told)


def _latency(document: ModelDocument, node: Node, number: int, told: Latency) -> Iterator[Problem]:
    serve = document.serve
    timeout = serve.timeout if serve else None
    if told.p95 is not None and timeout is not None and told.p95 > timeout:
        yield _say(
            node,
            ("gates", number, "latency", "p95"),
            f"{told.p95:g} s would pass, but serve.timeout ends requests after {timeout:g} s",
        )
    memory = serve.resources.memory if serve and serve.resources else None
    if told.memory is not None and memory is not None and told.memory > memory:
        yield _say(
            node,
            ("gates", number, "latency", "memory"),
            "more than serve.resources.memory would pass",
        )


def _rollout(document: ModelDocument, node: Node) -> Iterator[Problem]:
    rollout = document.rollout
    if rollout is None:
        return
    if rollout.strategy in ("canary", "shadow", "ab", "bandit") and not rollout.on_inconclusive:
        yield _say(
            node,
            ("rollout",),
            "on_inconclusive is missing: say what becomes of it when nothing is proven",
            "on_inconclusive: {after: 4h, do: hold}",
        )
    if rollout.strategy in ("immediate", "blue-green") and any(
        step.shadow is not None or (step.weight or 1) < 1 for step in rollout.steps or ()
    ):
        yield _say(node, ("rollout", "steps"), f"{rollout.strategy} moves all traffic at once")
    if (rollout.strategy in ("ab", "bandit")) != bool(rollout.arms):
        where: Path = ("rollout", "arms") if rollout.arms else ("rollout", "strategy")
        yield _say(node, where, "arms and the strategies ab and bandit belong together")
    names = [arm.version for arm in rollout.arms or ()]
    if len(set(names)) != len(names):
        yield _say(node, ("rollout", "arms"), "a version has two arms")
    analysis = rollout.analysis
    for metric in (analysis.without or ()) if analysis else ():
        if getattr(analysis, metric) is not None:
            yield _say(
                node, ("rollout", "analysis", "without"), f"{metric} is judged and left out at once"
            )


def _endpoint(document: ModelDocument, node: Node) -> Iterator[Problem]:
    endpoint, serve = document.endpoint, document.serve
    timeout = serve.timeout if serve else None
    one_try = endpoint.try_timeout if endpoint else None
    if one_try is not None and timeout is not None and one_try >= timeout:
        yield _say(node, ("endpoint", "try_timeout"), "must be shorter than serve.timeout")
    for path, value in ((("serve", "timeout"), timeout), (("endpoint", "try_timeout"), one_try)):
        if value is not None and not 0.001 <= value <= 120:
            yield _say(node, path, "lies between 1 ms and 120 s")


def _steps(document: PipelineDocument, node: Node) -> Iterator[Problem]:
    names: dict[str, int] = {}
    for number, step in enumerate(document.steps):
        if names.setdefault(step.name, number) != number:
            yield _say(node, ("steps", number, "name"), f"there is a step {step.name} already")


# Between documents -------------------------------------------------------------------------------


def endpoint_of(one: Named) -> str:
    document = one.document
    if isinstance(document, ModelDocument) and document.endpoint and document.endpoint.name:
        return document.endpoint.name
    return one.name


def _duplicates(objects: Iterable[Named]) -> Iterator[Problem]:
    documents: dict[tuple[str, str], Named] = {}
    endpoints: dict[str, Named] = {}
    for one in objects:
        first = documents.setdefault((one.kind, one.name), one)
        if first is not one:
            where = first.node.place_of(("metadata", "name"))
            said = f"there is a {one.kind} {one.name} already, in {where}"
            yield _say(one.node, ("metadata", "name"), said)
            continue
        other = endpoints.setdefault(endpoint_of(one), one)
        if other is not one:
            yield _say(
                one.node,
                ("endpoint", "name"),
                f"{other.kind} {other.name} has the endpoint {endpoint_of(one)} already",
            )


def uses_of(document: ModelDocument | PipelineDocument) -> Iterator[tuple[Path, str]]:
    """The models that a document takes answers from, and where it says so."""
    if isinstance(document, ModelDocument):
        for number, use in enumerate(document.uses or ()):
            yield ("uses", number, "model"), use.model
    else:
        for number, step in enumerate(document.steps):
            yield ("steps", number, "model"), step.model


def consumers_of(document: ModelDocument | PipelineDocument) -> Iterator[tuple[Path, str]]:
    for number, consumer in enumerate(document.consumers or ()):
        if consumer.model is not None:
            yield ("consumers", number, "model"), consumer.model


def _cycles(objects: Sequence[Named]) -> Iterator[Problem]:
    models = {one.name: one for one in objects if one.kind == "Model"}
    graph: dict[str, set[str]] = {name: set() for name in models}
    for name, one in models.items():
        graph[name] |= {used for _, used in uses_of(one.document)} & models.keys()
        for _, consumer in consumers_of(one.document):
            if consumer in graph:
                graph[consumer].add(name)
    while cycle := _a_cycle(graph):
        members = sorted(set(cycle))
        first = models[members[0]]
        turn = cycle.index(members[0])
        ring = [*cycle[turn:-1], *cycle[:turn], members[0]]
        where: Path = ("uses",) if first.node.at(("uses",)) else ("consumers",)
        said = f"models feed each other in a circle: {' → '.join(ring)}"
        yield _say(first.node, where, said)
        for member in members:
            graph.pop(member)
        for others in graph.values():
            others -= set(members)


def _a_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def _near_names(objects: Sequence[Named]) -> Iterator[Problem]:
    """References to nothing in the files, but nearly to something: most likely slips."""
    models = {one.name for one in objects if one.kind == "Model"}
    endpoints = {endpoint_of(one) for one in objects if one.kind == "Model"}
    for one in objects:
        known = models if one.kind == "Model" else endpoints
        for path, name in (*uses_of(one.document), *consumers_of(one.document)):
            folded = {other.lower().replace("_", "-"): other for other in known}
            slip = folded.get(name.lower().replace("_", "-"))
            if name not in known and slip is not None:
                said = f"no document is named {name!r}"
                yield _say(one.node, path, said, f"did you mean {slip}?")
