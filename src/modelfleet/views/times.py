"""Spans of time that pages offer, and ISO 8601 back to moments."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

_MINUTE = 60_000_000
SPANS: Mapping[str, int] = {
    "5m": 5 * _MINUTE,
    "15m": 15 * _MINUTE,
    "1h": 60 * _MINUTE,
    "6h": 360 * _MINUTE,
    "24h": 1440 * _MINUTE,
}
"""Microseconds by name."""


def moment(text: str) -> datetime:
    """The moment behind what `core.clock.iso` wrote."""
    return datetime.fromisoformat(text)


def fitting_span(first_us: int | None, now_us: int) -> str:
    """The shortest span that shows everything since `first_us`, at most an hour."""
    for name in ("5m", "15m"):
        if first_us is not None and now_us - first_us <= SPANS[name]:
            return name
    return "1h"
