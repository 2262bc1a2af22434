from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet.core.errors import InvalidInput
from modelfleet.registry.filters import Comparison, Grammar, parse, parse_order

RUNS = Grammar(
    texts=frozenset({"run_id", "status", "run_name"}),
    numbers=frozenset({"start_time"}),
    listed=frozenset({"run_id"}),
    entities={
        "tag": "tag",
        "tags": "tag",
        "metrics": "metric",
        "params": "parameter",
        "attribute": "attribute",
        "dataset": "dataset",
    },
    entity_keys={"dataset": frozenset({"name", "digest", "context"})},
    nullable=frozenset({"tag", "parameter"}),
    aliases={"run name": "run_name", "Created": "start_time"},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status = 'FINISHED'", Comparison("attribute", "status", "=", "FINISHED")),
        ('status != "a"', Comparison("attribute", "status", "!=", "a")),
        ("attribute.status='a'", Comparison("attribute", "status", "=", "a")),
        ("metrics.acc > 0.5", Comparison("metric", "acc", ">", 0.5)),
        ("metrics.acc<=-1e-3", Comparison("metric", "acc", "<=", -0.001)),
        ("metrics.`a b/c` = 1", Comparison("metric", "a b/c", "=", 1)),
        ('metrics."a b" = 1', Comparison("metric", "a b", "=", 1)),
        ("metrics.loss-1 < 2.", Comparison("metric", "loss-1", "<", 2.0)),
        ("tags.a.b = 'x'", Comparison("tag", "a.b", "=", "x")),
        ("tag.`AND = 'x'` = 'AND'", Comparison("tag", "AND = 'x'", "=", "AND")),
        ("params.x LIKE '%a%'", Comparison("parameter", "x", "LIKE", "%a%")),
        ("params.x ilike '%a%'", Comparison("parameter", "x", "ILIKE", "%a%")),
        ("params.x IS NULL", Comparison("parameter", "x", "IS NULL", None)),
        ("tags.x is  not  null", Comparison("tag", "x", "IS NOT NULL", None)),
        ("run_id IN ('a','b')", Comparison("attribute", "run_id", "IN", ("a", "b"))),
        ("run_id NOT IN ('a')", Comparison("attribute", "run_id", "NOT IN", ("a",))),
        ("start_time >= 5", Comparison("attribute", "start_time", ">=", 5)),
        ("Created > 1", Comparison("attribute", "start_time", ">", 1)),
        ("`run name` = 'x'", Comparison("attribute", "run_name", "=", "x")),
        ("run name = 'x'", Comparison("attribute", "run_name", "=", "x")),
        ("dataset.name IN ('x')", Comparison("dataset", "name", "IN", ("x",))),
        ("tags.x = ''", Comparison("tag", "x", "=", "")),
    ],
)
def test_one_comparison(text: str, expected: Comparison) -> None:
    assert parse(text, RUNS) == (expected,)


def test_several_are_joined_by_and() -> None:
    found = parse("status = 'a' and metrics.x > 1 AND tags.t LIKE 'b'", RUNS)
    assert [one.key for one in found] == ["status", "x", "t"]


@pytest.mark.parametrize("text", ["", "   ", None])
def test_nothing(text: str | None) -> None:
    assert parse(text, RUNS) == ()


@pytest.mark.parametrize(
    "text",
    [
        "status",
        "status =",
        "status = FINISHED",
        "status = 5",
        "status > 'a'",
        "status IN ('a')",
        "run_id IN ()",
        "run_id IN ('a',)",
        "run_id IN ('a'",
        "run_id IN (1)",
        "metrics.x = 'a'",
        "metrics.x LIKE 'a'",
        "metrics.x IS NULL",
        "start_time = 'a'",
        "nope = 'a'",
        "nope.x = 'a'",
        "dataset.nope = 'a'",
        "status = 'a' OR status = 'b'",
        "(status = 'a')",
        "status = 'a' AND",
        "AND status = 'a'",
        "status = 'a' status = 'b'",
        "status = 'a'; DROP TABLE run",
        "status = 'a' -- x",
        "status = 'a",
        "status NOT LIKE 'a'",
        "tags.x = \"a' OR 1=1",
        "\x00",
        "1 = 1",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text, RUNS)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse(text, RUNS)
        parse_order([text], RUNS, frozenset({"start_time"}))
    except InvalidInput:
        return


def test_orders() -> None:
    keys = frozenset({"start_time"})
    order = ["metrics.`a b` DESC", "start_time", "params.x asc"]
    assert parse_order(order, RUNS, keys) == [
        ("metric", "a b", False),
        ("attribute", "start_time", True),
        ("parameter", "x", True),
    ]


@pytest.mark.parametrize("entry", ["", "status", "nope.x", "start_time UP", "start_time ASC DESC"])
def test_orders_that_are_not(entry: str) -> None:
    with pytest.raises(InvalidInput):
        parse_order([entry], RUNS, frozenset({"start_time"}))


def test_an_order_names_a_key_once() -> None:
    with pytest.raises(InvalidInput):
        parse_order(["start_time", "Created DESC"], RUNS, frozenset({"start_time"}))
