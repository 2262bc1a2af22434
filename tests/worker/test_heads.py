"""Heads that came before: the same answers as through the parser, and no way around it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from raw_http import Wire, value

from modelfleet_worker.heads import MAX_KEPT, Cut, Head, Heads, cut

IDS = [f"1c098240-96cd-4593-b0d3-{k:012x}" for k in range(50)]


def told(
    body: bytes,
    request_id: str = IDS[0],
    *,
    version: int = 17,
    more: bytes = b"",
    length: int | None = None,
) -> bytes:
    """As the gateway writes it."""
    size = len(body) if length is None else length
    return (
        b"POST /v2/models/linear/infer HTTP/1.1\r\nhost: fleet\r\ncontent-length: %d\r\n"
        b"x-request-id: %s\r\nx-envoy-attempt-count: 1\r\nx-mf-version: %d\r\n%s\r\n%s"
        % (size, request_id.encode(), version, more, body)
    )


def test_a_head_is_cut_where_requests_differ() -> None:
    first, second = cut(told(b"abc")), cut(told(b"abcdef", IDS[1]))
    assert first is not None
    assert second is not None
    assert first.key == second.key
    assert first.request_id == IDS[0].encode()
    assert second.body == b"abcdef"
    other = cut(told(b"abc", version=18))
    assert other is not None
    assert other.key != first.key


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        told(b"abc", length=2),
        told(b"abc", length=4),
        told(b"abc") + told(b"abc"),
        told(b"abc")[:-1],
        told(b"abc").replace(b"content-length: 3", b"content-length: +3"),
        told(b"abc").replace(b"content-length: 3", b"content-length: " + b"0" * 5000 + b"3"),
        told(b"abc").replace(b"content-length: 3", b"content-length : 3"),
        told(b"abc", "1C098240-96CD-4593-B0D3-000000000000"),
        told(b"abc", "1c098240-96cd-4593-b0d3-00000000000"),
        told(b"abc", "1c098240-96cd-4593-b0d3-0000000000000"),
        told(b"abc", "a\r\ntransfer-encoding: chunked\r\nb: c"),
        b"POST / HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
def test_what_is_not_exactly_one_request_is_left_to_the_parser(data: bytes) -> None:
    assert cut(data) is None


def test_what_varies_or_asks_for_more_is_not_kept() -> None:
    heads = Heads()
    for name in (b"transfer-encoding", b"expect", b"traceparent", b"x-mf-key", b"x-mf-cookie"):
        heads.keep(Cut(b"k", b"i", b""), Head(b"POST", b"/", {name: b"x"}, keep_alive=True))
    assert heads.find(Cut(b"k", b"i", b"")) is None
    heads.keep(Cut(b"k" * 5000, b"i", b""), Head(b"POST", b"/", {}, keep_alive=True))
    assert heads.find(Cut(b"k" * 5000, b"i", b"")) is None


def test_no_more_are_kept_than_fit() -> None:
    heads = Heads()
    for number in range(2 * MAX_KEPT + 10):
        heads.keep(Cut(b"%d" % number, b"i", b""), Head(b"POST", b"/", {}, keep_alive=True))
    assert len(heads._known) <= MAX_KEPT
    assert heads.find(Cut(b"%d" % (2 * MAX_KEPT + 9), b"i", b"")) is not None


def test_each_request_keeps_its_own_id_body_and_answer(wire: Wire, request_of: Any) -> None:
    for k, one in enumerate(IDS):
        wire.send(told(request_of([[k, 0, 0, 0]] * (1 + k % 3)), one))
        answer = wire.answer()
        assert value(answer) == k
        assert answer[1][b"x-request-id"] == one.encode()


def test_known_or_not_in_pieces_or_together_the_answers_are_the_same(
    wire: Wire, request_of: Any
) -> None:
    """Cut anywhere: a request that begins in one packet and ends in the next is no new one."""
    chance = random.Random(7)
    stream = b"".join(
        told(request_of([[k, 0, 0, 0]]), IDS[k % 50], more=b"x: y\r\n" * (k % 2))
        for k in range(200)
    )
    at = 0
    while at < len(stream):
        size = chance.choice([1, 30, 100, 330, 331, 350, 700])
        wire.send(stream[at : at + size])
        at += size
    assert [value(wire.answer()) for _ in range(200)] == list(range(200))


def test_a_request_inside_another_is_its_body(wire: Wire, request_of: Any) -> None:
    """Its head is known, and it comes in a packet of its own."""
    inner = told(request_of([[1, 0, 0, 0]]))
    wire.send(inner)
    assert value(wire.answer()) == 1
    outer = told(inner, IDS[1])
    wire.send(outer[: -len(inner)])
    wire.send(inner)
    status, headers, _ = wire.answer()
    assert (status, headers[b"x-request-id"]) == (400, IDS[1].encode())
    wire.send(told(request_of([[3, 0, 0, 0]])))
    assert value(wire.answer()) == 3


def test_a_request_inside_a_header_is_no_request(wire: Wire, request_of: Any) -> None:
    inner = told(request_of([[1, 0, 0, 0]]))
    wire.send(inner)
    assert value(wire.answer()) == 1
    wire.send(b"POST /v2/models/outer/infer HTTP/1.1\r\nx: ")
    wire.send(inner)
    assert wire.answer()[2]["model_name"] == "outer"
    wire.send(told(request_of([[3, 0, 0, 0]])))
    assert value(wire.answer()) == 3


def test_a_known_head_with_a_body_that_is_too_long_is_refused(wire: Wire, request_of: Any) -> None:
    wire.send(told(request_of([[1, 0, 0, 0]])))
    assert value(wire.answer()) == 1
    wire.send(told(b" " * 200_001))
    assert wire.answer()[0] == 413
    assert wire.closed()


def test_a_known_head_that_closes_closes(wire: Wire, request_of: Any, worker: Any) -> None:
    for _ in range(2):
        again = Wire(worker)
        again.send(told(request_of([[1, 0, 0, 0]]), more=b"connection: close\r\n"))
        assert value(again.answer()) == 1
        assert again.closed()
        again.close()
