"""Edges between what was used and what was made."""

from __future__ import annotations

import pytest

from modelfleet.core.database import Database
from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.lineage import (
    Edge,
    LineageService,
    Node,
    add_edge,
    declare,
    declared,
    edges_from,
    remove_edges,
    withdraw,
)

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


VIEW, MODEL, PLACE, APP = (
    Node("feature-view", "f"),
    Node("model", "a"),
    Node("endpoint", "e"),
    Node("application", "shop"),
)


def test_downstream_reaches_whoever_consumes(database: Database) -> None:
    lineage = draw(
        database,
        (DATA, "derived", VIEW),
        (VIEW, "trained", RUN),
        (RUN, "produced", V1),
        (V1, "deployed-to", PLACE),
        (PLACE, "consumed-by", APP),
        (MODEL, "feeds", V2),
        (MODEL, "served-by", Node("endpoint", "another version's")),
    )
    found = lineage.downstream(DATA)
    assert [e.relation for e in found[:3]] == ["derived", "trained", "produced"]
    assert {e.destination for e in found} == {VIEW, RUN, V1, PLACE, APP, V2}
    assert lineage.downstream(APP) == []
    assert {e.relation for e in lineage.downstream(MODEL)} == {"feeds", "served-by"}


def test_downstream_of_a_circle_ends(database: Database) -> None:
    lineage = draw(database, (V1, "feeds", V2), (V2, "feeds", V1))
    assert len(lineage.downstream(V1)) == 2


def test_many_nodes_are_asked_for_in_parts(database: Database) -> None:
    runs = [Node("run", f"r{k}") for k in range(250)]
    lineage = draw(
        database,
        *((DATA, "trained", one) for one in runs),
        *((one, "produced", Node("version", f"m@{one.name}")) for one in runs),
    )
    assert len(lineage.downstream(DATA)) == 500


def test_what_can_be_declared_is_typed(database: Database) -> None:
    one = declared(DATA, VIEW)
    assert (one.edge.relation, one.known) == ("derived", ())
    assert declared(V1, APP, "consumed-by").known == (V1,)
    for wrong in (
        (DATA, APP, ""),
        (V1, PLACE, ""),  # modelfleet's own
        (DATA, VIEW, "trained"),
        (DATA, DATA, ""),
        (Node("dataset", ""), VIEW, ""),
        (Node("dataset", "a\nb"), VIEW, ""),
        (Node("king", "x"), VIEW, ""),
    ):
        with pytest.raises(InvalidInput):
            declared(*wrong)
    with database.begin() as connection:
        declare(connection, one)
        declare(connection, one)
    assert LineageService(database).downstream(DATA) == [one.edge]
    with database.begin() as connection:
        withdraw(connection, one)
        with pytest.raises(NotFound):
            withdraw(connection, one)
