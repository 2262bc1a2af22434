"""HTTP/1.1 calls to the gateway over connections that are kept: httptools parses, no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

import httptools
import msgspec

_KEPT = 256


class CallFailed(Exception):
    """The gateway could not be reached, or hung up."""


class CallTimeout(Exception):
    """No answer in time."""


class Response(msgspec.Struct):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class _Link(asyncio.Protocol):
    """One connection; one call at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.used = False
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Response] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self.begun = False
        """a byte of the answer has come"""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._fail(CallFailed("the gateway closed the connection"))

    def data_received(self, data: bytes) -> None:
        self.begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(CallFailed(f"the gateway's answer is no HTTP: {error}"))
            self.close()

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        waiting, self._waiting = self._waiting, None
        if not self._parser.should_keep_alive():
            self.close()
        if waiting is not None and not waiting.done():
            waiting.set_result(Response(status, self._headers, b"".join(self._body)))

    def send(self, message: bytes, waiting: asyncio.Future[Response]) -> None:
        assert self.transport is not None
        self._waiting, self.begun = waiting, False
        self.transport.write(message)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()
            self.transport = None

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)


class Gateway:
    """The way to all models. key: reads the platform's key, which may be replaced any time."""

    def __init__(self, socket: Path, key: Callable[[], bytes]) -> None:
        self._socket = str(socket)
        self._key = key
        self._idle: list[_Link] = []

    async def post(self, path: bytes, headers: bytes, body: bytes, seconds: float) -> Response:
        """headers: whole lines, each with its end. Raises `CallFailed`, `CallTimeout`."""
        message = b"".join(
            (
                b"POST ",
                path,
                b" HTTP/1.1\r\nhost: modelfleet\r\nauthorization: Bearer ",
                self._key(),
                b"\r\ncontent-length: %d\r\n" % len(body),
                headers,
                b"\r\n",
                body,
            )
        )
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            link = self._kept() or await self._connect(end - loop.time())
            try:
                return await self._on(link, message, end - loop.time())
            except CallFailed:
                if not link.used or link.begun:
                    raise  # a kept connection may have been closed as we wrote: once more

    async def _on(self, link: _Link, message: bytes, seconds: float) -> Response:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Response] = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), _expire, waiting)
        link.send(message, waiting)
        try:
            response = await waiting
        except BaseException:
            link.close()  # the answer of an abandoned call must not be taken for the next one's
            raise
        finally:
            timer.cancel()
        if link.transport is not None and len(self._idle) < _KEPT:
            link.used = True
            self._idle.append(link)
        else:
            link.close()
        return response

    def _kept(self) -> _Link | None:
        while self._idle:
            link = self._idle.pop()
            if link.transport is not None and not link.transport.is_closing():
                return link
        return None

    async def _connect(self, seconds: float) -> _Link:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                _, link = await loop.create_unix_connection(_Link, self._socket)
        except TimeoutError:
            raise CallTimeout from None
        except OSError as error:
            raise CallFailed(f"the gateway can't be reached: {error.strerror}") from error
        return link

    def close(self) -> None:
        for link in self._idle:
            link.close()
        self._idle = []


def _expire(waiting: asyncio.Future[Response]) -> None:
    if not waiting.done():
        waiting.set_exception(CallTimeout())
