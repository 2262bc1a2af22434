"""States that still grow: kept in memory, and written whenever the collector commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from modelfleet.telemetry.states import State

K = TypeVar("K", bound=Hashable)


class OpenStates(Generic[K]):
    """States by key. What isn't in memory is looked up by a query, whose parameters `bind` makes
    of a key."""

    def __init__(
        self, connection: sqlite3.Connection, query: str, bind: Callable[[K], tuple[int | str, ...]]
    ) -> None:
        self._connection = connection
        self._query = query
        self._bind = bind
        self._states: dict[K, State] = {}
        self._changed: set[K] = set()

    def change(self, key: K, sizes: tuple[int, ...]) -> State:
        """The state of `key`, empty with these sizes if it is new. It counts as changed."""
        self._changed.add(key)
        state = self._states.get(key)
        if state is None:
            row = self._connection.execute(self._query, self._bind(key)).fetchone()
            state = State.empty(sizes) if row is None else State.decode(bytes(row[0]))
            self._states[key] = state
        return state

    def known(self, key: K) -> State:
        """A state that is there, to be changed."""
        state = self._states.get(key)
        return self.change(key, state.sizes if state is not None else (0,))

    def take_changed(self) -> list[tuple[K, State]]:
        changed = [(key, self._states[key]) for key in self._changed]
        self._changed = set()
        return changed

    def forget(self, over: Callable[[K], bool]) -> None:
        """Drop saved states from memory. Late records would load them again."""
        for key in [key for key in self._states if key not in self._changed and over(key)]:
            del self._states[key]
