from __future__ import annotations

import math

import pytest

from modelfleet.core.errors import InvalidInput
from modelfleet.registry.tracking.service import TrackingService
from modelfleet.registry.tracking.types import Dataset, Input, Point
from people import ADMIN


@pytest.fixture
def filled(tracking: TrackingService) -> TrackingService:
    """Runs a, b and c, started in this order."""
    for number, name in enumerate("abc"):
        run = tracking.create_run(
            ADMIN, name=name, user="ada", started_at=number + 1, tags={"team.x/y": name}
        )
        points = [Point("acc", number / 10, 0), Point("odd", 1.0 if number else math.nan, 0)]
        parameters = [("depth", str(number)), ("same", "Yes")]
        tracking.log_batch(ADMIN, run.id, points=points, parameters=parameters)
        if name == "b":
            read = Dataset("iris", "d1", "local", "{}")
            context = {"mlflow.data.context": "train"}
            tracking.log_inputs(ADMIN, run.id, inputs=[Input(read, context)])
            tracking.update_run(ADMIN, run.id, status="FINISHED", ended_at=9)
        if name == "c":
            tracking.log_parameter(ADMIN, run.id, "only", "here")
    return tracking


def names(tracking: TrackingService, text: str = "", **options: object) -> str:
    found = tracking.search_runs(ADMIN, ["0"], filter_text=text, **options)  # type: ignore[arg-type]
    return "".join(run.name for run in found.items)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "cba"),
        ("metrics.acc > 0.05", "cb"),
        ("metric.acc = 0.1", "b"),
        ("metrics.acc != 0.1", "ca"),
        ("metrics.odd >= -5", "cb"),
        ("metrics.odd != 1", "a"),
        ("metrics.none != 1", ""),
        ("params.depth = '1'", "b"),
        ("parameters.depth != '1'", "ca"),
        ("param.same LIKE 'y%'", ""),
        ("param.same ILIKE 'y%'", "cba"),
        ("params.only IS NULL", "ba"),
        ("params.only IS NOT NULL", "c"),
        ("tags.`team.x/y` = 'a'", "a"),
        ('tag."team.x/y" LIKE "%"', "cba"),
        ("status = 'FINISHED'", "b"),
        ("attributes.status != 'FINISHED' AND metrics.acc > 0.05", "c"),
        ("run_name = 'a'", "a"),
        ("`run name` LIKE 'a%'", "a"),
        ("start_time > 1 and start_time <= 2", "b"),
        ("created >= 3", "c"),
        ("end_time = 9", "b"),
        ("user_id = 'ada'", "cba"),
        ("artifact_uri LIKE 'mlflow-artifacts:/0/%/artifacts'", "cba"),
        ("dataset.name = 'iris'", "b"),
        ("datasets.digest IN ('d1', 'd2')", "b"),
        ("dataset.context = 'train'", "b"),
        ("dataset.context != 'train'", ""),
        ("run_id NOT IN ('x')", "cba"),
    ],
)
def test_filters(filled: TrackingService, text: str, expected: str) -> None:
    assert names(filled, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "metrics.acc > 'a'",
        "metrics.acc LIKE 'a'",
        "params.depth > '1'",
        "params.depth = 1",
        "status IN ('a')",
        "run_id IN ()",
        "start_time IS NULL",
        "zork = 'a'",
        "zork.a = 'a'",
        "dataset.zork = 'a'",
        "metrics.acc > 1 OR metrics.acc < 1",
        "metrics.acc",
        "1 = 1",
        "run_name = 'a' -- x",
        "run_name = 'a'; DELETE FROM run",
        "(metrics.acc > 1)",
    ],
)
def test_filters_that_are_refused(filled: TrackingService, text: str) -> None:
    with pytest.raises(InvalidInput):
        names(filled, text)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["metrics.acc"], "abc"),
        (["metrics.acc DESC"], "cba"),
        (["metrics.odd DESC"], "cba"),  # NaN after numbers
        (["params.only ASC"], "cba"),  # what is not there after what is
        (["params.depth desc"], "cba"),
        (["tags.`team.x/y`"], "abc"),
        (["attributes.start_time ASC"], "abc"),
        (["Created ASC"], "abc"),
        (["status ASC", "run_name ASC"], "bac"),
        (["end_time"], "bca"),
    ],
)
def test_orders(filled: TrackingService, order: list[str], expected: str) -> None:
    assert names(filled, order=order) == expected


@pytest.mark.parametrize(
    "order", [["zork"], ["metrics.acc up"], ["metrics.acc DESC x"], ["dataset.name"], [""],
              ["status", "status"], ["start_time; DROP TABLE run"]],
)  # fmt: skip
def test_orders_that_are_refused(filled: TrackingService, order: list[str]) -> None:
    with pytest.raises(InvalidInput):
        names(filled, order=order)


def test_views_pages_and_experiments(filled: TrackingService) -> None:
    [first] = filled.search_runs(ADMIN, ["0"], filter_text="run_name = 'a'").items
    filled.delete_run(ADMIN, first.id)
    assert names(filled) == "cb"
    assert names(filled, view="deleted") == "a"
    assert names(filled, view="all") == "cba"
    page = filled.search_runs(ADMIN, ["0"], view="all", limit=2)
    assert ([run.name for run in page.items], page.more) == (["c", "b"], True)
    page = filled.search_runs(ADMIN, ["0"], view="all", limit=2, offset=2)
    assert ([run.name for run in page.items], page.more) == (["a"], False)
    assert filled.search_runs(ADMIN, ["7"]).items == []
    assert filled.search_runs(ADMIN, []).items == ()
    many = filled.search_runs(ADMIN, range(300_000), view="all")
    assert len(many.items) == 3
    with pytest.raises(InvalidInput, match="Invalid experiment ID 'x'"):
        filled.search_runs(ADMIN, ["x"])
