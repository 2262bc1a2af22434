"""A circuit breaker: a model that fails is left alone for a while, then probed by one call.

closed --(share of failures in the window)--> open --(open_ms)--> half-open --> closed or open
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from modelfleet.serving.pipelines.definition import BreakerRule

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Of one step in one executor. All times are monotonic seconds that the caller gives.

    `admit` gives a ticket to each call that may go out; what becomes of the call is told with it.
    A call that began before the circuit last changed says nothing about the model of now.
    """

    def __init__(self, rule: BreakerRule) -> None:
        self._rule = rule
        self._outcomes: deque[bool] = deque(maxlen=rule.window)
        self._opened_at: float | None = None
        self._probing = False
        self._era = 0

    def admit(self, now: float) -> int | None:
        """A ticket, or None: the circuit is open, or another call is probing it."""
        if self._opened_at is not None:
            if self._probing or now - self._opened_at < self._rule.open_ms / 1000:
                return None
            self._probing = True
            self._era += 1
        return self._era

    def succeeded(self, ticket: int) -> None:
        if ticket != self._era:
            return
        if self._opened_at is None:
            self._outcomes.append(True)
        else:
            self._opened_at, self._probing = None, False
            self._outcomes.clear()
            self._era += 1

    def failed(self, ticket: int, now: float) -> None:
        if ticket != self._era:
            return
        if self._opened_at is not None:
            self._open(now)
            return
        self._outcomes.append(False)
        failures = self._outcomes.count(False)
        enough = len(self._outcomes) >= self._rule.minimum
        if enough and failures >= self._rule.share * len(self._outcomes):
            self._open(now)

    def released(self, ticket: int) -> None:
        """The call was given up before it said anything about the model."""
        if ticket == self._era:
            self._probing = False

    def state(self, now: float) -> State:
        if self._opened_at is None:
            return "closed"
        waiting = now - self._opened_at < self._rule.open_ms / 1000
        return "open" if waiting and not self._probing else "half-open"

    def _open(self, now: float) -> None:
        self._opened_at, self._probing = now, False
        self._era += 1
