"""Heads of requests, understood once.

The gateway sends nearly the same head again and again: only the length of the body and the id of
the request differ. A head that the parser took is kept without these two, and requests that begin
with the very same bytes are not parsed again; nor is what follows from a head found out again. What
is new, broken, chunked, in pieces or pipelined goes through the parser.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Optional

import msgspec

MAX_KEPT = 4096
MAX_KEY = 4096
_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_ID = b"\r\nx-request-id: "
_LENGTH_AT, _ID_AT, _ID_SIZE = len(_LENGTH), len(_ID), 36
_DIGITS = 15
_UUID = re.compile(rb"[0-9a-f-]{36}")
_OTHERWISE = frozenset(
    b"transfer-encoding expect traceparent x-mf-client-request-id x-mf-key x-mf-cookie".split()
)
"""Heads with these are not kept: they ask for more than to be read, or differ each time."""


class Head(msgspec.Struct):
    """Header names are lower-case; of a repeated header the last one counts. The length of the
    body and the id of the request are not among them."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    keep_alive: bool
    facts: Any = None
    """what the handler found out from it"""


class Cut(NamedTuple):
    """One whole request: its head without length and id, the id, and where the body begins."""

    key: bytes
    request_id: bytes
    body_at: int


class Heads:
    """Those that a handler's connections saw lately."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def find(self, cut: Cut) -> Optional[Head]:
        return self._known.get(cut.key)

    def keep(self, cut: Cut, head: Head) -> None:
        """The parser made this of it."""
        if len(cut.key) > MAX_KEY or not _OTHERWISE.isdisjoint(head.headers):
            return
        if len(self._known) >= MAX_KEPT:
            self._known.clear()
        self._known[cut.key] = head


def cut(data: bytes) -> Optional[Cut]:
    """None unless the bytes look like exactly one request, its length and id as the gateway writes
    them."""
    end = data.find(_END)
    length = data.find(_LENGTH, 0, end)
    ident = data.find(_ID, length + 1, end)
    if end < 0 or length < 0 or ident < 0:
        return None
    stop = data.find(b"\r\n", length + 2, ident + 2)
    digits = data[length + _LENGTH_AT : stop]
    after = ident + _ID_AT + _ID_SIZE
    request_id = data[ident + _ID_AT : after]
    if (
        not digits.isdigit()
        or len(digits) > _DIGITS
        or int(digits) != len(data) - end - 4
        or data[after : after + 2] != b"\r\n"
        or _UUID.fullmatch(request_id) is None
    ):
        return None
    return Cut(data[:length] + data[stop:ident] + data[after:end], request_id, end + 4)
