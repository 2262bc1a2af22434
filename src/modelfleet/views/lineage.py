"""What a version was made from and who uses it, in layers from left to right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelfleet.lineage import Edge, Node

TALLEST = 10
"""Nodes of one layer that are drawn; the others are counted."""


@dataclass(frozen=True)
class Picture:
    """`layers` from the farthest source to the users of `here`. Edges join what is drawn."""

    here: Node
    layers: tuple[tuple[Node, ...], ...]
    edges: tuple[Edge, ...]
    hidden: tuple[int, ...]
    """of each layer: nodes that did not fit"""


def picture(here: Node, upstream: Sequence[Edge], downstream: Sequence[Edge]) -> Picture:
    """Each node stands left of all that was made of it. Downstream edges begin at `here`."""
    distances = _distances(here, upstream)
    deepest = max(distances.values())
    layers: list[list[Node]] = [[] for _ in range(deepest + 1)]
    for node, distance in distances.items():
        layers[deepest - distance].append(node)
    users = list(dict.fromkeys(edge.destination for edge in downstream))
    if users:
        layers.append([user for user in users if user not in distances])
    drawn = tuple(tuple(layer[:TALLEST]) for layer in layers)
    shown = {node for layer in drawn for node in layer}
    forward = [*upstream, *downstream]
    return Picture(
        here=here,
        layers=drawn,
        edges=tuple(e for e in forward if e.source in shown and e.destination in shown),
        hidden=tuple(max(0, len(layer) - TALLEST) for layer in layers),
    )


def _distances(here: Node, upstream: Sequence[Edge]) -> Mapping[Node, int]:
    """Edges on the longest way from each node to `here`. A circle, should there be one, is cut."""
    found = {here: 0}
    for _ in range(len(upstream)):
        changed = False
        for edge in upstream:
            if edge.destination not in found or edge.source == here:
                continue
            further = found[edge.destination] + 1
            if further > found.get(edge.source, 0) and further <= len(upstream):
                found[edge.source] = further
                changed = True
        if not changed:
            break
    return found
