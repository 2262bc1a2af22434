"""Bytes as attackers send them."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator, Sequence


class Wire:
    """A raw connection to the gateway."""

    def __init__(self, port: int, seconds: float = 10.0, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(seconds)
        self.sock.connect(("127.0.0.1", port))
        self.over = False
        """the other side has closed"""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, content: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused early
            self.sock.sendall(content)

    def all(self, quiet: float = 0.5) -> bytes:
        """What comes until the end, or until nothing came for that long (seconds)."""
        self.sock.settimeout(quiet)
        found = b""
        with contextlib.suppress(TimeoutError):
            try:
                while part := self.sock.recv(1 << 16):
                    found += part
            except ConnectionResetError:
                pass
            self.over = True
        return found

    def ended(self, within: float) -> float | None:
        """Seconds until the other side closed; None if it did not."""
        began = time.monotonic()
        self.sock.settimeout(within)
        try:
            while self.sock.recv(1 << 16):
                self.sock.settimeout(max(within - (time.monotonic() - began), 0.01))
        except TimeoutError:
            return None
        except ConnectionResetError:
            pass
        return time.monotonic() - began


def statuses(answers: bytes) -> list[int]:
    """Of HTTP/1 answers, whose bodies hold no such line."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3})", answers)]


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _DATA, _RESET, _GOAWAY = 1, 0, 3, 7


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def _word(text: bytes) -> bytes:
    """A literal of HPACK: length with a prefix of 7 bits, no Huffman code."""
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    rest, out = size - 127, b"\x7f"
    while rest > 127:
        out += bytes([rest & 127 | 128])
        rest >>= 7
    return out + bytes([rest]) + text


def http2(headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> bytes:
    """A connection with one request whose headers are sent as they are."""
    block = b"".join(b"\0" + _word(name) + _word(value) for name, value in headers)
    content = PREFACE + frame(4, 0, 0, b"") + frame(_HEADERS, 4 if body else 5, 1, block)
    return content + (frame(_DATA, 1, 1, body) if body else b"")


def frames(answer: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(kind, stream, payload)"""
    while len(answer) >= 9:
        size = int.from_bytes(answer[:3], "big")
        yield answer[3], int.from_bytes(answer[5:9], "big"), answer[9 : 9 + size]
        answer = answer[9 + size :]


def refused2(answer: bytes) -> bool:
    """Was the stream or the connection reset, or answered with an error of four hundred?"""
    for kind, _, payload in frames(answer):
        if kind in (_RESET, _GOAWAY):
            return True
        if kind == _HEADERS and payload[:1] in (b"\x8c", b"\x8d", b"\x48"):  # 400, 404, literal
            return True
    return False
