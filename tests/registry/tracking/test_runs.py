from __future__ import annotations

import math
import threading

import pytest

from modelfleet.core.authorization import Role
from modelfleet.core.errors import InvalidInput, NotAllowed, NotFound
from modelfleet.lineage import Node
from modelfleet.registry.tracking.service import TrackingService
from modelfleet.registry.tracking.types import Dataset, Input, ModelLink, Point, Run
from modelfleet.wiring import Fleet
from people import ADMIN, NOBODY, principal


@pytest.fixture
def run(tracking: TrackingService) -> Run:
    return tracking.create_run(ADMIN, name="first", started_at=5)


def latest(tracking: TrackingService, run_id: str) -> dict[str, tuple[float, int]]:
    found = tracking.get_run(ADMIN, run_id)
    return {one.key: (one.value, one.step) for one in found.points}


def test_a_new_run(tracking: TrackingService) -> None:
    found = tracking.create_run(
        ADMIN, user="ada", started_at=7, tags={"mlflow.source.git.commit": "c0ffee", "a": "b"}
    )
    assert len(found.id) == 32
    assert found.name == found.tags["mlflow.runName"]
    assert (found.status, found.user, found.started_at, found.ended_at) == (
        "RUNNING",
        "ada",
        7,
        None,
    )
    assert found.git_commit == "c0ffee"
    assert found.artifact_uri == f"mlflow-artifacts:/0/{found.id}/artifacts"
    named = tracking.create_run(ADMIN, tags={"mlflow.runName": "n"})
    assert named.name == "n"
    with pytest.raises(InvalidInput, match="with different values"):
        tracking.create_run(ADMIN, name="m", tags={"mlflow.runName": "n"})
    with pytest.raises(NotFound):
        tracking.create_run(ADMIN, "9")


def test_a_run_of_another_namespace_is_not_there(
    tracking: TrackingService, elsewhere: TrackingService, run: Run
) -> None:
    told = f"Run with id={run.id} not found"
    for act in (
        lambda: elsewhere.get_run(ADMIN, run.id),
        lambda: elsewhere.update_run(ADMIN, run.id, name="x"),
        lambda: elsewhere.delete_run(ADMIN, run.id),
        lambda: elsewhere.restore_run(ADMIN, run.id),
        lambda: elsewhere.set_run_tag(ADMIN, run.id, "a", "b"),
        lambda: elsewhere.delete_run_tag(ADMIN, run.id, "mlflow.runName"),
        lambda: elsewhere.log_metric(ADMIN, run.id, Point("m", 1.0, 0)),
        lambda: elsewhere.log_parameter(ADMIN, run.id, "p", "1"),
        lambda: elsewhere.log_batch(ADMIN, run.id),
        lambda: elsewhere.log_inputs(ADMIN, run.id),
        lambda: elsewhere.log_outputs(ADMIN, run.id, []),
        lambda: elsewhere.run_folder(ADMIN, run.id),
    ):
        with pytest.raises(NotFound, match=told):
            act()
    tracking.log_metric(ADMIN, run.id, Point("m", 1.0, 0))
    assert elsewhere.metric_history(ADMIN, run.id, "m").items == []
    assert elsewhere.sample_histories(ADMIN, [run.id], "m", limit=5) == []
    assert elsewhere.search_runs(ADMIN, ["0"], view="all").items == []


def test_life(tracking: TrackingService, run: Run) -> None:
    found = tracking.update_run(ADMIN, run.id, status="FINISHED", ended_at=9, name="renamed")
    assert (found.status, found.ended_at, found.name) == ("FINISHED", 9, "renamed")
    assert tracking.get_run(ADMIN, run.id).tags["mlflow.runName"] == "renamed"
    assert tracking.update_run(ADMIN, run.id, name="").name == "renamed"
    with pytest.raises(InvalidInput):
        tracking.update_run(ADMIN, run.id, status="DONE")
    tracking.set_run_tag(ADMIN, run.id, "mlflow.runName", "again")
    assert tracking.get_run(ADMIN, run.id).name == "again"
    tracking.delete_run(ADMIN, run.id)
    tracking.delete_run(ADMIN, run.id)
    for act in (
        lambda: tracking.update_run(ADMIN, run.id, name="x"),
        lambda: tracking.set_run_tag(ADMIN, run.id, "a", "b"),
        lambda: tracking.delete_run_tag(ADMIN, run.id, "a"),
        lambda: tracking.log_metric(ADMIN, run.id, Point("m", 1.0, 0)),
        lambda: tracking.log_parameter(ADMIN, run.id, "p", "1"),
        lambda: tracking.log_batch(ADMIN, run.id),
        lambda: tracking.log_inputs(ADMIN, run.id),
        lambda: tracking.log_outputs(ADMIN, run.id, []),
    ):
        with pytest.raises(InvalidInput, match="must be in the 'active' state"):
            act()
    tracking.restore_run(ADMIN, run.id)
    tracking.set_run_tag(ADMIN, run.id, "a", "b")


def test_the_latest_metric_is_by_step_then_time_then_value(
    tracking: TrackingService, run: Run
) -> None:
    for value, time, step in ((1.0, 10, 2), (9.0, 99, 1), (2.0, 10, 2), (0.5, 10, 2), (3.0, 9, 2)):
        tracking.log_metric(ADMIN, run.id, Point("m", value, time, step))
    assert latest(tracking, run.id) == {"m": (2.0, 2)}
    points = [Point("m", 5.0, 1, 3), Point("m", 4.0, 2, 3), Point("m", 7.0, 50, 0)]
    tracking.log_batch(ADMIN, run.id, points=points)
    assert latest(tracking, run.id) == {"m": (4.0, 3)}
    history = tracking.metric_history(ADMIN, run.id, "m")
    assert len(history.items) == 8
    assert [p.timestamp for p in history.items] == sorted(p.timestamp for p in history.items)


def test_the_same_point_counts_once(tracking: TrackingService, run: Run) -> None:
    nothing = Point("m", math.nan, 1, 1)
    tracking.log_batch(ADMIN, run.id, points=[nothing, nothing, Point("m", 0.0, 1, 1)])
    tracking.log_metric(ADMIN, run.id, nothing)
    found = tracking.metric_history(ADMIN, run.id, "m").items
    assert sorted(str(one.value) for one in found) == ["0.0", "nan"]
    tracking.log_metric(ADMIN, run.id, Point("much", -math.inf, 1))
    assert tracking.get_run(ADMIN, run.id).metrics["much"] == -1.7976931348623157e308


def test_parameters_do_not_change(tracking: TrackingService, run: Run) -> None:
    tracking.log_parameter(ADMIN, run.id, "p", "1")
    tracking.log_parameter(ADMIN, run.id, "p", "1")
    with pytest.raises(InvalidInput, match="was already logged with value='1'"):
        tracking.log_parameter(ADMIN, run.id, "p", "2")
    with pytest.raises(InvalidInput, match="Params were already logged"):
        tracking.log_batch(
            ADMIN,
            run.id,
            points=[Point("m", 1.0, 0)],
            parameters=[("q", "1"), ("p", "2")],
            tags=[("t", "1")],
        )
    found = tracking.get_run(ADMIN, run.id)
    assert (found.parameters, found.metrics, "t" in found.tags) == ({"p": "1"}, {}, False)
    with pytest.raises(InvalidInput, match="Duplicate parameter keys"):
        tracking.log_batch(ADMIN, run.id, parameters=[("q", "1"), ("q", "1")])


def test_datasets_and_models(fleet: Fleet, tracking: TrackingService, run: Run) -> None:
    iris = Dataset("iris", "abc", "local", "{}", "{}", None)
    tracking.log_inputs(
        ADMIN,
        run.id,
        inputs=[Input(iris, {"mlflow.data.context": "train"}), Input(iris, {"x": "y"})],
        models=["m-1"],
    )
    tracking.log_inputs(ADMIN, run.id, inputs=[Input(iris)])
    tracking.log_outputs(ADMIN, run.id, [ModelLink("m-2", "output", 3)])
    tracking.log_outputs(ADMIN, run.id, [ModelLink("m-2", "output", 4)])
    found = tracking.get_run(ADMIN, run.id)
    assert found.inputs == [Input(iris, {"mlflow.data.context": "train"})]
    assert found.models == [ModelLink("m-1", "input"), ModelLink("m-2", "output", 4)]
    upstream = fleet.lineage.upstream(Node("run", run.id))
    assert [one.source for one in upstream] == [Node("dataset", "iris@abc")]
    with pytest.raises(InvalidInput, match="'digest' exceeds"):
        tracking.log_inputs(ADMIN, run.id, inputs=[Input(Dataset("a", "x" * 37, "", ""))])


def test_writers_at_once_lose_nothing(tracking: TrackingService, run: Run) -> None:
    def write(number: int) -> None:
        for step in range(10):
            tracking.log_metric(ADMIN, run.id, Point("m", float(number), number, step))
            tracking.log_parameter(ADMIN, run.id, f"p{number}-{step}", "1")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(tracking.metric_history(ADMIN, run.id, "m").items) == 60
    found = tracking.get_run(ADMIN, run.id)
    assert len(found.parameters) == 60
    assert found.metrics == {"m": 5.0}


def test_who_may(tracking: TrackingService, run: Run) -> None:
    viewer = principal(Role.VIEWER, "growth")
    assert tracking.get_run(viewer, run.id).name == "first"
    tracking.log_metric(principal(Role.DATA_SCIENTIST, "risk"), run.id, Point("m", 1.0, 0))
    with pytest.raises(NotAllowed):
        tracking.log_metric(viewer, run.id, Point("m", 1.0, 0))
    with pytest.raises(NotAllowed):
        tracking.get_run(NOBODY, run.id)


def test_histories_come_in_pages_and_samples(tracking: TrackingService, run: Run) -> None:
    points = [Point("m", float(step), 1000 + step, step) for step in range(100)]
    tracking.log_batch(ADMIN, run.id, points=points)
    page = tracking.metric_history(ADMIN, run.id, "m", limit=60, offset=0)
    assert ([p.step for p in page.items], page.more) == (list(range(60)), True)
    page = tracking.metric_history(ADMIN, run.id, "m", limit=60, offset=60)
    assert ([p.step for p in page.items], page.more) == (list(range(60, 100)), False)
    for limit in (2, 5, 99, 100, 2500):
        found = tracking.sample_histories(ADMIN, [run.id], "m", limit=limit)
        steps = [p.step for p in found]
        assert len(steps) == min(limit, 100)
        assert (steps[0], steps[-1], steps) == (0, 99, sorted(steps))
    assert [p.step for p in tracking.sample_histories(ADMIN, [run.id], "m", limit=1)] == [99]
    some = tracking.sample_histories(ADMIN, [run.id], "m", limit=3, steps=(10, 20))
    assert [p.step for p in some] == [10, 14, 20]
