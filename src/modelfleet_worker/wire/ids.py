"""Prediction ids: UUIDv7 as 16 bytes, made in a fraction of a microsecond.

Layout after RFC 9562, section 5.7 with method 3 of section 6.2: 48 bits of Unix milliseconds,
12 bits of the fraction of the millisecond, 62 random bits. Ids of one process sort by time.
"""

from __future__ import annotations

import os
import time

_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62
_RANDOM_MASK = (1 << 62) - 1
_POOL_BYTES = 4096


class _Random:
    """Random bytes drawn from the system in blocks: one system call for 512 ids."""

    def __init__(self) -> None:
        self._pool = b""
        self._next = 0

    def take(self) -> int:
        start = self._next
        if start + 8 > len(self._pool):
            self._pool = os.urandom(_POOL_BYTES)
            start = 0
        self._next = start + 8
        return int.from_bytes(self._pool[start : start + 8], "little") & _RANDOM_MASK


_random = _Random()


def uuid7() -> bytes:
    """A new UUIDv7 as 16 big-endian bytes. Call it from one thread of a process."""
    return uuid7_at(time.time_ns())


def uuid7_at(time_ns: int) -> bytes:
    """A new UUIDv7 of this moment (Unix nanoseconds)."""
    return uuid7_of(time_ns, _random.take())


def uuid7_of(time_ns: int, random: int) -> bytes:
    """The UUIDv7 of this moment with these 62 random bits (higher ones are cut off)."""
    milliseconds, rest = divmod(time_ns, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    low = _VARIANT | (random & _RANDOM_MASK)
    value = (milliseconds << 80) | _VERSION | (fraction << 64) | low
    return value.to_bytes(16, "big")


def format_id(raw: bytes) -> str:
    """The hyphenated form: 8-4-4-4-12 hexadecimal digits."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_id(text: str) -> bytes:
    """The 16 bytes of a hyphenated id; ValueError if it is none."""
    raw = bytes.fromhex(text.replace("-", ""))
    if len(raw) != 16 or format_id(raw) != text.lower():
        raise ValueError(f"{text!r} is not a prediction id")
    return raw


def time_of(raw: bytes) -> int:
    """The Unix milliseconds at which a UUIDv7 was made."""
    return int.from_bytes(raw[:6], "big")
