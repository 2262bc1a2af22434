"""A thread of its own for one model, with batches while it is busy.

Idle: a call starts at once. Busy: calls queue (see `fair` for their order), and when the running
batch ends, up to 64 queued rows (or as many as the version was tuned to) run as one. So a slow
model never holds up the event loop or another model, and a model whose time per call is mostly
fixed cost gets faster the more it is asked.

All state belongs to the event loop; the thread only runs batches. A batch that fails is run again
call by call, so that one bad request does not fail its neighbours.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Optional, Protocol, Union

import numpy as np

from modelfleet_worker import log
from modelfleet_worker.fair import FairQueue
from modelfleet_worker.pace import Pace
from modelfleet_worker.runtimes.base import Own
from modelfleet_worker.wire.signature import Array

BATCH_ROWS = 64
MAX_QUEUED = 1024
_CAUTION = 1.25
"""An answer that comes too late was work for nothing; one refused at once costs nothing."""
_SHARE_OF_BATCH = 0.5
"""of the time that the first call of a batch has left"""
STACK_BYTES = 2 << 20  # RLIMIT_DATA counts whole stacks

Outcome = Union[list[Array], BaseException]
Run = Callable[..., list[Array]]
"""takes inputs, their rows, and, if a call has wishes of its own, those"""


TOO_LATE = "the model can't answer before the deadline"


class Overloaded(Exception):
    """The model has more waiting requests than it can answer in time."""


class DeadlinePassed(Exception):
    """The request's deadline passed before the model had answered."""


class Call(Protocol):
    """One request to a model. `started` and `ended` frame its run, `answer` comes exactly once;
    after a passed deadline `answer` may come before `ended`."""

    rows: int
    inputs: list[Array]
    deadline: Optional[float]
    own: Optional[Own]
    """what it asks for itself: then it shares no run"""

    @property
    def caller(self) -> bytes: ...

    @property
    def weight(self) -> float: ...

    @property
    def limit(self) -> int:
        """How many calls of the model may be in at a time, this one included; 0 for no limit."""

    def started(self) -> None: ...

    def ended(self) -> None: ...

    def answer(self, outcome: Outcome) -> None: ...


class Tally:
    """Of a lane since it began."""

    __slots__ = ("busy_s", "refused", "served")

    def __init__(self) -> None:
        self.served = 0
        """calls answered in time"""
        self.refused = 0
        """calls that were not: refused, or too late"""
        self.busy_s = 0.0
        """while the model ran; a run counts when it has ended"""


class Lane:
    """run: called in the thread with concatenated inputs and their rows.
    batchable: may several calls share a run?"""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, run: Run, batchable: bool, row_s: float
    ) -> None:
        self._loop = loop
        self._name = name
        self._run = run
        self._batchable = batchable
        self.batch_rows = BATCH_ROWS
        self._waiting: FairQueue[Call] = FairQueue()
        self._running: list[Call] = []
        self._abandoned: set[int] = set()
        self._inbox: queue.SimpleQueue[Optional[list[Call]]] = queue.SimpleQueue()
        self._thread: Optional[threading.Thread] = None
        self._pace = Pace(row_s)
        self._began = 0.0
        self._closing = False
        self.tally = Tally()

    @property
    def busy(self) -> bool:
        return bool(self._running)

    @property
    def thread(self) -> int:
        """Identifier of its thread; 0 before the first call."""
        return self._thread.ident or 0 if self._thread is not None else 0

    @property
    def row_s(self) -> float:
        """Seconds of a batch of one row, as it is thought to be now."""
        return self._pace.takes(1)

    @property
    def busy_s(self) -> float:
        """Seconds that the model has run, with the run that goes on."""
        going_on = time.monotonic() - self._began if self._running else 0.0
        return self.tally.busy_s + going_on

    def refuse_if_hopeless(self, deadline: Optional[float], rows: int = 1) -> None:
        """Overloaded if a call of so many rows could not have its answer in time."""
        if self._running and deadline is not None and self._free_at(rows) > deadline:
            self.tally.refused += 1
            raise Overloaded(TOO_LATE)

    def submit(self, call: Call) -> None:
        """Run or queue it. Overloaded if it would have to wait beyond its deadline."""
        if self._running:
            if call.limit and len(self._running) + len(self._waiting) >= call.limit:
                self._shed(call, f"this endpoint takes {call.limit} requests at a time")
            elif len(self._waiting) >= MAX_QUEUED:
                self._shed(call, "too many requests are waiting for this model")
            self.refuse_if_hopeless(call.deadline, call.rows)
        self._waiting.push(call)
        self._next()

    def sweep(self, now: float) -> None:
        """Answer the calls whose deadline has passed, also those that run (and may hang)."""
        late = self._waiting.remove(lambda c: c.deadline is not None and c.deadline <= now)
        for call in self._running:
            passed = call.deadline is not None and call.deadline <= now
            if passed and id(call) not in self._abandoned:
                self._abandoned.add(id(call))
                late.append(call)
        self.tally.refused += len(late)
        for call in late:
            call.answer(DeadlinePassed())

    def close(self) -> None:
        """End the thread after the calls that are in."""
        self._closing = True
        if not self._running:
            self._inbox.put(None)

    def _shed(self, call: Call, reason: str) -> None:
        """Make room by refusing what matters less; Overloaded if nothing does."""
        self.tally.refused += 1
        last = self._waiting.last_below(call.weight)
        if last is None:
            raise Overloaded(reason)
        self._waiting.remove(lambda other: other is last)
        last.answer(Overloaded(f"{reason}, and others matter more"))

    def _free_at(self, more: int) -> float:
        """When a call of so many rows would have its answer, if all goes as usual."""
        now = time.monotonic()
        running = self._pace.takes(sum(call.rows for call in self._running))
        remaining = max(running - (now - self._began), 0.0)
        rows = self._waiting.rows + more
        waiting = self._pace.takes(rows, 1 + rows // self.batch_rows)
        return now + _CAUTION * (remaining + waiting)

    def _next(self) -> None:
        if self._running:
            return
        first = self._first_in_time()
        if first is None:
            if self._closing:
                self._inbox.put(None)
            return
        batch = [self._waiting.pop()]
        rows, most = first.rows, self.batch_rows
        if first.deadline is not None:  # a large batch must not make all of its calls late
            left = first.deadline - time.monotonic()
            most = min(most, self._pace.fits(left * _SHARE_OF_BATCH))
        while self._batchable and (call := self._first_in_time()) is not None:
            rows += call.rows
            if rows > most or not _joinable(batch[0], call):
                break
            batch.append(self._waiting.pop())
        self._running = batch
        self._began = time.monotonic()
        if self._thread is None:
            self._thread = _start_thread(self._work, self._name)
        for call in batch:
            call.started()
        self._inbox.put(batch)

    def _first_in_time(self) -> Optional[Call]:
        """The call that is next; those before it whose deadline has passed are answered."""
        now = time.monotonic()
        while self._waiting:
            call = self._waiting.peek()
            if call.deadline is None or call.deadline > now:
                return call
            self.tally.refused += 1
            self._waiting.pop().answer(DeadlinePassed())
        return None

    def _work(self) -> None:
        while True:
            batch = self._inbox.get()
            if batch is None:
                return
            outcomes = self._execute(batch)
            try:
                self._loop.call_soon_threadsafe(self._finished, batch, outcomes)
            except RuntimeError:  # the loop is closed: the process ends
                return

    def _execute(self, batch: list[Call]) -> list[Outcome]:
        if len(batch) == 1:
            return [self._one(batch[0])]
        rows = [call.rows for call in batch]
        joined = [np.concatenate(parts) for parts in zip(*(call.inputs for call in batch))]
        try:
            outputs = self._run(joined, sum(rows))
        except BaseException:  # noqa: BLE001  # each call finds out for itself
            return [self._one(call) for call in batch]
        cuts = np.cumsum(rows)[:-1]
        parts = [np.split(output, cuts) for output in outputs]
        return [[part[k] for part in parts] for k in range(len(batch))]

    def _one(self, call: Call) -> Outcome:
        try:
            if call.own is not None:
                return self._run(call.inputs, call.rows, call.own)
            return self._run(call.inputs, call.rows)
        except BaseException as error:  # noqa: BLE001  # a model may raise SystemExit, too
            return error

    def _finished(self, batch: list[Call], outcomes: list[Outcome]) -> None:
        took = time.monotonic() - self._began
        self._pace.learn(sum(call.rows for call in batch), took)
        self.tally.busy_s += took
        self.tally.served += len(batch) - len(self._abandoned)
        self._running = []
        try:
            for call, outcome in zip(batch, outcomes):
                self._deliver(call, outcome)
        finally:
            self._abandoned.clear()
            self._next()

    def _deliver(self, call: Call, outcome: Outcome) -> None:
        try:
            call.ended()
            if id(call) not in self._abandoned:
                call.answer(outcome)
        except Exception as error:  # noqa: BLE001  # the others must get their answers
            log.failure("an answer could not be delivered", error, model=self._name)


def _joinable(first: Call, other: Call) -> bool:
    if first.own is not None or other.own is not None:
        return False
    return all(a.shape[1:] == b.shape[1:] for a, b in zip(first.inputs, other.inputs))


def _start_thread(target: Callable[[], None], name: str) -> threading.Thread:
    before = threading.stack_size(STACK_BYTES)
    try:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
    finally:
        threading.stack_size(before)
    return thread
