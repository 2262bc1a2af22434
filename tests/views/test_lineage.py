"""Lineage in layers: every node left of what was made of it, whatever the graph looks like."""

from __future__ import annotations

import random

from modelfleet.lineage import Edge, Node
from modelfleet.views.lineage import TALLEST, Picture, picture
from modelfleet.web.graph import lineage_graph

DATA, RUN, VERSION = Node("dataset", "flights-2013"), Node("run", "r1"), Node("version", "late@1")
USER = Node("version", "risk@1")


def edge(source: Node, destination: Node) -> Edge:
    return Edge(source, destination, "feeds")


def column(found: Picture, node: Node) -> int:
    return next(k for k, layer in enumerate(found.layers) if node in layer)


def test_from_the_data_to_the_user() -> None:
    found = picture(VERSION, [edge(RUN, VERSION), edge(DATA, RUN)], [edge(VERSION, USER)])
    assert found.layers == ((DATA,), (RUN,), (VERSION,), (USER,))
    assert len(found.edges) == 3
    drawn = lineage_graph(found)
    for node in (DATA, RUN, VERSION, USER):
        assert f">{node.name}</text>" in drawn
    assert drawn.count('class="edge"') == 3


def test_a_source_that_is_used_twice_stands_left_of_both() -> None:
    found = picture(VERSION, [edge(RUN, VERSION), edge(DATA, VERSION), edge(DATA, RUN)], [])
    assert found.layers == ((DATA,), (RUN,), (VERSION,))


def test_a_circle_ends() -> None:
    found = picture(VERSION, [edge(RUN, VERSION), edge(DATA, RUN), edge(RUN, DATA)], [])
    assert {node for layer in found.layers for node in layer} == {DATA, RUN, VERSION}


def test_many_users_are_counted_not_drawn() -> None:
    users = [edge(VERSION, Node("version", f"user-{k}@1")) for k in range(TALLEST + 5)]
    found = picture(VERSION, [], users)
    assert found.hidden == (0, 5)
    assert len(found.edges) == TALLEST
    assert "and 5 more" in lineage_graph(found)


def test_names_are_escaped_and_cut() -> None:
    found = picture(Node("version", "<b>" + "x" * 60), [edge(DATA, Node("version", "other"))], [])
    drawn = lineage_graph(found)
    assert "<b>" not in drawn
    assert "…</text>" in drawn


def test_edges_of_any_graph_without_circles_point_right() -> None:
    chance = random.Random(5)
    for _ in range(50):
        nodes = [Node("version", f"v{k}") for k in range(9)]
        here = nodes[-1]
        edges = [
            edge(a, b) for k, a in enumerate(nodes) for b in nodes[k + 1 :] if chance.random() < 0.3
        ]
        reached = {here}
        for one in sorted(edges, key=lambda e: e.source.name, reverse=True):
            if one.destination in reached:
                reached.add(one.source)
        leading = [one for one in edges if one.destination in reached]
        found = picture(here, leading, [])
        for one in leading:
            assert column(found, one.source) < column(found, one.destination), leading
