"""HTTP as strangers speak it, against a real worker."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from raw_http import Wire, value

ROW = [1.0, 2.0, 3.0, 4.0]
HEAD = b"POST /v2/models/linear/infer HTTP/1.1\r\nhost: w\r\nx-mf-version: 17\r\n"


@pytest.fixture
def body(request_of: Callable[..., bytes]) -> bytes:
    return request_of([ROW])


def sized(body: bytes, head: bytes = HEAD) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def test_keep_alive_and_pipelining_keep_the_order(wire: Wire, request_of: Any) -> None:
    for k in range(3):
        wire.send(sized(request_of([[k, 0, 0, 0]])))
        assert value(wire.answer()) == k
    wire.send(b"".join(sized(request_of([[k, 0, 0, 0]])) for k in range(100)))
    assert [value(wire.answer()) for _ in range(100)] == list(range(100))


def test_byte_by_byte(wire: Wire, body: bytes) -> None:
    for byte in sized(body):
        wire.send(bytes([byte]))
    assert value(wire.answer()) == 30


def test_chunked_body(wire: Wire, body: bytes) -> None:
    wire.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    for start in range(0, len(body), 7):
        part = body[start : start + 7]
        wire.send(b"%x\r\n%s\r\n" % (len(part), part))
    wire.send(b"0\r\n\r\n")
    assert value(wire.answer()) == 30


def test_trailers_are_no_headers(wire: Wire, body: bytes) -> None:
    head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    wire.send(head + b"%x\r\n%s\r\n0\r\nx-mf-version: 99\r\n\r\n" % (len(body), body))
    assert value(wire.answer()) == 30
    wire.send(sized(body))
    assert value(wire.answer()) == 30


def test_expect_100_continue(wire: Wire, body: bytes) -> None:
    wire.send(HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body))
    assert wire.file.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert wire.file.readline() == b"\r\n"
    wire.send(body)
    assert value(wire.answer()) == 30


def test_connection_close_is_honoured(wire: Wire, body: bytes) -> None:
    wire.send(sized(body, HEAD + b"connection: close\r\n"))
    status, headers, _ = wire.answer()
    assert (status, headers[b"connection"]) == (200, b"close")
    assert wire.closed()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/9.9\r\n\r\n", 400),
        (HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc", 400),
        (HEAD + b"content-length: -3\r\n\r\n", 400),
        (HEAD + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n", 400),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", 400),
        (HEAD + b"x-long: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (HEAD + b"x-long: " + b"a" * 70_000, 431),
        (b"GET /" + b"a" * 70_000, 431),
        (HEAD + b"content-length: 50000000\r\n\r\n", 413),
        (HEAD + b"content-length: 99999999999999999999999\r\n\r\n", 400),
    ],
)
def test_what_cannot_be_read_is_answered_and_closed(
    wire: Wire, content: bytes, status: int
) -> None:
    wire.send(content)
    found, headers, told = wire.answer()
    assert found == status
    assert headers[b"connection"] == b"close"
    assert set(told) == {"error"}
    assert wire.closed()


def test_50_megabytes_are_refused_while_they_are_sent(wire: Wire, worker: Any) -> None:
    wire.send(HEAD + b"content-length: 52428800\r\n\r\n")
    for _ in range(50):
        wire.send(bytes(1 << 20))
    status, _, told = wire.answer()
    assert status == 413
    assert "longer than 200000 bytes" in told["error"]
    assert worker.records()[-1].status == 413
    assert worker.records()[-1].version == 17


def test_endless_chunks_are_refused(wire: Wire) -> None:
    wire.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(30):
        wire.send(b"2710\r\n" + bytes(10_000) + b"\r\n")
    assert wire.answer()[0] == 413


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_compressed_bodies(worker: Any, body: bytes, name: str) -> None:
    packed = gzip.compress(body) if name == "gzip" else zlib.compress(body)
    assert worker.infer("linear", packed, content_encoding=name).output("prediction") == [30]


@pytest.mark.parametrize("name", ["x-gzip", "GZIP"])
def test_gzip_in_members(worker: Any, body: bytes, name: str) -> None:
    packed = gzip.compress(body[:20]) + gzip.compress(b"") + gzip.compress(body[20:])
    assert worker.infer("linear", packed, content_encoding=name).output("prediction") == [30]


@pytest.mark.parametrize("path", [b"/v2", b"/v2/models/linear", b"/v2/models/other/ready"])
def test_head_is_get_without_its_body(wire: Wire, path: bytes) -> None:
    wire.send(b"GET %b HTTP/1.1\r\n\r\n" % path)
    status, headers, _ = wire.answer()
    wire.send(b"HEAD %b HTTP/1.1\r\n\r\n" % path)
    lines = iter(wire.file.readline, b"\r\n")
    assert int(next(lines).split()[1]) == status
    found = dict(line.strip().split(b": ", 1) for line in lines)
    assert found == headers
    wire.send(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
    assert wire.answer()[2] == {"live": True}


def test_a_405_says_what_is_allowed(worker: Any) -> None:
    for path, allowed in (("infer", "POST"), ("invocations", "POST"), ("ready", "GET, HEAD")):
        answer = worker.client().ask("PUT", f"/v2/models/linear/{path}")
        assert (answer.status, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("encoding", "content", "status"),
    [
        ("gzip", gzip.compress(bytes(10_000_000), mtime=0), 413),
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-5], 400),
        ("deflate", zlib.compress(b"{}") + b"more", 400),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"more", 400),
        ("gzip", gzip.compress(b"", mtime=0) * 100, 400),
        ("gzip", gzip.compress(bytes(600_000), mtime=0) * 60, 413),
        ("br", b"{}", 415),
    ],
)
def test_bad_compression(worker: Any, encoding: str, content: bytes, status: int) -> None:
    answer = worker.infer("linear", content, content_encoding=encoding)
    assert answer.status == status
    assert answer.error


def test_a_refusal_waits_for_the_answers_before_it(wire: Wire, body: bytes) -> None:
    wire.send(sized(body) + b"nonsense\r\n\r\n")
    assert value(wire.answer()) == 30
    assert wire.answer()[0] == 400
    assert wire.closed()


@pytest.mark.parametrize(
    ("method", "path", "status", "content"),
    [
        (
            "GET",
            "/v2",
            200,
            {"name": "modelfleet", "version": "0.1.0", "extensions": ["binary_tensor_data"]},
        ),
        ("GET", "/v2/health/live", 200, {"live": True}),
        ("GET", "/v2/health/ready", 200, {"live": True, "ready": True}),
        ("GET", "/v2/models/linear/ready", 200, {"name": "linear", "ready": True}),
        ("GET", "/v2/models/other/ready", 404, {"name": "other", "ready": False}),
        ("GET", "/v2/models/other", 404, {"error": "there is no model 'other'"}),
        ("GET", "/v2/models/linear/infer", 405, None),
        ("PUT", "/v2", 404, None),
        ("GET", "/", 404, None),
        ("GET", "/v2/models/linear/what/ever", 404, None),
    ],
)
def test_the_other_calls(worker: Any, method: str, path: str, status: int, content: Any) -> None:
    answer = worker.client().ask(method, path)
    assert answer.status == status
    assert content in (None, answer.body)


@pytest.mark.parametrize("path", ["/v2/models/linear", "/v2/models/line%61r/versions/1.0.0?a=b"])
def test_metadata(worker: Any, path: str) -> None:
    assert worker.client().ask("GET", path).body == {
        "name": "linear",
        "versions": ["1.0.0"],
        "platform": "modelfleet_onnx",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}],
        "outputs": [{"name": "prediction", "datatype": "FP64", "shape": [-1]}],
    }
