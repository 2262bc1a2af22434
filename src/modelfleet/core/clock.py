"""Time. Stored times are UTC microseconds since 1970; people and JSON see ISO 8601 with a Z."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)


def now_us() -> int:
    return time.time_ns() // 1000


def from_us(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)


def to_us(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6)


def iso(microseconds: int) -> str:
    return from_us(microseconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")
