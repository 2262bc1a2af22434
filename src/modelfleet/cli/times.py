"""Moments, for people."""

from __future__ import annotations

from datetime import UTC, datetime


def told(milliseconds: int | None) -> str | None:
    """A moment in UTC. milliseconds: since 1970."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
