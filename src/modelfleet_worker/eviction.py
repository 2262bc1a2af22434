"""Which models stay when there are more than fit: GreedyDual-Size-Frequency.

After Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching
policy" (1998). The value of an entry is H = L + f * seconds / bytes: what it costs to bring back,
per byte that it holds, times how often it was used lately. The smallest H goes, and L rises to it,
so that what was valuable long ago does not stay for ever.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Optional

DECAY = 0.999
"""of the frequency, at each use"""


class Entry:
    """One model. bytes: what it holds; seconds: what it takes to load it."""

    __slots__ = ("_cache", "_floor", "bytes", "frequency", "pinned", "seconds")

    def __init__(self, cache: Cache, size: int, seconds: float, pinned: bool) -> None:
        self._cache = cache
        self._floor = cache.inflation
        self.bytes = max(size, 1)
        self.seconds = max(seconds, 1e-6)
        self.frequency = 1.0
        self.pinned = pinned

    def use(self) -> None:
        """It was asked."""
        self.frequency = DECAY * self.frequency + 1.0
        self._floor = self._cache.inflation

    @property
    def value(self) -> float:
        return self._floor + self.frequency * self.seconds / self.bytes


class Cache:
    """budget: bytes, 0 for no limit."""

    def __init__(self, budget: int = 0) -> None:
        self.budget = budget
        self.inflation = 0.0
        self.used = 0
        self._entries: dict[int, Entry] = {}

    @property
    def full(self) -> bool:
        return bool(self.budget) and self.used >= self.budget

    def add(self, key: int, size: int, seconds: float, pinned: bool) -> Entry:
        self.remove(key)
        entry = self._entries[key] = Entry(self, size, seconds, pinned)
        self.used += entry.bytes
        return entry

    def remove(self, key: int) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used -= entry.bytes

    def victim(self, busy: Container[int]) -> Optional[int]:
        """Who goes next while more is held than the budget allows; None if nobody has to or can.

        busy: who can't go now.
        """
        if not self.budget or self.used <= self.budget:
            return None
        loose = [k for k, e in self._entries.items() if not e.pinned and k not in busy]
        if not loose:
            return None
        key = min(loose, key=lambda k: self._entries[k].value)
        self.inflation = max(self.inflation, self._entries[key].value)
        return key
