"""HTTP/1.1 on one connection: httptools parses, this class limits, orders and answers.

One request of a connection is in flight at a time, so that a slow answer is never overtaken by
the next one; what a client pipelines waits its turn, and reading pauses when too much waits.
A request that can't be read (broken, too long) becomes a `Request` with a `refusal`, so that it
is answered in its turn, recorded like any other, and the connection closed after it. Heads that
came before are not parsed again: see `heads`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Optional, Protocol, cast

import httptools
import msgspec

from modelfleet_worker import log
from modelfleet_worker.heads import Cut, Head, Heads, cut

MAX_HEAD = 64 * 1024
MAX_WAITING = 8
LONGEST_REASON = 1000
"""Characters of an error's text: it may quote what a client sent."""
_LINGER_SECONDS = 2.0
_FRAMING = 16
"""Bytes per byte of body that a chunked request may have; chunks of one byte have six."""
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
_STATUS_LINES = {
    status: b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: "
    % (status, reason)
    for status, reason in _REASONS.items()
}

_RAW = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: "


class Request(msgspec.Struct):
    """A whole request. `head` may be that of others, too."""

    head: Head
    request_id: bytes
    body: bytes
    refusal: Optional[tuple[int, str]] = None


class Handler(Protocol):
    """What answers requests: `handle` leads to exactly one `Connection.respond`, now or later."""

    max_body: int
    draining: bool
    connections: set[Connection]
    heads: Heads

    def handle(self, request: Request, connection: Connection) -> None: ...


def error_body(text: str) -> bytes:
    """The protocol's shape of an error."""
    return msgspec.json.encode({"error": presentable(text)})


def presentable(text: str) -> str:
    """A text of bounded length that any encoder takes."""
    if len(text) > LONGEST_REASON:
        text = text[:LONGEST_REASON] + "…"
    return text.encode(errors="replace").decode()


class Connection(asyncio.Protocol):
    """One client. Created by the server for each accepted socket."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.if_lost: Optional[Callable[[], None]] = None
        """called if the client goes before the answer to the current request"""
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Optional[asyncio.Transport] = None
        self._waiting: deque[Request] = deque()
        self._current: Optional[Request] = None
        self._pumping = False
        self._writable = True
        self._paused = False
        self._deaf = False
        self._begun_at = 0.0  # of the first byte of a request that is not whole
        self._in_head = True
        self._fed = 0  # bytes read since the last whole request, an upper limit of the head
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_size = 0
        self._chunked = 0  # bytes read for a chunked body, its framing and trailers included
        self._cut: Optional[Cut] = None  # what is being parsed, if it is one whole request

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._handler.connections.add(self)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._transport = None
        self._waiting.clear()
        if self._current is not None and self.if_lost is not None:
            self.if_lost()
        self._handler.connections.discard(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._pump()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._cut = None
        if not self._begun_at and self._was_known(data):
            return
        if self._in_head:
            self._fed += len(data)
        elif b"transfer-encoding" in self._headers:
            self._chunked += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._deaf:
                self._refuse(400, f"not an HTTP request: {error}")
        if self._fed > MAX_HEAD and self._in_head and not self._deaf:
            self._refuse(431, f"the headers are longer than {MAX_HEAD} bytes")
        elif self._chunked > MAX_HEAD + _FRAMING * self._body_size and not self._deaf:
            self._refuse(431, "the framing and trailers are longer than the body warrants")

    def _was_known(self, data: bytes) -> bool:
        """Take a whole request whose head came before."""
        self._cut = found = cut(data)
        if found is None:
            return False
        head = self._handler.heads.find(found)
        if head is None or len(found.body) > self._handler.max_body:
            return False
        self._take(Request(head, found.request_id, found.body))
        return True

    # httptools

    def on_message_begin(self) -> None:
        self._begun_at = time.monotonic()
        self._target = b""
        self._headers = {}
        self._body = []
        self._body_size = self._chunked = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer must not pass for a header
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._deaf:
            return
        headers = self._headers
        if self._fed > MAX_HEAD and self._head_length() > MAX_HEAD:
            self._refuse(431, f"the headers are longer than {MAX_HEAD} bytes")
        elif self._parser.should_upgrade():
            self._refuse(400, "this server does not change protocols")
        elif b"content-length" in headers and b"transfer-encoding" in headers:
            self._refuse(400, "Content-Length and Transfer-Encoding exclude each other")
        elif int(headers.get(b"content-length", b"0")) > self._handler.max_body:
            self._refuse_body()
        elif headers.get(b"expect", b"").lower() == b"100-continue":
            self._continue()

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._body_size += len(body)
        if self._body_size > self._handler.max_body:
            self._refuse_body()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._begun_at = 0.0
        if self._deaf:
            return
        parts = self._body
        head, request_id = self._head(self._parser.get_method(), self._parser.should_keep_alive())
        if self._cut is not None and self._cut.request_id == request_id:  # else it had two
            self._handler.heads.keep(self._cut, head)
        self._fed = 0
        self._take(Request(head, request_id, parts[0] if len(parts) == 1 else b"".join(parts)))

    # our own

    @property
    def idle(self) -> bool:
        """Nothing of a request has come in, and none waits for its answer."""
        return self._current is None and not self._waiting and not self._begun_at

    @property
    def max_body(self) -> int:
        """Bytes that a body may have, inflated ones included."""
        return self._handler.max_body

    def half_read_for(self, now: float) -> float:
        """Seconds since the first byte of a request that is not yet whole; 0 if there is none."""
        return now - self._begun_at if self._begun_at else 0.0

    def respond(self, status: int, body: bytes, headers: bytes = b"", *, raw: bool = False) -> None:
        """Answer the current request. headers: whole lines. raw: a good answer that is not JSON.
        Does nothing if the client is gone."""
        request, self._current = self._current, None
        self.if_lost = None
        transport = self._transport
        if request is None or transport is None:
            return
        closing = (
            not request.head.keep_alive or self._handler.draining or request.refusal is not None
        )
        tail = b"\r\nconnection: close\r\n\r\n" if closing else b"\r\n\r\n"
        size = b"%d" % len(body)
        if request.head.method == b"HEAD":
            body = b""
        if headers:
            size += b"\r\n" + headers
        transport.write((_RAW if raw else _STATUS_LINES[status]) + size + tail + body)
        if closing:
            self._finish(transport)
        elif not self._pumping and self._waiting:
            self._pump()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def time_out(self) -> None:
        """Refuse a request that never became whole."""
        if not self._deaf:
            self._refuse(408, "the request did not arrive in time")

    def _head(self, method: bytes, keep_alive: bool) -> tuple[Head, bytes]:
        headers = self._headers
        headers.pop(b"content-length", None)
        request_id = headers.pop(b"x-request-id", b"")
        return Head(method, self._target, headers, keep_alive), request_id

    def _take(self, request: Request) -> None:
        """Handle a whole request, or let it wait its turn."""
        if self._current is None and not self._waiting and self._writable and not self._pumping:
            self._current = request
            self._handle(request)
            return
        self._waiting.append(request)
        if len(self._waiting) > MAX_WAITING and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._pump()

    def _pump(self) -> None:
        """Hand waiting requests to the handler, one after the other."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._waiting and self._current is None and self._writable:
                self._current = self._waiting.popleft()
                self._handle(self._current)
        finally:
            self._pumping = False
        if self._paused and not self._waiting and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _handle(self, request: Request) -> None:
        try:
            self._handler.handle(request, self)
        except Exception as error:  # noqa: BLE001  # a request without an answer would hang
            log.failure("a request could not be handled", error)
            self.respond(500, error_body(log.describe(error)))

    def _refuse(self, status: int, reason: str) -> None:
        """Answer this in its turn and read nothing more."""
        self._deaf = True
        self._begun_at = 0.0
        method = b"POST" if self._in_head else self._parser.get_method()
        head, request_id = self._head(method, keep_alive=False)
        self._waiting.append(Request(head, request_id, b"", (status, reason)))
        self._pump()

    def _refuse_body(self) -> None:
        self._refuse(413, f"the body is longer than {self._handler.max_body} bytes")

    def _head_length(self) -> int:
        return len(self._target) + sum(len(n) + len(v) + 4 for n, v in self._headers.items())

    def _continue(self) -> None:
        if self._transport is not None and self._current is None and not self._waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _finish(self, transport: asyncio.Transport) -> None:
        """Close after the answer. What still arrives is thrown away for a while: closing a socket
        with unread bytes would reset it, and the client might never see the answer."""
        waiting, self._waiting = self._waiting, deque()
        if self._deaf and not waiting and transport.can_write_eof():
            transport.write_eof()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, transport.close)
        else:
            transport.close()
        self._deaf = True
