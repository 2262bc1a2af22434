"""Files through the server."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from modelfleet.compat.mlflow import artifacts
from modelfleet.compat.mlflow.artifacts import content_type, disposition
from modelfleet.core.authorization import Grant, Role
from people import ADMIN

if TYPE_CHECKING:
    from conftest import Mlflow

INVALID = "INVALID_PARAMETER_VALUE"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


def uploads(mlflow: Mlflow) -> list[str]:
    """What lies among the blobs, whole or not."""
    return [one.name for one in mlflow.fleet.layout.blobs.rglob("*") if one.is_file()]


def test_up_and_down(mlflow: Mlflow) -> None:
    run_id = mlflow.run()
    root = f"0/{run_id}/artifacts"
    for path, content in {"a.txt": b"hi", "d/b%20c.html": b"<b>", "d/e": b""}.items():
        found = mlflow.put(f"{root}/{path}", content)
        assert (found.status_code, found.json()) == (200, {})
        assert mlflow.file(f"{root}/{path}").content == content
    answer = mlflow.file(f"{root}/d/b%20c.html")
    assert answer.headers["content-type"] == "text/html"
    assert answer.headers["content-disposition"] == 'attachment; filename="b c.html"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    part = mlflow.file(f"{root}/a.txt", headers=mlflow.headers | {"range": "bytes=1-"})
    assert (part.status_code, part.content) == (206, b"i")
    a, d = {"path": "a.txt", "is_dir": False, "file_size": 2}, {"path": "d", "is_dir": True}
    assert mlflow.get(FILES, path=root) == {"files": [a, d]}
    assert mlflow.get(FILES, path="nothing") == {}
    uri = f"mlflow-artifacts:/{root}"
    listed = mlflow.get("artifacts/list", run_id=run_id)
    assert listed == {"root_uri": uri, "files": [a, d]}
    inside = mlflow.get("artifacts/list", run_id=run_id, path="d")["files"]
    assert [one["path"] for one in inside] == ["d/b c.html", "d/e"]
    assert mlflow.get("artifacts/list", run_id=run_id, path="x") == {"root_uri": uri}
    link = {"run_id": run_id, "path": "a.txt"}
    assert mlflow.call("GET", "/get-artifact", params=link).content == b"hi"
    assert mlflow.call("DELETE", f"{FILES}/{root}/d").json() == {}
    assert mlflow.get(FILES, path=root) == {"files": [a]}
    assert mlflow.refused("GET", f"{FILES}/{root}/d/e")[0] == "RESOURCE_DOES_NOT_EXIST"


ESCAPES = [
    "%2e%2e/x",
    "a/%2e%2e/%2e%2e/x",
    "%252e%252e/x",
    "%25252e%25252e%25252fx",
    "..%2fx",
    "..%5cx",
    "a%5cb",
    "%2fetc/passwd",
    "%252fetc%252fpasswd",
    "C:/x",
    "C:%5cx",
    "file:///etc/passwd",
    "file:%2f%2f%2fetc",
    "a%00b",
    "a%0ab",
    "a%1fb",
    "a%23b",
    "x" * 1001,
]


@pytest.mark.parametrize("path", ESCAPES)
def test_traversal_is_refused_everywhere(mlflow: Mlflow, path: str) -> None:
    run_id = mlflow.run()
    told = (INVALID, "Invalid path")
    assert mlflow.refused("PUT", f"{FILES}/{path}", content=b"x") == told
    assert mlflow.refused("GET", f"{FILES}/{path}") == told
    assert mlflow.refused("DELETE", f"{FILES}/{path}") == told
    assert mlflow.refused("GET", f"{FILES}?path={path}") == told
    assert mlflow.refused("GET", f"artifacts/list?run_id={run_id}&path={path}") == told
    assert mlflow.refused("GET", f"/get-artifact?run_id={run_id}&path={path}") == told
    assert uploads(mlflow) == []


def test_a_ready_model_does_not_change(mlflow: Mlflow) -> None:
    made = mlflow.post("logged-models", experiment_id="0", name="m")["model"]["info"]
    root, model_id = f"0/models/{made['model_id']}/artifacts", made["model_id"]
    mlflow.put(f"{root}/MLmodel", b"x")
    ready = {"model_id": model_id, "status": "LOGGED_MODEL_READY"}
    done = mlflow.call("PATCH", f"logged-models/{model_id}", ready)
    assert done.json()["model"]["info"]["status"] == "LOGGED_MODEL_READY"
    for method, content in (("PUT", b"other"), ("DELETE", None)):
        answer = mlflow.call(method, f"{FILES}/{root}/MLmodel", content=content)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_STATE")
    pending = {"model_id": model_id, "status": 1}
    assert mlflow.refused("PATCH", f"logged-models/{model_id}", pending)[0] == "INVALID_STATE"
    assert mlflow.file(f"{root}/MLmodel").content == b"x"
    listed = mlflow.get(f"logged-models/{model_id}/artifacts/directories")
    assert listed["files"] == [{"path": "MLmodel", "is_dir": False, "file_size": 1}]
    link = f"/ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files"
    assert mlflow.call("GET", link, params={"artifact_file_path": "MLmodel"}).content == b"x"


@pytest.mark.parametrize("size", [0, 3, artifacts.SMALL, artifacts.SMALL + 1])
def test_sizes_around_the_border(mlflow: Mlflow, size: int) -> None:
    content = os.urandom(size)
    assert mlflow.put("x/file", content).status_code == 200
    assert mlflow.file("x/file").content == content


def test_without_a_length_it_streams(mlflow: Mlflow) -> None:
    assert mlflow.call("PUT", f"{FILES}/x", content=iter([b"a", b"b"])).status_code == 200
    assert mlflow.file("x").content == b"ab"


@pytest.mark.parametrize("size", [3, artifacts.SMALL + 1])
def test_a_full_disk_leaves_nothing(
    mlflow: Mlflow, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.put("x", b"before")
    before = uploads(mlflow)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answer = mlflow.put("x", b"y" * size)
    assert (answer.status_code, answer.json()["error_code"]) == (507, "RESOURCE_EXHAUSTED")
    assert "disk is full" in answer.json()["message"]
    monkeypatch.undo()
    assert uploads(mlflow) == before
    assert mlflow.file("x").content == b"before"


def test_what_is_not_offered_says_so(mlflow: Mlflow) -> None:
    run_id = mlflow.run()
    path = f"/api/2.0/mlflow-artifacts/mpu/create/0/{run_id}/artifacts/x"
    answer = mlflow.call("POST", path, {"path": "x", "num_parts": 2})
    assert (answer.status_code, answer.json()["error_code"]) == (501, "NOT_IMPLEMENTED")
    signed = mlflow.call("GET", f"/api/2.0/mlflow-artifacts/presigned/0/{run_id}/artifacts/x")
    assert signed.status_code == 501
    asked: dict[str, Any] = {"run_id": run_id, "path": "x"}
    for name in ("upload", "download"):
        code, told = mlflow.refused("POST", f"artifacts/presigned-{name}-url", asked)
        assert (code, f"Presigned {name} is not supported" in told) == (INVALID, True)
    code, told = mlflow.refused("POST", "artifacts/presigned-upload-url", {"path": "x"})
    assert told == "Exactly one of run_id and model_id must be provided."
    mlflow.post("experiments/create", name="far", artifact_location="s3://bucket/x")
    far = mlflow.run(experiment_id="1")
    code, told = mlflow.refused("GET", f"artifacts/list?run_id={far}")
    assert (code, "does not hold" in told) == (INVALID, True)


def test_who_may(mlflow: Mlflow) -> None:
    mlflow.put("x", b"1")
    viewer, nobody = mlflow.key("vera", Grant(Role.VIEWER, "risk")), mlflow.key("nemo")
    assert mlflow.file("x", headers=viewer).content == b"1"
    assert mlflow.put("x", b"2", headers=viewer).status_code == 403
    assert mlflow.call("DELETE", f"{FILES}/x", headers=viewer).status_code == 403
    assert mlflow.file("x", headers=nobody).status_code == 403
    assert mlflow.call("GET", FILES, headers=nobody).status_code == 403
    assert mlflow.put("x", b"2", headers={}).status_code == 401


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MLmodel", "text/plain"),
        ("a.json", "text/plain"),
        ("a.html", "text/html"),
        ("a.png", "image/png"),
        ("a.unknown-kind", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_content_types(name: str, expected: str) -> None:
    assert content_type(name) == expected


def test_names_in_headers() -> None:
    assert disposition("a.txt") == "attachment; filename=a.txt"
    assert disposition('a"\\b') == 'attachment; filename="a\\"\\\\b"'
    assert disposition("日本") == (
        "attachment; filename=download; filename*=UTF-8''%E6%97%A5%E6%9C%AC"
    )


def test_places_of_their_own_are_frozen_and_registered(mlflow: Mlflow) -> None:
    mlflow.post("experiments/create", name="own", artifact_location="mlflow-artifacts:/my/place")
    made = mlflow.post("logged-models", experiment_id="1", name="m")["model"]["info"]
    model_id = made["model_id"]
    assert made["artifact_uri"] == f"mlflow-artifacts:/my/place/models/{model_id}/artifacts"
    mlflow.put(f"my/place/models/{model_id}/artifacts/MLmodel", b"flavors: {}\n")
    mlflow.call("PATCH", f"logged-models/{model_id}", {"status": "LOGGED_MODEL_READY"})
    mlflow.post("registered-models/create", name="own")
    version = {"name": "own", "source": f"models:/{model_id}", "model_id": model_id}
    assert mlflow.post("model-versions/create", **version)["model_version"]["status"] == "READY"
    [found] = mlflow.fleet.registry.list_versions(ADMIN, "own")
    assert [e.path for e in mlflow.fleet.registry.entries(found.bundle_digest)] == ["MLmodel"]
    place = mlflow.get("model-versions/get-download-uri", name="own", version="1")
    assert place == {"artifact_uri": made["artifact_uri"]}
    listed = mlflow.get(FILES, path=f"versions/{found.id}")["files"]
    assert listed == [{"path": "MLmodel", "is_dir": False, "file_size": 12}]
    assert mlflow.file(f"versions/{found.id}/MLmodel").content == b"flavors: {}\n"
