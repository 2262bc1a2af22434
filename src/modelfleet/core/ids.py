"""Identifiers: UUIDv7 (RFC 9562, section 5.7) without hyphens, and sha256 in lower-case hex."""

from __future__ import annotations

import hashlib
import os
import time


def new_id() -> str:
    """A UUIDv7 as 32 hex digits: 48 bits of milliseconds, version, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    high = (milliseconds << 16) | 0x7000 | (random >> 68)
    low = (0b10 << 62) | (random & ((1 << 62) - 1))
    return f"{high:016x}{low:016x}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
