from __future__ import annotations

import pytest
import sqlalchemy as sa

from modelfleet.core.authorization import Role
from modelfleet.core.errors import InvalidInput, NotAllowed, NotFound, WrongState
from modelfleet.registry import tables
from modelfleet.registry.tracking.model_search import OnDataset, Order
from modelfleet.registry.tracking.service import TrackingService
from modelfleet.registry.tracking.types import FileInfo, Point
from modelfleet.wiring import Fleet
from people import ADMIN, principal
from registrar import Registrar


def put(fleet: Fleet, tracking: TrackingService, path: str, content: bytes = b"x") -> str:
    sha256, size = fleet.blobs.put([content])
    tracking.put_artifact(ADMIN, path, sha256, size)
    return sha256


def names(tracking: TrackingService, text: str = "", **options: object) -> str:
    found = tracking.search_logged_models(ADMIN, ["0"], filter_text=text, **options)  # type: ignore[arg-type]
    return "".join(one.name for one in found.items)


def test_life(tracking: TrackingService, elsewhere: TrackingService) -> None:
    made = tracking.create_logged_model(
        ADMIN, "0", name="m", source_run_id="r", parameters={"a": "1"}, tags={"t": "2"}
    )
    assert (made.status, made.parameters, made.tags) == ("PENDING", {"a": "1"}, {"t": "2"})
    assert made.artifact_uri == f"mlflow-artifacts:/0/models/{made.id}/artifacts"
    assert tracking.create_logged_model(ADMIN, "0").name.count("-") == 2
    tracking.log_model_parameters(ADMIN, made.id, {"a": "1", "b": "2"})
    with pytest.raises(InvalidInput, match="Changing param values is not allowed"):
        tracking.log_model_parameters(ADMIN, made.id, {"a": "2"})
    tracking.set_model_tags(ADMIN, made.id, {"t": "3", "u": "4"})
    tracking.delete_model_tag(ADMIN, made.id, "t")
    with pytest.raises(NotFound, match="No tag with key 't' found for model with ID"):
        tracking.delete_model_tag(ADMIN, made.id, "t")
    found = tracking.get_logged_model(ADMIN, made.id)
    assert (found.parameters, found.tags) == ({"a": "1", "b": "2"}, {"u": "4"})
    for act in (
        lambda: elsewhere.get_logged_model(ADMIN, made.id),
        lambda: elsewhere.finalize_logged_model(ADMIN, made.id, "READY"),
        lambda: elsewhere.set_model_tags(ADMIN, made.id, {"a": "b"}),
        lambda: elsewhere.delete_logged_model(ADMIN, made.id),
        lambda: elsewhere.model_folder(ADMIN, made.id),
    ):
        with pytest.raises(NotFound, match=f"Logged model with ID '{made.id}' not found"):
            act()
    tracking.delete_logged_model(ADMIN, made.id)
    with pytest.raises(NotFound):
        tracking.get_logged_model(ADMIN, made.id)
    assert tracking.get_logged_model(ADMIN, made.id, deleted=True).deleted


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a.b", "a%b", "a'b", 'a"b', "x" * 501])
def test_names_that_are_refused(tracking: TrackingService, name: str) -> None:
    with pytest.raises(InvalidInput):
        tracking.create_logged_model(ADMIN, "0", name=name)


def test_ready_freezes_its_files(fleet: Fleet, tracking: TrackingService) -> None:
    made = tracking.create_logged_model(ADMIN, "0", name="m")
    root = f"0/models/{made.id}/artifacts"
    sha256 = put(fleet, tracking, f"{root}/MLmodel", b"flavors: {}")
    put(fleet, tracking, f"{root}/data/model.pkl")
    put(fleet, tracking, f"0/models/{made.id}x/artifacts/other")
    found = tracking.finalize_logged_model(ADMIN, made.id, "READY")
    assert found.status == "READY"
    entries = fleet.registry.entries(found.bundle_digest or "")
    assert [(one.path, one.size) for one in entries] == [("MLmodel", 11), ("data/model.pkl", 1)]
    assert entries[0].sha256 == sha256
    assert tracking.finalize_logged_model(ADMIN, made.id, "READY") == found
    for act in (
        lambda: put(fleet, tracking, f"{root}/MLmodel", b"other"),
        lambda: put(fleet, tracking, f"{root}/new/file"),
        lambda: put(fleet, tracking, f"0/./models/{made.id}/artifacts//new"),
        lambda: tracking.check_artifact(ADMIN, f"{root}/new"),
        lambda: tracking.delete_artifacts(ADMIN, f"{root}/data"),
        lambda: tracking.delete_artifacts(ADMIN, "0"),
        lambda: tracking.delete_artifacts(ADMIN, root),
        lambda: tracking.finalize_logged_model(ADMIN, made.id, "UPLOAD_FAILED"),
    ):
        with pytest.raises(WrongState, match="is READY"):
            act()
    assert tracking.get_artifact(ADMIN, f"{root}/MLmodel") == (sha256, 11)


def test_without_files_there_is_no_bundle(fleet: Fleet, tracking: TrackingService) -> None:
    made = tracking.create_logged_model(ADMIN, "0")
    assert tracking.finalize_logged_model(ADMIN, made.id, "READY").bundle_digest is None
    tracking.create_experiment(ADMIN, "far", artifact_location="s3://bucket/x")
    far = tracking.create_logged_model(ADMIN, "1")
    assert far.artifact_uri == f"s3://bucket/x/models/{far.id}/artifacts"
    assert tracking.finalize_logged_model(ADMIN, far.id, "READY").bundle_digest is None
    with pytest.raises(InvalidInput, match="does not hold the artifacts at s3://"):
        tracking.model_folder(ADMIN, far.id)


def test_what_no_bundle_can_hold_stays_pending(fleet: Fleet, tracking: TrackingService) -> None:
    made = tracking.create_logged_model(ADMIN, "0")
    put(fleet, tracking, f"0/models/{made.id}/artifacts/{'x' * 251}")
    with pytest.raises(InvalidInput, match="A bundle can't hold"):
        tracking.finalize_logged_model(ADMIN, made.id, "READY")
    assert tracking.get_logged_model(ADMIN, made.id).status == "PENDING"
    with fleet.database.read() as connection:
        assert connection.execute(sa.select(tables.bundle)).first() is None


def test_metrics_keep_their_history_and_their_dataset(tracking: TrackingService) -> None:
    run = tracking.create_run(ADMIN)
    made = tracking.create_logged_model(ADMIN, "0")
    one = Point("acc", 0.5, 7, 1, made.id, "iris", "d1")
    tracking.log_metric(ADMIN, run.id, one)
    tracking.log_metric(ADMIN, run.id, one)
    tracking.log_batch(ADMIN, run.id, points=[Point("acc", 0.7, 8, 2, made.id)])
    found = tracking.get_logged_model(ADMIN, made.id).metrics
    assert [(p.value, p.step, p.dataset_name, p.run_id) for p in found] == [
        (0.5, 1, "iris", run.id),
        (0.7, 2, "", run.id),
    ]
    with pytest.raises(NotFound, match="Logged model with ID 'm-nope' not found"):
        tracking.log_metric(ADMIN, run.id, Point("acc", 0.7, 8, 2, "m-nope"))
    assert len(tracking.metric_history(ADMIN, run.id, "acc").items) == 2


@pytest.fixture
def three(tracking: TrackingService) -> TrackingService:
    """Models a, b and c."""
    run = tracking.create_run(ADMIN)
    for number, name in enumerate("abc"):
        made = tracking.create_logged_model(
            ADMIN,
            "0",
            name=name,
            model_type="tree" if number else "",
            parameters={"p": str(number)},
            tags={"t": name},
        )
        if number:
            tracking.log_metric(ADMIN, run.id, Point("acc", -number, 1, 1, made.id, "iris", "d1"))
            tracking.log_metric(ADMIN, run.id, Point("acc", number / 10, 2, 1, made.id))
        if name == "c":
            tracking.finalize_logged_model(ADMIN, made.id, "READY")
    return tracking


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "cba"),
        ("name = 'a'", "a"),
        ("name LIKE 'A'", ""),
        ("name IN ('a', 'c')", "ca"),
        ("attributes.model_type = 'tree'", "cb"),
        ("status = 'READY'", "c"),
        ("creation_timestamp > 5", "cba"),
        ("creation_time < 5 AND name = 'a'", ""),
        ("metrics.acc > 0.15", "c"),
        ("metrics.acc < 0", "cb"),
        ("params.p = '1'", "b"),
        ("tags.t != 'a'", "cb"),
        ("source_run_id = 'x'", ""),
    ],
)
def test_filters(three: TrackingService, text: str, expected: str) -> None:
    assert names(three, text) == expected


def test_datasets_orders_and_pages(three: TrackingService) -> None:
    iris = OnDataset("iris")
    assert names(three, datasets=[iris]) == "cb"
    assert names(three, "metrics.acc > 0", datasets=[iris]) == ""
    assert names(three, "metrics.acc < -1", datasets=[OnDataset("iris", "d1")]) == "c"
    assert names(three, datasets=[OnDataset("iris", "d2")]) == ""
    assert names(three, order=[Order("metrics.acc")]) == "bca"
    assert names(three, order=[Order("metrics.acc", False)]) == "cba"
    assert names(three, order=[Order("metrics.acc", True, iris)]) == "cba"
    assert names(three, order=[Order("name")]) == "abc"
    assert names(three, order=[Order("creation_time")]) == "abc"
    assert names(three, limit=2) == "cb"
    assert names(three, limit=2, offset=2) == "a"
    for wrong in (
        {"order": [Order("zork")]},
        {"order": [Order("params.p")]},
        {"datasets": [OnDataset("")]},
        {"text": "metrics.acc > 'a'"},
        {"text": "zork.a = 'b'"},
        {"text": "name > 'a'"},
    ):
        with pytest.raises(InvalidInput):
            names(three, **wrong)  # type: ignore[arg-type]


def test_files(fleet: Fleet, tracking: TrackingService, elsewhere: TrackingService) -> None:
    run = tracking.create_run(ADMIN)
    uri, root = tracking.run_folder(ADMIN, run.id)
    assert (uri, root) == (run.artifact_uri, f"0/{run.id}/artifacts")
    put(fleet, tracking, f"{root}/b.txt", b"old")
    new = put(fleet, tracking, f"{root}/b.txt", b"newer")
    put(fleet, tracking, f"{root}/a/deep/x")
    put(fleet, tracking, f"{root}/a/y", b"")
    put(fleet, tracking, f"{root}/a0")
    assert tracking.get_artifact(ADMIN, f"{root}//b.txt") == (new, 5)
    assert tracking.list_artifacts(ADMIN, root) == [
        FileInfo("a", True),
        FileInfo("a0", False, 1),
        FileInfo("b.txt", False, 5),
    ]
    assert tracking.list_artifacts(ADMIN, f"{root}/a/") == [
        FileInfo("deep", True),
        FileInfo("y", False, 0),
    ]
    assert tracking.list_artifacts(ADMIN, "") == [FileInfo("0", True)]
    assert tracking.list_artifacts(ADMIN, f"{root}/b.txt") == []
    assert elsewhere.list_artifacts(ADMIN, root) == []
    with pytest.raises(NotFound, match="No such artifact"):
        elsewhere.get_artifact(ADMIN, f"{root}/b.txt")
    with pytest.raises(InvalidInput, match="refers to a directory"):
        tracking.get_artifact(ADMIN, f"{root}/a")
    with pytest.raises(InvalidInput, match="refers to a directory"):
        put(fleet, tracking, f"{root}/a")
    with pytest.raises(InvalidInput, match="A file is in the way"):
        put(fleet, tracking, f"{root}/b.txt/x")
    elsewhere.delete_artifacts(ADMIN, f"{root}/a")
    tracking.delete_artifacts(ADMIN, f"{root}/a")
    tracking.delete_artifacts(ADMIN, f"{root}/nothing")
    assert [one.path for one in tracking.list_artifacts(ADMIN, root)] == ["a0", "b.txt"]


def test_bundles_of_versions_can_be_read(
    fleet: Fleet, tracking: TrackingService, elsewhere: TrackingService, registrar: Registrar
) -> None:
    registrar.model()
    version = registrar.version(content=b"model")
    root = f"versions/{version.id}"
    assert [one.path for one in tracking.list_artifacts(ADMIN, root)] == [
        "bundle.json",
        "model.joblib",
    ]
    sha256, size = tracking.get_artifact(ADMIN, f"{root}/model.joblib")
    assert (fleet.blobs.path(sha256).read_bytes(), size) == (b"model", 5)
    assert elsewhere.list_artifacts(ADMIN, root) == []
    for act in (
        lambda: tracking.get_artifact(ADMIN, f"{root}/other"),
        lambda: elsewhere.get_artifact(ADMIN, f"{root}/model.joblib"),
    ):
        with pytest.raises(NotFound):
            act()
    stranger = principal(Role.DATA_SCIENTIST, "risk")
    with pytest.raises(NotAllowed):
        tracking.get_artifact(stranger, f"{root}/model.joblib")
    with pytest.raises(WrongState):
        put(fleet, tracking, f"{root}/model.joblib")
    with pytest.raises(WrongState):
        tracking.delete_artifacts(ADMIN, "versions")
