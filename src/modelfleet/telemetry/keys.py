"""Clients that stick to a version count once in a rollout, in the tick of their first visit.

Requests of one client are alike: counted one by one they accuse identical versions in every fourth
rollout. Keys are kept as 64 bits of their hash.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import blake2b


class Visit(Enum):
    FIRST = "first"
    FAILED = "failed"
    """not the first, in the same tick and the first of these to fail"""
    AGAIN = "again"


@dataclass(slots=True)
class _First:
    version: int
    number: int
    failed: bool


class StickyKeys:
    """Which keys were seen, by scope (a rollout)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._scopes: dict[str, dict[int, _First]] = {}
        self._changed: set[tuple[str, int]] = set()

    def visit(self, scope: str, key: str, version: int, number: int, *, failed: bool) -> Visit:
        seen = self._scope(scope)
        short = _short(key)
        first = seen.get(short)
        if first is None:
            seen[short] = _First(version, number, failed)
            self._changed.add((scope, short))
            return Visit.FIRST
        if failed and not first.failed and (first.version, first.number) == (version, number):
            first.failed = True
            self._changed.add((scope, short))
            return Visit.FAILED
        return Visit.AGAIN

    def unmark(self, scope: str, key: str, version: int, number: int) -> bool:
        """A failure of the first tick was none after all. True if it had been counted."""
        short = _short(key)
        first = self._scope(scope).get(short)
        if first is None or not first.failed or (first.version, first.number) != (version, number):
            return False
        first.failed = False
        self._changed.add((scope, short))
        return True

    def _scope(self, scope: str) -> dict[int, _First]:
        if scope not in self._scopes:
            rows = self._connection.execute(
                "SELECT key, version_index, number, failed FROM sticky_key WHERE scope = ?",
                (scope,),
            )
            self._scopes[scope] = {key: _First(v, n, bool(failed)) for key, v, n, failed in rows}
        return self._scopes[scope]

    def save(self, connection: sqlite3.Connection) -> None:
        """Part of the collector's transaction."""
        connection.executemany(
            "INSERT OR REPLACE INTO sticky_key VALUES (?, ?, ?, ?, ?)",
            [
                (scope, key, first.version, first.number, first.failed)
                for scope, key in self._changed
                if (first := self._scopes[scope].get(key)) is not None
            ],
        )
        self._changed = set()

    def forget(self, connection: sqlite3.Connection, but: Collection[str]) -> None:
        """Rollouts that ended need no keys any more."""
        known = [scope for (scope,) in connection.execute("SELECT DISTINCT scope FROM sticky_key")]
        for scope in {*known, *self._scopes} - set(but):
            self._scopes.pop(scope, None)
            self._changed = {one for one in self._changed if one[0] != scope}
            connection.execute("DELETE FROM sticky_key WHERE scope = ?", (scope,))


@lru_cache(maxsize=1 << 14)
def _short(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)
