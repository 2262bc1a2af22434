"""Prediction ids: UUIDv7 as 16 bytes, made in a fraction of a microsecond.

Layout after RFC 9562, section 5.7 with method 3 of section 6.2: 48 bits of Unix milliseconds,
12 bits of the fraction of the millisecond, 62 random bits. Ids of one process sort by time.
"""

from __future__ import annotations

import os
import struct
import time

_VERSION = 0x7 << 12
_VARIANT = 0x2 << 62
_RANDOM_MASK = (1 << 62) - 1
_POOL = 512
_pack = struct.Struct(">QQ").pack
_drawn: list[int] = []
"""Random numbers, drawn from the system in blocks: one system call for 512 ids."""


def uuid7() -> bytes:
    """A new UUIDv7 as 16 big-endian bytes. Call it from one thread of a process."""
    return uuid7_at(time.time_ns())


def uuid7_at(time_ns: int) -> bytes:
    """A new UUIDv7 of this moment (Unix nanoseconds)."""
    if not _drawn:
        _drawn.extend(struct.unpack(f"<{_POOL}Q", os.urandom(8 * _POOL)))
    return uuid7_of(time_ns, _drawn.pop())


def uuid7_of(time_ns: int, random: int) -> bytes:
    """The UUIDv7 of this moment with these 62 random bits (higher ones are cut off)."""
    milliseconds, rest = divmod(time_ns, 1_000_000)
    high = milliseconds << 16 | _VERSION | (rest << 12) // 1_000_000
    return _pack(high, _VARIANT | random & _RANDOM_MASK)


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
