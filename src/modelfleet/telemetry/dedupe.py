"""A retried request counts once: its highest attempt stands for all of them.

The gateway repeats a request whose worker died or didn't hold the version; the first attempt may
have left a record all the same. Attempts are recognised by (request id, version, flags) while
they are at most `window_seconds` apart. Millions of requests are remembered, and hardly any comes
again: a hash of each leads to the running number of its record, and that to what stands for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.batches import ID_BYTES
from modelfleet_worker.wire.segment import CRASHED


class Seen(NamedTuple):
    """The attempt that stands for its request."""

    attempt: int
    prediction_id: bytes
    serial: int
    """Running number of its record since the collector started."""


class Requests(Protocol):
    """Records by column, as far as they are looked at here: see `Batch`."""

    @property
    def request_ids(self) -> Sequence[str]: ...
    @property
    def versions(self) -> Sequence[int]: ...
    @property
    def flags(self) -> Sequence[int]: ...
    @property
    def status(self) -> NDArray[np.int64]: ...
    @property
    def attempt(self) -> NDArray[np.int64]: ...
    @property
    def prediction_ids(self) -> Sequence[bytes]: ...
    @property
    def ids(self) -> bytes: ...


@dataclass
class _Stretch:
    """The requests of one stretch of time."""

    serials: dict[int, int] = field(default_factory=dict)
    """By hash of the request."""
    firsts: list[int] = field(default_factory=list)
    """Serial of the first record of each chunk."""
    chunks: list[tuple[bytes, NDArray[np.int64]]] = field(default_factory=list)
    """Prediction ids one after the other, and attempts."""

    def find(self, key: int) -> Seen | None:
        serial = self.serials.get(key)
        if serial is None:
            return None
        chunk = bisect_right(self.firsts, serial) - 1
        ids, attempts = self.chunks[chunk]
        place = serial - self.firsts[chunk]
        start = place * ID_BYTES
        return Seen(int(attempts[place]), ids[start : start + ID_BYTES], serial)


class Deduplicator:
    """Remembers the requests of the last minute or two."""

    def __init__(self, window_seconds: float = 60.0) -> None:
        self._window = window_seconds
        self._turned_at = 0.0
        self._young = _Stretch()
        self._old = _Stretch()

    def forget(self, now: float) -> None:
        """Drop requests of more than two windows ago. now: seconds, monotonic."""
        if now - self._turned_at >= self._window:
            self._old, self._young, self._turned_at = self._young, _Stretch(), now

    def known(self, keys: Sequence[int]) -> set[int]:
        """Those of these requests that were seen."""
        return (self._young.serials.keys() & keys) | (self._old.serials.keys() & keys)

    def find(self, key: int) -> Seen | None:
        """What stands for this request, if it was seen."""
        return self._young.find(key) or self._old.find(key)

    def remember(self, keys: Sequence[int], first_serial: int) -> bool:
        """Requests whose records have the serials from `first_serial` on: see `keep`. Returns
        whether all of them were new."""
        known = self._young.serials
        before = len(known)
        known.update(zip(keys, range(first_serial, first_serial + len(keys)), strict=True))
        return len(known) == before + len(keys)

    def keep(self, first_serial: int, requests: Requests) -> None:
        """The records from `first_serial` on, before the next `forget`."""
        self._young.firsts.append(first_serial)
        self._young.chunks.append((requests.ids, requests.attempt))


def request_keys(requests: Requests) -> list[int]:
    """A hash of each request.

    Requests without an id can't be recognised, and a crash is an event of its own: these are known
    by their prediction.
    """
    names: Sequence[str | bytes] = requests.request_ids
    crashed = requests.status == CRASHED
    if not all(names) or crashed.any():
        names = [
            prediction if is_crash or not name else name
            for name, is_crash, prediction in zip(
                names, crashed.tolist(), requests.prediction_ids, strict=True
            )
        ]
    return list(map(hash, zip(names, requests.versions, requests.flags, strict=True)))
