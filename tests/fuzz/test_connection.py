"""Whatever bytes a connection brings, cut anywhere: HTTP comes back, in the order of requests."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st
from inputs import fuzz, mangled
from target import Answer, Target, check

from modelfleet_worker.heads import Cut, Head, Heads

GOOD = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]}
).encode()
_STARTS = [
    b"POST /v2/models/m1/infer HTTP/1.1",
    b"POST /v2/models/m1/infer HTTP/1.0",
    b"GET /v2/models/m1 HTTP/1.1",
    b"GET http://elsewhere/v2/health/live HTTP/1.1",
    b"CONNECT elsewhere:443 HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"OPTIONS * HTTP/1.1",
    b"POST /v2/models/%00%ff%2e%2e/infer HTTP/1.1",
    b"get / http/1.1",
    b"GET /\x00 HTTP/1.1",
    b"POST  /v2/models/m1/infer HTTP/1.1",
]
_HEADERS = [
    b"x-mf-version: 1",
    b"x-mf-version: 1",
    b"x-mf-version: 99999999999",
    b"x-mf-version: -1",
    b"content-length: %d" % len(GOOD),
    b"content-length: %d" % len(GOOD),
    b"Content-Length : 5",
    b"content-length: +5",
    b"content-length: 0x10",
    b"content-length: 5, 5",
    b"content-length:",
    b"content-length: 999999999",
    b"content-length: 18446744073709551617",
    b"transfer-encoding: chunked",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: xchunked",
    b"transfer-encoding: chunked, identity",
    b"transfer-encoding: gzip, chunked",
    b"transfer-encoding:\x0bchunked",
    b"transfer-encoding : chunked",
    b"expect: 100-continue",
    b"expect: something-else",
    b"connection: close",
    b"connection: upgrade",
    b"upgrade: h2c",
    b"host: a",
    b" folded: yes",
    b"no colon",
    b"x: \x00",
    b"x: a\rb",
    b"\xff: \xff",
    b"x-mf-timeout-ms: 0",
    b"x-mf-timeout-ms: 60000",
    b"x-request-id: " + b"a" * 300,
    b"traceparent: 00-" + b"g" * 60,
    b"x-envoy-attempt-count: 2",
    b"inference-header-content-length: 3",
    b"content-encoding: gzip",
    b"x-long: " + b"a" * 70_000,
]
_ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n"]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 2)) == 0:
        head = b"POST /v2/models/m1/infer HTTP/1.1\r\nx-mf-version: 1\r\n"
        return head + b"content-length: %d\r\n\r\n%s" % (len(GOOD), GOOD)
    lines = [draw(st.sampled_from(_STARTS))]
    lines += draw(st.lists(st.sampled_from(_HEADERS), max_size=6))
    made = b"".join(line + draw(st.sampled_from(_ENDS)) for line in lines)
    body = draw(
        st.one_of(
            st.just(GOOD),
            st.just(b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)),
            st.just(b"%x;a=b\r\n%s\r\n0\r\nx-mf-version: 7\r\n\r\n" % (len(GOOD), GOOD)),
            st.just(b"ffffffffffffffff\r\n"),
            st.just(b"0\r\n" + b"trailer: %s\r\n" % (b"a" * 9000) * 20 + b"\r\n"),
            st.binary(max_size=40),
        )
    )
    return draw(mangled(made + b"\r\n")) + body


@st.composite
def pieces(draw: st.DrawFn, content: bytes) -> list[bytes]:
    if draw(st.integers(0, 5)) == 0 and len(content) < 2000:
        return [content[k : k + 1] for k in range(len(content))]
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=6)))
    return [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]


@fuzz
@given(data=st.data())
def test_any_bytes(target: Target, data: st.DataObject) -> None:
    content = b"".join(data.draw(st.lists(messages(), min_size=1, max_size=4)))
    answers, _ = target.feed(data.draw(pieces(content)))
    for answer in answers:
        check(answer, anywhere=True)


@fuzz
@given(data=st.data())
def test_cuts_change_nothing(target: Target, data: st.DataObject) -> None:
    content = b"".join(data.draw(st.lists(messages(), min_size=1, max_size=3)))
    whole, _ = target.feed([content])
    parts, _ = target.feed(data.draw(pieces(content)))
    assert [a.status for a in whole] == [a.status for a in parts]


@fuzz
@given(content=st.binary(max_size=200))
@example(b"\0" * 100)
@example(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
@example(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
def test_what_is_no_http(target: Target, content: bytes) -> None:
    for answer in target.feed([content])[0]:
        check(answer, anywhere=True)


@fuzz
@given(count=st.integers(1, 40), data=st.data())
def test_pipelined_requests_are_answered_in_their_order(
    threaded: Target, count: int, data: st.DataObject
) -> None:
    made = []
    for k in range(count):
        body = GOOD.replace(b"[1, 2, 3]", b"[%d, 2, 3]" % k)
        head = b"POST /v2/models/m1/infer HTTP/1.1\r\nx-mf-version: 1\r\n"
        if data.draw(st.booleans()):
            made.append(head + b"content-length: %d\r\n\r\n%s" % (len(body), body))
        else:
            chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            made.append(head + b"transfer-encoding: chunked\r\n\r\n" + chunk)
    answers, closed = threaded.feed(data.draw(pieces(b"".join(made))))
    assert [json.loads(a.body)["outputs"][0]["data"][0] for a in answers] == list(range(count))
    assert not closed


_ID = b"x-request-id: 1c098240-96cd-4593-b0d3-%012x"
_PREDICTION = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


class Forgetful(Heads):
    """Every head is new."""

    def find(self, cut: Cut) -> Head | None:
        return None


@st.composite
def packets(draw: st.DrawFn) -> list[bytes]:
    """Requests as the gateway writes them, or nearly: with the same few heads again and again, and
    mostly one to a packet."""
    lines = [b"POST /v2/models/m1/infer HTTP/1.1", b"host: fleet", b"x-mf-version: 1"]
    odd = draw(st.lists(st.sampled_from(_HEADERS), max_size=2))
    found = []
    for number in range(draw(st.integers(1, 6))):
        body = draw(st.sampled_from([GOOD, GOOD, b"{}", GOOD + b" "]))
        length = b"content-length: %d" % draw(st.sampled_from([len(body)] * 6 + [len(body) - 1, 0]))
        more = draw(st.sampled_from([[], [], odd]))
        head = [*lines, length, _ID % number, *more]
        if draw(st.integers(0, 7)) == 0:
            head = draw(st.permutations(head))
        made = b"\r\n".join(head) + b"\r\n\r\n" + body
        found.append(draw(mangled(made)) if draw(st.integers(0, 5)) == 0 else made)
    stream = draw(st.integers(0, 3))
    if stream == 0:
        return [b"".join(found)]
    if stream == 1:
        whole, cuts = b"".join(found), draw(st.lists(st.integers(0, 900), max_size=4))
        ends = [*sorted(cuts), len(whole)]
        return [whole[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    return found


def _alike(answers: Sequence[Answer]) -> list[tuple[int, bytes, bytes | None]]:
    """Without the ids of predictions, which are new each time."""
    return [
        (one.status, _PREDICTION.sub(b"", one.body), one.headers.get(b"x-request-id"))
        for one in answers
    ]


@fuzz
@given(packets(), packets())
def test_heads_that_are_known_change_no_answer(
    target: Target, first: list[bytes], second: list[bytes]
) -> None:
    known = target.server.heads
    for pieces in (first, second, first):
        answers, closed = target.feed(pieces)
        target.server.heads = Forgetful()
        try:
            expected, was_closed = target.feed(pieces)
        finally:
            target.server.heads = known
        assert (_alike(answers), closed) == (_alike(expected), was_closed)
