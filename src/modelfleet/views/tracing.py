"""Lineage across rooms: who may see which edge, and who may declare one."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from modelfleet.core import audit
from modelfleet.core.authorization import (
    Action,
    Principal,
    Resource,
    authorize,
    authorize_somewhere,
)
from modelfleet.core.errors import InvalidInput
from modelfleet.lineage import Edge, Node, declare, declared, withdraw
from modelfleet.wiring import Fleet

KINDS = (
    "dataset",
    "feature-view",
    "run",
    "model",
    "version",
    "endpoint",
    "pipeline",
    "batch",
    "application",
)


class Direction(StrEnum):
    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"
    BOTH = "both"


def trace(fleet: Fleet, caller: Principal, node: Node, direction: Direction) -> list[Edge]:
    """The edges on the ways to and from `node`, nearest first, that the caller may see.

    A version may be named by alias or range (`churn@champion`). Raises `NotFound` for a model,
    version, endpoint, run or pipeline that is not there; what others declare just has no edges.
    """
    if node.kind not in KINDS:
        raise InvalidInput(f"{node.kind[:40]!r} is no kind.", hint=f"Kinds: {', '.join(KINDS)}.")
    node = _settled(fleet, caller, node)
    authorize_somewhere(caller, Action.READ, Resource(node.kind, node.name))
    found: list[Edge] = []
    if direction is not Direction.DOWNSTREAM:
        found += fleet.lineage.upstream(node)
    if direction is not Direction.UPSTREAM:
        found += fleet.lineage.downstream(node)
    nodes = {one for edge in found for one in (edge.source, edge.destination)}
    hidden = _hidden(fleet, caller, nodes)
    return [e for e in found if e.source not in hidden and e.destination not in hidden]


def add_declared(
    fleet: Fleet, caller: Principal, source: Node, destination: Node, relation: str
) -> Edge:
    """Declare an edge; whoever may register for the model's team may."""
    return _change(fleet, caller, source, destination, relation, add=True)


def remove_declared(
    fleet: Fleet, caller: Principal, source: Node, destination: Node, relation: str
) -> None:
    _change(fleet, caller, source, destination, relation, add=False)


def _change(
    fleet: Fleet,
    caller: Principal,
    source: Node,
    destination: Node,
    relation: str,
    *,
    add: bool,
) -> Edge:
    authorize_somewhere(caller, Action.REGISTER, Resource("lineage", source.name[:200]))
    source, destination = (_settled(fleet, caller, node) for node in (source, destination))
    one = declared(source, destination, relation)
    resource = Resource("lineage", str(destination.name)[:250], "*")
    for node in one.known:
        resource = _resource(fleet, caller, node)
        authorize(caller, Action.REGISTER, resource)
    details = {
        "source": f"{source.kind} {source.name}",
        "relation": one.edge.relation,
        "destination": f"{destination.kind} {destination.name}",
    }
    with fleet.database.begin() as connection:
        (declare if add else withdraw)(connection, one)
        audit.record(connection, caller, "add-edge" if add else "remove-edge", resource, details)
    return one.edge


def _settled(fleet: Fleet, caller: Principal, node: Node) -> Node:
    """The node by its own name. Raises `NotFound` unless it is there and may be seen."""
    if node.kind == "version":
        model, _, reference = node.name.rpartition("@")
        if not model:
            raise InvalidInput(f"{node.name[:100]!r} names no version: write MODEL@VERSION.")
        return Node("version", fleet.registry.get_version(caller, model, reference).name)
    if node.kind == "model":
        fleet.registry.get_model(caller, node.name)
    elif node.kind == "endpoint":
        fleet.endpoints.get(caller, node.name)
    elif node.kind == "pipeline":
        fleet.pipelines.get(caller, node.name)
    elif node.kind == "run":
        fleet.registry.get_run(caller, node.name)
    return node


def _resource(fleet: Fleet, caller: Principal, node: Node) -> Resource:
    """On whose grants it depends who may say something of the node."""
    if node.kind == "endpoint":
        return Resource("endpoint", node.name, fleet.endpoints.get(caller, node.name).owner_team)
    if node.kind == "pipeline":
        return Resource("pipeline", node.name, fleet.pipelines.get(caller, node.name).owner_team)
    model = node.name
    if node.kind == "version":
        model = node.name.rpartition("@")[0]
    elif node.kind == "run":
        made = [
            edge.destination
            for edge in fleet.lineage.around(node)
            if edge.source == node and edge.destination.kind == "version"
        ]
        if not made:  # nobody owns it yet
            return Resource("run", node.name, "*")
        model = made[0].name.rpartition("@")[0]
    return Resource("model", model, fleet.registry.get_model(caller, model).owner_team)


def _hidden(fleet: Fleet, caller: Principal, nodes: Collection[Node]) -> set[Node]:
    """Models, versions, endpoints and pipelines of teams that the caller may not see."""
    if caller.teams(Action.READ) is None:
        return set()
    named = {
        node.name.rpartition("@")[0] if node.kind == "version" else node.name
        for node in nodes
        if node.kind in ("model", "version")
    }
    models = {
        name
        for name, one in fleet.registry.placements(named).items()
        if caller.may(Action.READ, one.owner_team)
    }
    seen = {
        "model": models,
        "version": models,
        "endpoint": {one.name for one in fleet.endpoints.list(caller)},
        "pipeline": {one.name for one in fleet.pipelines.list(caller)},
    }
    return {
        node
        for node in nodes
        if node.kind in seen
        and (node.name.rpartition("@")[0] if node.kind == "version" else node.name)
        not in seen[node.kind]
    }
