"""Lineage as an SVG: boxes in layers, an arrow for each edge. The same stands below in words."""

from __future__ import annotations

from markupsafe import Markup, escape

from modelfleet.lineage import Edge, Node
from modelfleet.views.lineage import Picture

_BOX_WIDTH, _BOX_HEIGHT = 196, 40
_ACROSS, _DOWN = 62, 14
_MARGIN = 6
_LETTERS = 24
"""that fit into a box"""
_ROOM = 28
"""above and below, for arrows over the boxes of a layer between"""


def lineage_graph(picture: Picture, title: str = "Lineage") -> Markup:
    """The whole drawing; as wide as it has layers."""
    tallest = max(
        len(layer) + bool(more) for layer, more in zip(picture.layers, picture.hidden, strict=True)
    )
    width = len(picture.layers) * (_BOX_WIDTH + _ACROSS) - _ACROSS + 2 * _MARGIN
    height = tallest * (_BOX_HEIGHT + _DOWN) - _DOWN + 2 * _MARGIN
    if _skips(picture):
        height += 2 * _ROOM
    places: dict[Node, tuple[float, float]] = {}
    notes = []
    for column, (layer, more) in enumerate(zip(picture.layers, picture.hidden, strict=True)):
        count = len(layer) + bool(more)
        top = (height - count * (_BOX_HEIGHT + _DOWN) + _DOWN) / 2
        left = _MARGIN + column * (_BOX_WIDTH + _ACROSS)
        for row, node in enumerate(layer):
            places[node] = (left, top + row * (_BOX_HEIGHT + _DOWN))
        if more:
            at = top + len(layer) * (_BOX_HEIGHT + _DOWN) + 16
            notes.append(f'<text x="{left + 8}" y="{at:.0f}">and {more} more</text>')
    arrows = [_arrow(edge, places) for edge in picture.edges]
    boxes = [_box(node, *at, here=node == picture.here) for node, at in places.items()]
    told = f"{title} of {picture.here.name}: {len(places)} nodes, {len(arrows)} edges."
    return Markup(  # every part is escaped where it is made
        f'<svg class="graph" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(told)}">{"".join([*arrows, *boxes, *notes])}</svg>'
    )


def _box(node: Node, left: float, top: float, *, here: bool) -> str:
    return (
        f'<g class="{"node here" if here else "node"}"><title>{escape(node.name)}</title>'
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="8"/>'
        f'<text x="{left + 10:.0f}" y="{top + 15:.0f}">{escape(_short(node.kind))}</text>'
        f'<text class="name" x="{left + 10:.0f}" y="{top + 31:.0f}">'
        f"{escape(_short(node.name))}</text></g>"
    )


def _arrow(edge: Edge, places: dict[Node, tuple[float, float]]) -> str:
    (left, top), (right, low) = places[edge.source], places[edge.destination]
    x1, y1 = left + _BOX_WIDTH, top + _BOX_HEIGHT / 2
    x2, y2 = right - 6, low + _BOX_HEIGHT / 2
    bend = max(24.0, (x2 - x1) / 2)
    over = 0.0
    if right - left > _BOX_WIDTH + 2 * _ACROSS:  # over what stands between
        bend, over = _ACROSS / 2, 58.0
    curve = (
        f"M{x1:.0f},{y1:.0f} C{x1 + bend:.0f},{y1 - over:.0f} "
        f"{x2 - bend:.0f},{y2 - over:.0f} {x2:.0f},{y2:.0f}"
    )
    head = f"M{x2:.0f},{y2 - 4:.0f} l6,4 l-6,4 z"
    return (
        f'<g class="edge"><title>{escape(edge.relation)}</title><path d="{curve}"/>'
        f'<path class="head" d="{head}"/></g>'
    )


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def _skips(picture: Picture) -> bool:
    """Does an arrow pass a layer?"""
    column = {node: k for k, layer in enumerate(picture.layers) for node in layer}
    return any(column[e.destination] - column[e.source] > 1 for e in picture.edges)
