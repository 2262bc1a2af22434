"""Clients that mean harm: smuggled requests, floods, and those that never finish."""

from __future__ import annotations

import gzip
import http.client
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from attacks import Wire, http2, refused2, statuses
from load import Load, rows
from running import SETTINGS, Platform, say
from zoo import EXAMPLE, Linear, Slow, Wide

from modelfleet_worker.wire.segment import Record, SegmentReader

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-hostile")]
OPEN, SECRET, WIDE, SLOW = "open", "secret", "wide", "slow"
HEADER_SECONDS, READ_SECONDS = 2.0, 4.0
SMUGGLED = "smuggled"
GOOD = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [0.1, 0.2, 0.3]}]}
).encode()


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    limits = (
        f"header_timeout_seconds = {HEADER_SECONDS}\nread_timeout_seconds = {READ_SECONDS}\n"
        "max_body_bytes = 1000000\n"
    )
    settings = SETTINGS.replace("[serving]\n", "[serving]\n" + limits)
    made = Platform(settings.replace("rotate_seconds = 5", "rotate_seconds = 600"))
    try:
        made.up()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def served(platform: Platform) -> Platform:
    platform.serve(OPEN, Linear(), EXAMPLE)
    platform.serve(SECRET, Linear(weight=2.0), EXAMPLE)
    return platform


@pytest.fixture(scope="module")
def caller(served: Platform) -> dict[str, Any]:
    """A key for `open` only."""
    served.client.api.post("/v1/principals", {"name": "stranger"})
    body = {"principal": "stranger", "models": [OPEN], "seconds": 3600}
    found = served.client.api.post("/v1/keys", body)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def wire(served: Platform) -> Iterator[Wire]:
    with Wire(served.ports()["gateway"]) as made:
        yield made


def records(platform: Platform) -> list[Record]:
    found: list[Record] = []
    for path in platform.layout().segments.glob("*.seg"):
        with SegmentReader(path) as reader:
            found += [record for _, record in reader.read(limit=1_000_000)[0]]
    return found


def head(key: str, *lines: str, start: str = f"POST /v2/models/{OPEN}/infer HTTP/1.1") -> bytes:
    known = [start, "host: fleet", f"authorization: Bearer {key}", "content-type: application/json"]
    return "\r\n".join([*known, *lines]).encode("latin-1") + b"\r\n\r\n"


INNER = (
    f"POST /v2/models/{SECRET}/infer HTTP/1.1\r\nhost: fleet\r\nx-request-id: {SMUGGLED}\r\n"
    f"x-mf-caller: root\r\ncontent-length: {len(GOOD)}\r\n\r\n"
).encode() + GOOD
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
ATTEMPTS: dict[str, tuple[tuple[str, ...], bytes]] = {
    "CL.TE": ((f"content-length: {len(CHUNKED) + len(INNER)}", "transfer-encoding: chunked"),
              CHUNKED + INNER),
    "TE.CL": (("transfer-encoding: chunked", "content-length: 4"), CHUNKED + INNER),
    "TE.TE": (("transfer-encoding: chunked", "transfer-encoding: x"), CHUNKED + INNER),
    "TE twice": (("transfer-encoding: chunked", "transfer-encoding: chunked"), CHUNKED + INNER),
    "TE identity": (("transfer-encoding: chunked, identity",), CHUNKED + INNER),
    "xchunked": (("transfer-encoding: xchunked", f"content-length: {len(GOOD)}"), GOOD + INNER),
    "TE tab": (("transfer-encoding:\tchunked", f"content-length: {len(GOOD)}"), GOOD + INNER),
    "TE \\x0b": (("transfer-encoding: \x0bchunked", f"content-length: {len(GOOD)}"), GOOD + INNER),
    "TE upper": (("Transfer-Encoding: CHUNKED", f"content-length: {len(GOOD)}"), CHUNKED + INNER),
    "CL CL": ((f"content-length: {len(GOOD)}", "content-length: 5"), GOOD + INNER),
    "CL list": ((f"content-length: {len(GOOD)}, 5",), GOOD + INNER),
    "CL plus": ((f"content-length: +{len(GOOD)}",), GOOD + INNER),
    "CL space": ((f"content-length : {len(GOOD)}",), GOOD + INNER),
    "TE space": (("transfer-encoding : chunked", f"content-length: {len(GOOD)}"), CHUNKED + INNER),
    "CL hidden": (("x: y\n" + f"content-length: {len(GOOD)}",), GOOD + INNER),
    "bare LF": (("x: y\n\n" + INNER.decode(),), b""),
    "bare CR": ((f"x: y\rcontent-length: {len(GOOD)}",), GOOD + INNER),
    "NUL": (("x: \0y", f"content-length: {len(GOOD)}"), GOOD + INNER),
    "folded": (("x: y", f" content-length: {len(GOOD)}"), GOOD + INNER),
    "folded TE": (("transfer-encoding:", " chunked"), CHUNKED + INNER),
    "chunk size": (("transfer-encoding: chunked",), b"0x5\r\n" + CHUNKED + INNER),
    "chunk overflow": (("transfer-encoding: chunked",), b"10000000000000000\r\n" + INNER),
    "chunk LF": (("transfer-encoding: chunked",), CHUNKED.replace(b"\r\n", b"\n") + INNER),
    "trailers": (("transfer-encoding: chunked", "trailer: x-mf-caller"),
                 CHUNKED[:-2] + b"x-mf-caller: root\r\nx-mf-version: 99\r\n\r\n" + INNER),
    "HTTP/1.0": ((f"content-length: {len(GOOD)}",), GOOD + INNER),
    "HTTP/1.0 kept": (("connection: keep-alive", f"content-length: {len(GOOD)}"), GOOD + INNER),
    "HTTP/1.0 chunked": (("connection: keep-alive", "transfer-encoding: chunked"), CHUNKED + INNER),
    "HTTP/1.0 both": (("connection: keep-alive", "transfer-encoding: chunked",
                       f"content-length: {len(GOOD)}"), CHUNKED + INNER),
    "upgrade": (("connection: upgrade", "upgrade: h2c", "http2-settings: AAMAAABkAAQAoAAAAAIAAAAA",
                 f"content-length: {len(GOOD)}"), GOOD + INNER),
    "expect": (("expect: 100-continue", f"content-length: {len(GOOD)}"), GOOD + INNER),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ATTEMPTS))
def test_nothing_is_smuggled(
    served: Platform, caller: dict[str, Any], wire: Wire, name: str
) -> None:
    """The second request has no key. If it is one at all, it is refused as such."""
    lines, body = ATTEMPTS[name]
    start = f"POST /v2/models/{OPEN}/infer HTTP/1.{0 if name.startswith('HTTP/1.0') else 1}"
    wire.send(head(caller["key"], *lines, start=start) + body)
    found = statuses(wire.all(0.3))
    say(f"{name}: {found}")
    assert found, "it was not answered"
    assert found[0] in (100, 200, 400, 401, 403, 426, 501), found
    assert set(found[1:]) <= {200, 400, 401}, found
    assert found.count(200) <= 1, found
    got = [r for r in records(served) if r.client_request_id == SMUGGLED or r.endpoint == SECRET]
    assert got == []
    assert all(record.caller != "root" for record in records(served))


NOT_OURS = [
    "x-mf-version: 999",
    "X-MF-Caller: root",
    "x_mf_caller: root",
    "x-mf-shadow: 1",
    "x-mf-priority: high",
    "x-mf-concurrency: 1",
    "x-mf-scope: *",
    "x-mf-named: ,secret,",
    "x-mf-gateway: guessed",
    "x-envoy-attempt-count: 7",
    "x-envoy-original-path: /v2/models/secret/infer",
    "x-envoy-max-retries: 9",
    "x-envoy-upstream-rq-timeout-ms: 1",
    "mf-deadline: 1",
    "connection: x-mf-caller, x-request-id, x-mf-version",
    "x-request-id: mine",
    "x-request-id: mine-too",
]


def test_nobody_speaks_in_our_name(served: Platform, caller: dict[str, Any], wire: Wire) -> None:
    assert (
        served.ask(OPEN, GOOD, key=caller["key"], headers={"x-request-id": "plain"}).status == 200
    )
    (plain,) = [r for r in records(served) if r.client_request_id == "plain"]
    before = {record.request_id for record in records(served)}
    wire.send(head(caller["key"], *NOT_OURS, f"content-length: {len(GOOD)}") + GOOD)
    assert statuses(wire.all()) == [200]
    (record,) = [r for r in records(served) if r.request_id not in before]
    assert record.caller == plain.caller
    assert record.version == plain.version
    assert (record.attempt, record.flags, record.endpoint) == (1, 0, OPEN)
    assert record.request_id not in ("mine", "mine-too", "")


PATHS = [
    "/v2/models//secret/infer", "//v2/models/secret/infer", "/v2/models/open/../secret/infer",
    "/v2/models/open/%2e%2e/secret/infer", "/v2/models/open/%2E%2E/secret/infer",
    "/v2/models/open/..%2fsecret/infer", "/v2/models/open%2f..%2fsecret/infer",
    "/v2/models/open%2F%2E%2E%2Fsecret/infer", "/v2/models/open/..;/secret/infer",
    "/v2/models/open;/../secret/infer", "/v2/models/secret;a=b/infer", "/V2/MODELS/SECRET/INFER",
    "/v2/models/%73ecret/infer", "/v2/models/secret/infer?x=/v2/models/open/infer",
    "/v2/models/secret/infer#/v2/models/open/infer", "/v2/models/open/infer/../../secret/infer",
    "/v2/models/open\\..\\secret/infer", "/v2/./models/./secret/infer",
    "http://fleet/v2/models/secret/infer", "http://open/v2/models/secret/infer",
    "/v2/models/open%00/../secret/infer", "/v2/models/open/versions/../../secret/infer",
    "/v2/models/secret/infer/", "/v2/models/open,secret/infer", "/v2/models/secret%20/infer",
    "/v2/models/secret/versions/1/infer", "/v2/models/%252e%252e/secret/infer",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_around_the_scope(
    served: Platform, caller: dict[str, Any], wire: Wire, path: str
) -> None:
    lines = (f"content-length: {len(GOOD)}", "connection: close")
    wire.send(head(caller["key"], *lines, start=f"POST {path} HTTP/1.1") + GOOD)
    (status,) = statuses(wire.all(2.0))
    say(f"{path}: {status}")
    assert status in (400, 403, 404), status
    assert [record for record in records(served) if record.endpoint == SECRET] == []


_PSEUDO: dict[str, list[tuple[bytes, bytes]]] = {
    "path twice": [(b":path", b"/v2/models/open/infer"), (b":path", b"/v2/models/secret/infer")],
    "path with a request": [
        (b":path", b"/v2/models/open/infer HTTP/1.1\r\nx-mf-caller: root\r\n\r\nPOST /v2/models/"
         b"secret/infer")
    ],
    "late": [(b"x", b"y"), (b":path", b"/v2/models/open/infer")],
    "unknown": [(b":path", b"/v2/models/open/infer"), (b":x-mf-caller", b"root")],
    "line in a value": [(b":path", b"/v2/models/open/infer"), (b"x", b"y\r\nx-mf-caller: root")],
    "line in a name": [(b":path", b"/v2/models/open/infer"), (b"x: y\r\nx-mf-caller", b"root")],
    "upper case": [(b":path", b"/v2/models/open/infer"), (b"X-MF-Caller", b"root")],
    "chunked": [(b":path", b"/v2/models/open/infer"), (b"transfer-encoding", b"chunked")],
    "length": [(b":path", b"/v2/models/open/infer"), (b"content-length", b"3")],
    "connection": [(b":path", b"/v2/models/open/infer"), (b"connection", b"x-mf-caller")],
    "no path": [],
    "spaces": [(b":path", b"/v2/models/open/infer"), (b"x-mf-caller ", b"root")],
}  # fmt: skip


@pytest.mark.parametrize("name", list(_PSEUDO))
def test_http2_tricks(served: Platform, caller: dict[str, Any], wire: Wire, name: str) -> None:
    before = len(records(served))
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"fleet")]
    headers += _PSEUDO[name] + [(b"authorization", b"Bearer " + caller["key"].encode())]
    wire.send(http2(headers, GOOD))
    answer = wire.all(3.0)  # broken connections are closed after a second
    assert wire.over or refused2(answer)
    assert len(records(served)) == before


def test_http2_itself_works(served: Platform, caller: dict[str, Any], wire: Wire) -> None:
    """Else the tests above would prove nothing."""
    before = len(records(served))
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"fleet")]
    headers += [(b":path", b"/v2/models/open/infer")]
    headers += [(b"authorization", b"Bearer " + caller["key"].encode())]
    wire.send(http2(headers, GOOD))
    assert not refused2(wire.all(0.5))
    assert len(records(served)) == before + 1


@pytest.mark.parametrize(
    "lines",
    [[f"x-{k}: y" for k in range(200)], ["x: " + "a" * 100_000], ["x: " + "a" * 1000] * 90],
    ids=["two hundred", "one of 100 kB", "90 kB together"],
)
def test_floods_of_headers(
    served: Platform, caller: dict[str, Any], wire: Wire, lines: list[str]
) -> None:
    wire.send(head(caller["key"], *lines, f"content-length: {len(GOOD)}") + GOOD)
    answer = wire.all(2.0)
    assert statuses(answer) == [431]
    assert "headers" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_a_body_that_is_too_large(served: Platform) -> None:
    answer = served.ask(OPEN, b" " * 3_000_000)
    assert answer.status == 413
    assert "1000000 bytes" in answer.body["error"]


@pytest.fixture
def neighbour(served: Platform) -> Iterator[Load]:
    """Somebody who does nothing wrong and must not suffer."""
    with served.load(OPEN, rows(3), connections=2, pause=0.02) as load:
        load.wait_for(20)
        yield load
        load.wait_for(50)
    assert load.tally.bad == 0, f"{load.tally}"
    assert load.tally.longest_gap < 2.0, f"{load.tally}"


@pytest.mark.parametrize(
    ("part", "seconds"),
    [("header", HEADER_SECONDS), ("body", READ_SECONDS)],
)
def test_slow_senders_are_cut(
    served: Platform, caller: dict[str, Any], neighbour: Load, part: str, seconds: float
) -> None:
    port = served.ports()["gateway"]
    wires = [Wire(port) for _ in range(200)]
    began = time.monotonic()
    try:
        whole = head(caller["key"], "content-length: 1000")
        for wire in wires:
            wire.send(whole[:-4] if part == "header" else whole + b"{")
        while time.monotonic() - began < seconds - 1:
            for wire in wires:
                wire.send(b"\r\nx: y" if part == "header" else b" ")
            time.sleep(0.3)
        ends = [wire.ended(seconds + 5) for wire in wires]
        assert None not in ends
        took = time.monotonic() - began
        say(f"200 slow senders of a {part} were cut after {took:.1f} s")
        assert seconds - 1 < took < seconds + 4
    finally:
        for wire in wires:
            wire.sock.close()


def test_ten_thousand_idle_connections(served: Platform, neighbour: Load) -> None:
    wanted = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted + 500:
        pytest.skip(f"only {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port = served.ports()["gateway"]
    limits = f"/proc/{served.pid_of('gateway')}/limits"
    with open(limits) as stream:
        said = next(line.split() for line in stream if line.startswith("Max open files"))
    assert said[3] == said[4], "the gateway's own limit was not raised"
    before = memory(served.pid_of("gateway"))
    crowd: list[socket.socket] = []
    try:
        for _ in range(wanted):
            crowd.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        time.sleep(1.0)
        grown = memory(served.pid_of("gateway")) - before
        say(f"{wanted} idle connections: the gateway grew by {grown} MiB")
        assert grown < 600
        assert served.ask(OPEN, GOOD).status == 200
    finally:
        for one in crowd:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(pid: int) -> int:
    """MiB"""
    with open(f"/proc/{pid}/statm") as stream:
        return int(stream.read().split()[1]) * 4 // 1024


def test_clients_that_never_read(served: Platform, neighbour: Load) -> None:
    served.serve(WIDE, Wide(), EXAMPLE[:2])
    port = served.ports()["gateway"]
    size = len(GOOD)
    before = memory(served.pid_of("gateway"))
    wires = [Wire(port, receive_buffer=4096) for _ in range(20)]
    try:
        for wire in wires:
            start = f"POST /v2/models/{WIDE}/infer HTTP/1.1"
            wire.send(head(served.key, f"content-length: {size}", start=start) + GOOD)
        time.sleep(3.0)
        grown = memory(served.pid_of("gateway")) - before
        say(f"20 clients that don't read {Wide.VALUES} values: the gateway grew by {grown} MiB")
        assert grown < 200
        answer = served.ask(WIDE, GOOD)
        assert answer.status == 200
        assert len(answer.body["outputs"][0]["data"]) == Wide.VALUES
    finally:
        for wire in wires:
            wire.sock.close()


def test_large_answers_are_compressed_for_who_asks(served: Platform) -> None:
    served.serve("wider", Wide(), EXAMPLE[:2])
    connection = http.client.HTTPConnection("127.0.0.1", served.ports()["gateway"], timeout=30)
    binary = json.dumps({**json.loads(GOOD), "parameters": {"binary_data_output": True}}).encode()

    def ask(model: str, content: bytes, accepts: str) -> http.client.HTTPResponse:
        sent = {"authorization": f"Bearer {served.key}", "accept-encoding": accepts}
        connection.request("POST", f"/v2/models/{model}/infer", content, sent)
        return connection.getresponse()

    answer = ask("wider", GOOD, "gzip")
    assert answer.getheader("content-encoding") == "gzip"
    packed = answer.read()
    plain = ask("wider", GOOD, "identity")
    assert plain.getheader("content-encoding") is None
    whole = plain.read()
    assert len(packed) < len(whole) / 10
    outputs = json.loads(whole)["outputs"]
    assert json.loads(gzip.decompress(packed))["outputs"] == outputs

    mixed = ask("wider", binary, "gzip, deflate")
    assert mixed.getheader("content-encoding") == "gzip"
    size = int(mixed.getheader("inference-header-content-length") or 0)
    inflated = gzip.decompress(mixed.read())
    told = json.loads(inflated[:size])["outputs"][0]
    assert len(inflated) - size == told["parameters"]["binary_data_size"] == 8 * Wide.VALUES

    small = ask(OPEN, GOOD, "gzip")
    assert small.getheader("content-encoding") is None
    assert json.loads(small.read())["outputs"]
    connection.close()


def test_clients_that_go_away(served: Platform, neighbour: Load) -> None:
    """Their requests are not run one after the other for nobody."""
    served.serve(SLOW, Slow(), EXAMPLE)
    port = served.ports()["gateway"]
    start = f"POST /v2/models/{SLOW}/infer HTTP/1.1"
    body = GOOD.replace(b"0.1", b"999")
    whole = head(served.key, f"content-length: {len(body)}", start=start) + body

    def come_and_go(content: bytes) -> None:
        for _ in range(50):
            with Wire(port) as wire:
                wire.send(content)
                time.sleep(0.005)

    threads = [
        threading.Thread(target=come_and_go, args=(content,))
        for content in (whole, whole, whole[:-20], whole[:60])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began = time.monotonic()
    assert served.ask(SLOW, body).status == 200
    took = time.monotonic() - began
    say(f"after 100 requests of {Slow.SECONDS} s that nobody waits for: {took:.2f} s")
    assert took < 25 * Slow.SECONDS
