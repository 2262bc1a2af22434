"""Edges that others declare: what modelfleet can't see for itself.

Datasets, feature views and applications live elsewhere; only these relations can be told of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.lineage.service import Edge, Node, add_edge, edge

RELATIONS: dict[tuple[str, str], str] = {
    ("dataset", "dataset"): "derived",
    ("dataset", "feature-view"): "derived",
    ("feature-view", "feature-view"): "derived",
    ("feature-view", "dataset"): "derived",
    ("dataset", "run"): "trained",
    ("feature-view", "run"): "trained",
    ("dataset", "version"): "used-by",
    ("feature-view", "version"): "used-by",
    ("feature-view", "endpoint"): "read-by",
    ("model", "model"): "feeds",
    ("version", "application"): "consumed-by",
    ("model", "application"): "consumed-by",
    ("endpoint", "application"): "consumed-by",
    ("pipeline", "application"): "consumed-by",
    ("application", "application"): "consumed-by",
}
"""from what to what, and how"""
KINDS = frozenset({"dataset", "feature-view", "application"})
"""of nodes that need not be known here"""


@dataclass(frozen=True)
class Declared:
    """An edge that was checked, and the nodes of it that modelfleet knows."""

    edge: Edge
    known: tuple[Node, ...]


def declared(source: Node, destination: Node, relation: str = "") -> Declared:
    """The edge, its relation filled in. Raises `InvalidInput` for what can't be declared."""
    for node in (source, destination):
        strange = not node.name or len(node.name) > 300 or not node.name.isprintable()
        if strange or node.name != node.name.strip():
            raise InvalidInput(f"{node.name[:100]!r} can't name a {node.kind[:20]}.")
    only = RELATIONS.get((source.kind, destination.kind))
    if only is None or relation not in ("", only):
        ways = sorted(f"{a} {how} {b}" for (a, b), how in RELATIONS.items())
        raise InvalidInput(
            f"{source.kind[:20]} {relation[:40] or '?'} {destination.kind[:20]} can't be declared.",
            hint=f"What can: {', '.join(ways)}.",
        )
    if source == destination:
        raise InvalidInput("Nothing is made of itself.")
    known = tuple(node for node in (source, destination) if node.kind not in KINDS)
    return Declared(Edge(source, destination, only), known)


def declare(connection: sa.Connection, one: Declared) -> None:
    """Draw it; twice is once."""
    add_edge(connection, one.edge.source, one.edge.relation, one.edge.destination)


def withdraw(connection: sa.Connection, one: Declared) -> None:
    """Raises `NotFound` if there is no such edge."""
    found = one.edge
    gone = connection.execute(
        sa.delete(edge).where(
            edge.c.source_kind == found.source.kind,
            edge.c.source == found.source.name,
            edge.c.destination_kind == found.destination.kind,
            edge.c.destination == found.destination.name,
            edge.c.relation == found.relation,
        )
    )
    if not gone.rowcount:
        raise NotFound(f"{found.destination.name} has no such edge from {found.source.name}.")
