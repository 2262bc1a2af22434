"""Edges between what was used and what was made."""

from __future__ import annotations

from modelfleet.core.database import Database
from modelfleet.lineage import Edge, LineageService, Node, add_edge, edges_from, remove_edges

DATA, RUN, V1, V2 = (
    Node("dataset", "d"),
    Node("run", "r"),
    Node("version", "a@1"),
    Node("version", "b@1"),
)


def draw(database: Database, *edges: tuple[Node, str, Node]) -> LineageService:
    with database.begin() as connection:
        for edge in edges:
            add_edge(connection, *edge)
    return LineageService(database)


def test_upstream_is_nearest_first_and_each_once(database: Database) -> None:
    chain = [(DATA, "trained", RUN), (RUN, "produced", V1), (V1, "feeds", V2), (DATA, "used", V2)]
    lineage = draw(database, *chain, *chain)
    found = lineage.upstream(V2)
    assert len(found) == 4
    assert {e.relation for e in found[:2]} == {"feeds", "used"}
    assert [e.relation for e in found[2:]] == ["produced", "trained"]
    assert lineage.upstream(DATA) == []


def test_a_circle_ends(database: Database) -> None:
    lineage = draw(database, (V1, "feeds", V2), (V2, "feeds", V1))
    assert len(lineage.upstream(V1)) == 2


def test_around_and_from(database: Database) -> None:
    lineage = draw(database, (DATA, "trained", RUN), (RUN, "produced", V1))
    assert {e.relation for e in lineage.around(RUN)} == {"trained", "produced"}
    with database.read() as connection:
        assert edges_from(connection, RUN) == [Edge(RUN, V1, "produced")]


def test_a_node_goes_with_its_edges(database: Database) -> None:
    lineage = draw(database, (DATA, "trained", RUN), (RUN, "produced", V1), (V1, "feeds", V2))
    with database.begin() as connection:
        remove_edges(connection, RUN)
    assert lineage.around(RUN) == []
    assert lineage.upstream(V2) == [Edge(V1, V2, "feeds")]
