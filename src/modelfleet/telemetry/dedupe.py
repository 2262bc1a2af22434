"""A retried request counts once: its highest attempt stands for all of them.

The gateway repeats a request whose worker died or didn't hold the version; the first attempt may
have left a record all the same. Attempts are recognised by (request id, version, flags) while
they are at most `window_seconds` apart.
"""

from __future__ import annotations

from typing import NamedTuple

from modelfleet_worker.wire.segment import CRASHED, Record


class Seen(NamedTuple):
    """The attempt that stands for its request."""

    attempt: int
    prediction_id: bytes
    serial: int
    """Running number of its record since the collector started."""


class Deduplicator:
    """Remembers the requests of the last minute or two."""

    def __init__(self, window_seconds: float = 60.0) -> None:
        self._window = window_seconds
        self._turned_at = 0.0
        self._young: dict[int, Seen] = {}
        self._old: dict[int, Seen] = {}

    def forget(self, now: float) -> None:
        """Drop requests of more than two windows ago. now: seconds, monotonic."""
        if now - self._turned_at >= self._window:
            self._old, self._young, self._turned_at = self._young, {}, now

    def find(self, record: Record) -> Seen | None:
        """Another attempt at the same request, if one was seen.

        Requests without an id can't be recognised; a crash is an event of its own.
        """
        if not record.request_id or record.status == CRASHED:
            return None
        key = hash((record.request_id, record.version, record.flags))
        return self._young.get(key) or self._old.get(key)

    def remember(self, record: Record, serial: int) -> None:
        """This record stands for its request from now on."""
        self.remember_key(
            record.request_id,
            record.version,
            record.flags,
            Seen(record.attempt, record.prediction_id, serial),
        )

    def remember_key(self, request_id: str, version: int, flags: int, seen: Seen) -> None:
        if request_id:
            self._young[hash((request_id, version, flags))] = seen
