"""Heads of requests, understood once.

The gateway sends nearly the same head again and again: only the length of the body and the id of
the request differ. A head that the parser took is kept without these two, and requests that begin
with the very same bytes are not parsed again; nor is what follows from a head found out again. What
is new, broken, chunked, in pieces or pipelined goes through the parser.
"""

from __future__ import annotations

import re
from typing import Any, Optional

import msgspec

MAX_KEPT = 4096
MAX_KEY = 4096
_ID_SIZE = 36
_DIGITS = 15
_UUID = re.compile(rb"[0-9a-f-]{36}(?:\r\n|\Z)")
_LINE_ENDS = (b"\r\n", b"")
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


class Cut(msgspec.Struct, frozen=True, gc=False):
    """One whole request: its head without length and id, the id, and the body."""

    key: bytes
    request_id: bytes
    body: bytes


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
    head, _, body = data.partition(b"\r\n\r\n")
    before, _, rest = head.partition(b"\r\ncontent-length: ")
    digits, _, rest = rest.partition(b"\r\n")
    between, _, last = rest.partition(b"x-request-id: ")
    if (
        not digits.isdigit()
        or len(digits) > _DIGITS
        or int(digits) != len(body)
        or between[-2:] not in _LINE_ENDS
        or _UUID.match(last) is None
    ):
        return None
    return Cut(b"%b\n%b\n%b" % (before, between, last[_ID_SIZE:]), last[:_ID_SIZE], body)
