"""Identifiers: UUIDv7 (RFC 9562, section 5.7) without hyphens, and sha256 in lower-case hex."""

from __future__ import annotations

import hashlib
import os
import threading
import time

_RANDOM_BITS = 74
_lock = threading.Lock()
_last = 0
"""milliseconds and random bits of the last id, as one number"""


def new_id() -> str:
    """A UUIDv7 as 32 hex digits: 48 bits of milliseconds, version, 74 random bits.

    Those that a process makes are in the order of their making, within a millisecond, too
    (section 6.2, method 2: the random bits go up by a random amount).
    """
    global _last
    milliseconds = time.time_ns() // 1_000_000
    fresh = int.from_bytes(os.urandom(10), "big") >> (80 - _RANDOM_BITS)
    with _lock:
        made = (milliseconds << _RANDOM_BITS) | fresh
        if made <= _last or milliseconds == _last >> _RANDOM_BITS:
            made = _last + 1 + (fresh >> (_RANDOM_BITS - 32))
        _last = made
    milliseconds, random = made >> _RANDOM_BITS, made & ((1 << _RANDOM_BITS) - 1)
    high = (milliseconds << 16) | 0x7000 | (random >> 62)
    low = (0b10 << 62) | (random & ((1 << 62) - 1))
    return f"{high:016x}{low:016x}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
