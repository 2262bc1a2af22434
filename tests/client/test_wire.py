"""Tensors, and calls against a server that does what a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from modelfleet.client import ApiError, Client, Unreachable, transport
from modelfleet.client.errors import ClientError
from modelfleet.client.tensors import encode
from modelfleet.client.transport import RETRIES, Transport, key_of, ports_of
from wire_server import Answer, Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Retries happen at once; returns how long they would have waited."""
    waits: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", waits.append)
    for name in ("MODELFLEET_URL", "MODELFLEET_KEY", "MODELFLEET_HOME", "MODELFLEET_GATEWAY_URL"):
        monkeypatch.delenv(name, raising=False)
    return waits


@pytest.fixture
def wire(server: Server) -> Iterator[Transport]:
    made = Transport(server.address, "secret", timeout=5)
    yield made
    made.close()


# Calls -------------------------------------------------------------------------------------------


def test_a_call_carries_the_key_the_query_and_json(server: Server, wire: Transport) -> None:
    server.answers = [(200, {"a": 1})]
    assert wire.get("/x", team="growth", text=None) == {"a": 1}
    assert wire.post("/y", {"b": 2}) == {"a": 1}
    (_, first, headers, _), (method, _, _, body) = server.seen
    assert first == "/x?team=growth"
    assert headers["authorization"] == "Bearer secret"
    assert (method, json.loads(body)) == ("POST", {"b": 2})


def test_an_empty_answer_is_none(server: Server, wire: Transport) -> None:
    server.answers = [(200, b"")]
    assert wire.delete("/x") is None


def test_busy_servers_are_asked_again_with_growing_patience(
    server: Server, wire: Transport, no_waiting: list[float]
) -> None:
    server.answers = [(503, {}), (503, {}), (200, {"ok": True})]
    assert wire.get("/x") == {"ok": True}
    assert len(server.seen) == 3
    assert 0.05 <= no_waiting[0] <= 0.1 <= no_waiting[1] <= 0.2


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_patience_ends(server: Server, wire: Transport, method: str) -> None:
    server.answers = [(503, {"detail": "not yet"})]
    with pytest.raises(ApiError, match="not yet"):
        wire.call(method, "/x")
    assert len(server.seen) == RETRIES + 1


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_may_have_happened_is_not_done_twice(
    server: Server, wire: Transport, method: str
) -> None:
    server.answers = [None, (200, {})]
    with pytest.raises(Unreachable):
        wire.call(method, "/x", body={})
    server.answers = [(503, {}), (200, {})]
    with pytest.raises(ApiError):
        wire.call(method, "/x", body={})
    assert len(server.seen) == 2


def test_a_connection_that_breaks_is_made_again(server: Server, wire: Transport) -> None:
    server.answers = [None, (200, {"ok": 1})]
    assert wire.get("/x") == {"ok": 1}


def test_a_stream_is_sent_once(server: Server, wire: Transport) -> None:
    server.answers = [(503, {})]
    with pytest.raises(ApiError):
        wire.call("PUT", "/x", content=iter([b"a", b"b"]))
    assert len(server.seen) == 1


def test_problems_are_told_with_their_hints(server: Server, wire: Transport) -> None:
    body = {"type": "urn:x", "detail": "No.", "hint": "Ask.", "holders": ["a"]}
    server.answers = [(409, body)]
    with pytest.raises(ApiError) as caught:
        wire.get("/x")
    error = caught.value
    assert (error.status, error.type, error.detail, error.hint) == (409, "urn:x", "No.", "Ask.")
    assert str(error) == "No. Ask."
    assert error.body["holders"] == ["a"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((400, {"error": "bad shape"}), "bad shape"),
        ((500, b"<html>oops</html>"), "oops"),
        ((404, b""), "Not Found"),
        ((418, [1]), r"\[1\]"),
    ],
)
def test_other_shapes_are_told_too(
    server: Server, wire: Transport, answer: Answer, told: str
) -> None:
    server.answers = [answer]
    with pytest.raises(ApiError, match=told):
        wire.get("/x")


def test_nobody_there(no_waiting: list[float]) -> None:
    wire = Transport("http://127.0.0.1:9", "k")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        wire.post("/x")
    assert len(no_waiting) == RETRIES  # it never arrived, so that even a POST is tried again
    wire.close()


# Where and who -----------------------------------------------------------------------------------


def test_a_home_tells_ports_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in (ports_of, key_of):
        with pytest.raises(Unreachable):
            missing(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ports.json").write_text('{"api": 1, "gateway": 2, "metrics": 3}')
    (tmp_path / "admin.key").write_text("from-home\n")
    with Client(home=tmp_path) as client:
        assert client.api.url == "http://127.0.0.1:1"
        assert client.gateway_url == "http://127.0.0.1:2"
    assert key_of(tmp_path) == "from-home"
    monkeypatch.setenv("MODELFLEET_KEY", "from-environment")
    monkeypatch.setenv("MODELFLEET_URL", "http://elsewhere/")
    assert key_of(tmp_path) == "from-environment"
    with Client(home=tmp_path) as client:
        assert client.api.url == "http://elsewhere"
        with pytest.raises(Unreachable, match="MODELFLEET_GATEWAY_URL"):
            client.predict("churn", [[1.0]])


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[Client]:
    made = Client(server.address, "k", gateway_url=server.address, home=tmp_path)
    yield made
    made.close()


VERSION = {
    "index": 1,
    "model": "churn",
    "version": "1.0.0",
    "sequence": 1,
    "status": "pending",
    "reason": "",
    "serving": "",
    "bundle_digest": "d",
    "metrics": {},
    "aliases": [],
    "created_by": "ada",
    "created_at": "",
    "something": "newer",
}


def test_only_what_the_server_lacks_is_uploaded(server: Server, client: Client) -> None:
    server.answers = [(200, b""), (404, b""), (201, {}), (201, VERSION)]
    made = client.register_files(
        "churn", {"a": b"known", "b": b"new"}, requirements=["numpy"], python="3.11"
    )
    assert made.version == "1.0.0"
    assert [(method, body) for method, _, _, body in server.seen[:3]] == [
        ("HEAD", b""),
        ("HEAD", b""),
        ("PUT", b"new"),
    ]
    body = json.loads(server.seen[3][3])
    assert [one["path"] for one in body["entries"]] == ["a", "b"]


def test_waiting_for_a_version(server: Server, client: Client) -> None:
    states = [{"version": VERSION | {"status": s, "reason": "no"}} for s in ("pending", "ready")]
    server.answers = [(200, one) for one in states]
    assert client.wait_until_ready("churn", "1.0.0").status == "ready"
    server.answers = [(200, {"version": VERSION | {"status": "failed", "reason": "does not load"}})]
    with pytest.raises(ClientError, match="does not load"):
        client.wait_until_ready("churn", "1.0.0")


def test_pages_are_followed_to_the_end(server: Server, client: Client) -> None:
    model = dict.fromkeys(
        ("name", "owner_team", "business_function", "criticality", "description", "created_at"), ""
    )
    one = model | {"tags": {}, "latest_version": None, "versions": 0}
    server.answers = [(200, [one] * 1000), (200, [one] * 3)]
    assert len(client.models()) == 1003
    assert [path for _, path, _, _ in server.seen] == [
        "/v1/models?limit=1000&offset=0",
        "/v1/models?limit=1000&offset=1000",
    ]


def test_a_prediction_goes_to_the_gateway(server: Server, client: Client) -> None:
    server.answers = [(200, {"outputs": []})]
    assert client.predict("churn", np.ones((1, 2)), version="1.2.0") == {"outputs": []}
    _, path, _, body = server.seen[0]
    assert path == "/v2/models/churn/versions/1.2.0/infer"
    (tensor,) = json.loads(body)["inputs"]
    assert tensor == {"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1.0, 1.0]}


def test_outcomes_are_lines(server: Server, client: Client) -> None:
    server.answers = [(200, {"accepted": 2})]
    assert client.report_outcomes({"prediction_id": str(k), "value": k} for k in range(2)) == 2
    assert [json.loads(line) for line in server.seen[0][3].splitlines()] == [
        {"prediction_id": "0", "value": 0},
        {"prediction_id": "1", "value": 1},
    ]


# Tensors -----------------------------------------------------------------------------------------


def tensors(inputs: object) -> list[tuple[object, ...]]:
    made: list[dict[str, object]] = encode(inputs)["inputs"]  # type: ignore[assignment]
    json.dumps(made)
    return [(t["name"], t["datatype"], t["shape"], t["data"]) for t in made]


Make = Callable[[], object]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: [[1, 2], [3, 4]], ("x", "FP64", [2, 2], [1, 2, 3, 4])),
        (lambda: np.array([[1, 2]], np.int32), ("x", "INT32", [1, 2], [1, 2])),
        (lambda: np.array([[0.5]], np.float32), ("x", "FP32", [1, 1], [0.5])),
        (lambda: {"a": [1, 2]}, ("a", "INT64", [2], [1, 2])),
        (lambda: {"a": [1, 2.5]}, ("a", "FP64", [2], [1, 2.5])),
        (lambda: {"a": [True, False]}, ("a", "BOOL", [2], [True, False])),
        (lambda: {"a": ["x", "y"]}, ("a", "BYTES", [2], ["x", "y"])),
        (lambda: {"a": np.array(["x"], object)}, ("a", "BYTES", [1], ["x"])),
        (lambda: {"a": np.array([True])}, ("a", "BOOL", [1], [True])),
        (lambda: {"a": [np.int64(3)]}, ("a", "INT64", [1], [3])),
        (lambda: {"a": [np.float64(3)]}, ("a", "FP64", [1], [3.0])),
        (lambda: {"a": (1, 2)}, ("a", "INT64", [2], [1, 2])),
    ],
)
def test_values_become_tensors(make: Make, expected: tuple[object, ...]) -> None:
    assert tensors(make()) == [expected]


def test_a_frame_is_sent_column_by_column() -> None:
    import polars

    frame = polars.DataFrame({"n": [1.5], "word": ["a"], "k": [1]})
    assert tensors(frame) == [
        ("n", "FP64", [1], [1.5]),
        ("word", "BYTES", [1], ["a"]),
        ("k", "INT64", [1], [1]),
    ]
