from __future__ import annotations

import pytest

from modelfleet.core import audit
from modelfleet.core.authorization import Role
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, NotFound, WrongState
from modelfleet.registry.tracking.service import TrackingService
from modelfleet.wiring import Fleet
from people import ADMIN, NOBODY, principal


def names(tracking: TrackingService, text: str = "", **options: object) -> list[str]:
    found = tracking.search_experiments(ADMIN, filter_text=text, **options)  # type: ignore[arg-type]
    return [one.name for one in found.items]


def test_each_namespace_counts_from_its_default(
    tracking: TrackingService, elsewhere: TrackingService
) -> None:
    for own in (tracking, elsewhere):
        default = own.get_experiment(ADMIN, "0")
        assert (default.name, default.artifact_location) == ("Default", "mlflow-artifacts:/0")
        assert own.create_experiment(ADMIN, "same").number == 1
    tracking.create_experiment(ADMIN, "second", tags={"a": "b"})
    with pytest.raises(NotFound, match="No Experiment with id=2 exists"):
        elsewhere.get_experiment(ADMIN, "2")
    with pytest.raises(NotFound):
        elsewhere.find_experiment(ADMIN, "second")
    assert tracking.find_experiment(ADMIN, "second").tags == {"a": "b"}
    assert names(elsewhere) == ["same", "Default"]


def test_names_are_unique_even_beside_deleted_ones(tracking: TrackingService) -> None:
    made = tracking.create_experiment(ADMIN, "one")
    tracking.delete_experiment(ADMIN, "1")
    with pytest.raises(Conflict, match=r"Experiment\(name=one\) already exists\."):
        tracking.create_experiment(ADMIN, "one")
    with pytest.raises(NotFound):
        tracking.delete_experiment(ADMIN, "1")
    with pytest.raises(WrongState):
        tracking.rename_experiment(ADMIN, "1", "two")
    with pytest.raises(InvalidInput, match="must be in the 'active' state"):
        tracking.set_experiment_tag(ADMIN, "1", "k", "v")
    tracking.restore_experiment(ADMIN, "1")
    with pytest.raises(NotFound):
        tracking.restore_experiment(ADMIN, "1")
    tracking.rename_experiment(ADMIN, "1", "two")
    tracking.rename_experiment(ADMIN, "1", "two")
    with pytest.raises(Conflict):
        tracking.rename_experiment(ADMIN, "1", "Default")
    found = tracking.get_experiment(ADMIN, 1)
    assert (found.id, found.name, found.deleted) == (made.id, "two", False)
    assert found.updated_at >= found.created_at


def test_runs_go_and_come_with_their_experiment(tracking: TrackingService) -> None:
    tracking.create_experiment(ADMIN, "one")
    run = tracking.create_run(ADMIN, "1")
    tracking.delete_experiment(ADMIN, "1")
    assert tracking.get_run(ADMIN, run.id).deleted_at is not None
    with pytest.raises(InvalidInput, match="The experiment 1 must be in the 'active' state"):
        tracking.create_run(ADMIN, "1")
    tracking.restore_experiment(ADMIN, "1")
    assert tracking.get_run(ADMIN, run.id).deleted_at is None


def test_tags(tracking: TrackingService) -> None:
    tracking.set_experiment_tag(ADMIN, "0", "k", "v")
    tracking.set_experiment_tag(ADMIN, "0", "k", "w")
    assert tracking.get_experiment(ADMIN, "0").tags == {"k": "w"}
    tracking.delete_experiment_tag(ADMIN, "0", "k")
    with pytest.raises(NotFound, match="No tag with name: k in experiment with id 0"):
        tracking.delete_experiment_tag(ADMIN, "0", "k")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name = 'a'", ["a"]),
        ("name LIKE 'A%'", []),
        ("name ILIKE 'A%'", ["a"]),
        ("name != 'a'", ["b", "Default"]),
        ("tags.t = 'x'", ["b"]),
        ("tags.t IS NULL", ["a", "Default"]),
        ("tags.t IS NOT NULL", ["b"]),
        ("experiment_id IN ('0', '2')", ["b", "Default"]),
        ("experiment_id != '0' AND name = 'b'", ["b"]),
        ("creation_time > 5", ["b", "a", "Default"]),
        ("last_update_time <= 5", []),
    ],
)
def test_filters(tracking: TrackingService, text: str, expected: list[str]) -> None:
    tracking.create_experiment(ADMIN, "a")
    tracking.create_experiment(ADMIN, "b", tags={"t": "x"})
    assert names(tracking, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "name > 'a'",
        "name = 1",
        "creation_time = 'a'",
        "creation_time > 1.5",
        "experiment_id LIKE '1'",
        "experiment_id = 'x'",
        "metrics.x > 1",
        "name = 'a' OR name = 'b'",
        "name = ''; DROP TABLE experiment",
    ],
)
def test_filters_that_are_refused(tracking: TrackingService, text: str) -> None:
    with pytest.raises(InvalidInput):
        names(tracking, text)


def test_order_view_and_pages(tracking: TrackingService) -> None:
    for name in ("b", "a"):
        tracking.create_experiment(ADMIN, name)
    tracking.delete_experiment(ADMIN, "1")
    assert names(tracking, view="all", order=["name ASC"]) == ["Default", "a", "b"]
    assert names(tracking, view="all", order=["experiment_id DESC"]) == ["a", "b", "Default"]
    assert names(tracking, view="deleted") == ["b"]
    assert names(tracking, limit=1) == ["a"]
    page = tracking.search_experiments(ADMIN, limit=1, offset=1)
    assert ([one.name for one in page.items], page.more) == (["Default"], False)
    with pytest.raises(InvalidInput):
        names(tracking, order=["zork"])
    with pytest.raises(InvalidInput):
        names(tracking, order=["tags.t"])


@pytest.mark.parametrize(
    "location", ["mlflow-artifacts:/../x", "mlflow-artifacts:/%2e%2e/x", "s3://b/x?y", "s3://b/x#y"]
)
def test_locations_that_are_refused(tracking: TrackingService, location: str) -> None:
    with pytest.raises(InvalidInput):
        tracking.create_experiment(ADMIN, "one", artifact_location=location)


def test_who_may_and_what_is_recorded(fleet: Fleet, tracking: TrackingService) -> None:
    scientist, viewer = principal(Role.DATA_SCIENTIST, "growth"), principal(Role.VIEWER, "growth")
    tracking.create_experiment(scientist, "one")
    assert len(names(tracking)) == 2
    assert tracking.search_experiments(viewer).items
    for act in (
        lambda: tracking.create_experiment(viewer, "two"),
        lambda: tracking.set_experiment_tag(viewer, "1", "k", "v"),
        lambda: tracking.delete_experiment(viewer, "1"),
        lambda: tracking.get_experiment(NOBODY, "1"),
        lambda: tracking.search_experiments(NOBODY),
    ):
        with pytest.raises(NotAllowed):
            act()
    tracking.delete_experiment(scientist, "1")
    told = [(e.action, e.principal) for e in audit.events(fleet.database) if e.resource == "1"]
    assert told == [("delete-experiment", scientist.name), ("create-experiment", scientist.name)]


def test_runs_are_counted_by_experiment(tracking: TrackingService) -> None:
    made = tracking.create_experiment(ADMIN, "counted")
    assert tracking.run_counts(ADMIN) == {}
    kept, gone = (tracking.create_run(ADMIN, str(made.number), started_at=at).id for at in (5, 9))
    assert tracking.run_counts(ADMIN) == {made.number: (2, 9)}
    tracking.delete_run(ADMIN, gone)
    assert tracking.run_counts(ADMIN) == {made.number: (1, 5)}
    assert kept != gone
