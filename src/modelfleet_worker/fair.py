"""Who is next when a model is busy: weighted fair queueing over callers.

Start-time fair queueing after Goyal, Vin and Cheng (1996), with the finish tag as the order: a
call's tag is where its caller's work would end if all callers had the model in parallel, each with
its weight. A caller that floods the queue waits behind itself; higher priorities get a larger
share, and the lowest still gets some.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Generic, Optional, Protocol, TypeVar

WEIGHTS = {b"high": 16.0, b"normal": 4.0, b"low": 1.0}
NORMAL = WEIGHTS[b"normal"]
_FLOWS = 1024


class Queued(Protocol):
    """caller: who asks; weight: of its priority; rows: how much."""

    rows: int

    @property
    def caller(self) -> bytes: ...

    @property
    def weight(self) -> float: ...


Item = TypeVar("Item", bound=Queued)


class FairQueue(Generic[Item]):
    """Calls in the order in which they should run."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Item]] = []
        self._ends: dict[tuple[bytes, float], float] = {}
        self._virtual = 0.0
        self._count = 0
        self.rows = 0
        """of all calls together"""

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Item]:
        return (call for _, _, call in self._heap)

    def push(self, call: Item) -> None:
        flow = call.caller, call.weight
        if len(self._ends) > _FLOWS:  # those whose work is done start from now like new ones
            self._ends = {f: end for f, end in self._ends.items() if end > self._virtual}
        start = max(self._virtual, self._ends.get(flow, 0.0))
        tag = self._ends[flow] = start + call.rows / call.weight
        self._count += 1
        self.rows += call.rows
        heapq.heappush(self._heap, (tag, self._count, call))

    def peek(self) -> Item:
        return self._heap[0][2]

    def pop(self) -> Item:
        tag, _, call = heapq.heappop(self._heap)
        self._virtual = max(self._virtual, tag - call.rows / call.weight)
        self.rows -= call.rows
        if not self._heap:
            self._ends.clear()
        return call

    def last_below(self, weight: float) -> Optional[Item]:
        """Of the calls with a smaller weight, the one that would run last."""
        lower = [entry for entry in self._heap if entry[2].weight < weight]
        return max(lower)[2] if lower else None

    def remove(self, gone: Callable[[Item], bool]) -> list[Item]:
        """Take out and return the calls for which `gone` holds."""
        found = [call for _, _, call in self._heap if gone(call)]
        if found:
            self._heap = [entry for entry in self._heap if not gone(entry[2])]
            heapq.heapify(self._heap)
            self.rows -= sum(call.rows for call in found)
        return found
