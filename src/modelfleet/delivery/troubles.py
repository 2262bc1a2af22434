"""What is wrong with documents, as far as only the platform can know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from modelfleet.core.errors import FleetError, InvalidInput
from modelfleet.delivery import pipelines
from modelfleet.delivery.objects import FleetObject, Key
from modelfleet.delivery.specs import spec_of
from modelfleet.delivery.types import Trouble
from modelfleet.delivery.wanted import Wanted
from modelfleet.delivery.world import World, checked_range
from modelfleet.fleetfile.documents import PipelineDocument


def troubles(
    wanted: Wanted, world: World, known: Collection[Key], *, references: bool = True
) -> list[Trouble]:
    """References to nothing, and sources that can't be read. known: documents that are, or will be,
    applied; references: whether others that it names are looked for."""
    kind, name = wanted.key
    found = []

    def say(path: str, message: str, hint: str = "") -> None:
        found.append(Trouble(kind, name, path, message, hint))

    document = wanted.document
    models = {other for k, other in known if k == "Model"} | world.models.keys()
    if isinstance(document, PipelineDocument):
        try:
            pipelines.definition_of(wanted.plain)
        except FleetError as error:
            say("", error.message, error.hint)
        return found
    for number, use in enumerate(document.uses or ()):
        if references and use.model not in models:
            say(f"uses[{number}].model", f"there is no model {use.model}")
        wrong = checked_range(use.version or "")
        if wrong:
            say(f"uses[{number}].version", wrong)
    for number, consumer in enumerate(document.consumers or ()):
        if references and consumer.model is not None and consumer.model not in models:
            say(f"consumers[{number}].model", f"there is no model {consumer.model}")
    source = document.source
    if source is not None:
        wrong = checked_range(source.version or "")
        if wrong:
            say("source.version", wrong)
        other = (source.registry or f"models:/{name}").removeprefix("models:/")
        if other != name:
            say(
                "source.registry",
                f"versions of {other} can't serve as {name}",
                "name the document as the model, and its endpoint by endpoint.name",
            )
    endpoint = world.endpoints.get(wanted.place)
    if endpoint is not None and endpoint.model != name:
        said = f"the endpoint {wanted.place} serves the model {endpoint.model} already"
        say("endpoint.name" if document.endpoint else "metadata.name", said)
    try:
        spec_of(document)
    except InvalidInput as error:
        say("rollout", error.message, error.hint)
    return found


def circle(wanted: Sequence[Wanted], last: Mapping[Key, FleetObject]) -> list[Trouble]:
    """Models that feed each other, counting documents that were applied before."""
    plain = {key: one.document for key, one in last.items()} | {
        one.key: one.plain for one in wanted
    }
    graph: dict[str, set[str]] = defaultdict(set)
    for (kind, name), document in plain.items():
        if kind == "Model":
            graph[name] |= {use["model"] for use in document.get("uses", ())}
            for consumer in document.get("consumers", ()):
                if "model" in consumer:
                    graph[consumer["model"]].add(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        ring: list[str] = error.args[1]
        here = next((one.key[1] for one in wanted if one.key[1] in ring), ring[0])
        said = f"models feed each other in a circle: {' → '.join(ring)}"
        return [Trouble("Model", here, "uses", said)]
    return []
