"""Edges point the way data flows: from what was used to what was made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from modelfleet.core.clock import now_us
from modelfleet.core.database import Database, metadata

DEPLOYED = "deployed-to"
"""from a version to an endpoint that it gets or got requests of"""

_OF_EVERY_VERSION = ("feeds", "consumed-by")
"""relations of a model that hold for each of its versions"""
_CHUNK = 100
"""nodes asked for in one query"""

edge = sa.Table(
    "edge",
    metadata,
    sa.Column("source_kind", sa.String(20), primary_key=True),
    sa.Column("source", sa.String(300), primary_key=True),
    sa.Column("destination_kind", sa.String(20), primary_key=True),
    sa.Column("destination", sa.String(300), primary_key=True),
    sa.Column("relation", sa.String(40), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_edge_destination", "destination_kind", "destination"),
)


@dataclass(frozen=True)
class Node:
    kind: str
    """dataset, feature-view, run, version, model, endpoint, pipeline, batch or application"""
    name: str


@dataclass(frozen=True)
class Edge:
    source: Node
    destination: Node
    relation: str


def add_edge(connection: sa.Connection, source: Node, relation: str, destination: Node) -> None:
    """Add an edge in the caller's transaction; an edge that is there already stays."""
    values = {
        "source_kind": source.kind,
        "source": source.name,
        "destination_kind": destination.kind,
        "destination": destination.name,
        "relation": relation,
    }
    same = sa.and_(*(edge.c[name] == value for name, value in values.items()))
    if connection.execute(sa.select(edge.c.source).where(same)).first() is None:
        connection.execute(sa.insert(edge).values(**values, created_at=now_us()))


def edges_from(connection: sa.Connection, node: Node) -> list[Edge]:
    """What was made of `node`, oldest first."""
    return _edges(connection, sa.and_(edge.c.source_kind == node.kind, edge.c.source == node.name))


def _edges(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Edge]:
    rows = connection.execute(sa.select(edge).where(condition).order_by(edge.c.created_at))
    return [
        Edge(Node(r.source_kind, r.source), Node(r.destination_kind, r.destination), r.relation)
        for r in rows
    ]


def feeds_between(connection: sa.Connection, model: str, version: str) -> set[str]:
    """Models whose predictions a model, or one version of it, takes in."""
    query = sa.select(edge.c.source).where(
        edge.c.relation == "feeds",
        edge.c.source_kind == "model",
        sa.or_(
            sa.and_(edge.c.destination_kind == "model", edge.c.destination == model),
            sa.and_(edge.c.destination_kind == "version", edge.c.destination == version),
        ),
    )
    return {r.source for r in connection.execute(query)}


def remove_edges(connection: sa.Connection, node: Node) -> None:
    """Remove all edges that touch `node`."""
    connection.execute(
        sa.delete(edge).where(
            sa.or_(
                sa.and_(edge.c.source_kind == node.kind, edge.c.source == node.name),
                sa.and_(edge.c.destination_kind == node.kind, edge.c.destination == node.name),
            )
        )
    )


def rename_node(connection: sa.Connection, old: Node, new: Node) -> None:
    """Let all edges of `old` be those of `new`."""
    for kind, name in (("source_kind", "source"), ("destination_kind", "destination")):
        connection.execute(
            sa.update(edge)
            .where(edge.c[kind] == old.kind, edge.c[name] == old.name)
            .values({kind: new.kind, name: new.name})
        )


def _sources(node: Node) -> list[Node]:
    """The node, and with a version its model."""
    model = node.name.rpartition("@")[0]
    return [node, Node("model", model)] if node.kind == "version" and model else [node]


class LineageService:
    def __init__(self, database: Database) -> None:
        self._database = database

    def around(self, node: Node) -> list[Edge]:
        """The edges that touch `node`."""
        return self._where(
            sa.or_(
                sa.and_(edge.c.source_kind == node.kind, edge.c.source == node.name),
                sa.and_(edge.c.destination_kind == node.kind, edge.c.destination == node.name),
            )
        )

    def upstream(self, node: Node) -> list[Edge]:
        """All edges on the ways that lead to `node`, nearest first; each once."""
        found: dict[tuple[Node, Node, str], Edge] = {}
        seen, border = {node}, [node]
        while border:
            following: list[Node] = []
            for one in self._touching(border, "destination"):
                found[(one.source, one.destination, one.relation)] = one
                if one.source not in seen:
                    seen.add(one.source)
                    following.append(one.source)
            border = following
        return list(found.values())

    def downstream(self, node: Node) -> list[Edge]:
        """All edges on the ways that lead from `node`, nearest first; each once.

        Who uses a model uses one of its versions without saying which: those ways are followed
        from each version, and are told as edges of the model.
        """
        found: dict[tuple[Node, Node, str], Edge] = {}
        seen, border = {node}, _sources(node)
        while border:
            following: list[Node] = []
            for one in self._touching(border, "source"):
                implied = one.source.kind == "model" and one.source != node
                if implied and one.relation not in _OF_EVERY_VERSION:
                    continue
                found[(one.source, one.destination, one.relation)] = one
                if one.destination not in seen:
                    seen.add(one.destination)
                    following += _sources(one.destination)
            border = following
        return list(found.values())

    def _touching(self, nodes: Sequence[Node], side: str) -> list[Edge]:
        """The edges whose `side` (source or destination) is one of these nodes."""
        kind, name = edge.c[f"{side}_kind"], edge.c[side]
        found: list[Edge] = []
        for start in range(0, len(nodes), _CHUNK):
            some = nodes[start : start + _CHUNK]
            each = (sa.and_(kind == one.kind, name == one.name) for one in some)
            found += self._where(sa.or_(*each))
        return found

    def _where(self, condition: sa.ColumnElement[bool]) -> list[Edge]:
        with self._database.read() as connection:
            return _edges(connection, condition)
