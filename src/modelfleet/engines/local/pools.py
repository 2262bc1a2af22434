"""Pools: so many workers each, all of them well.

A worker is ended and brought back when it stays silent or holds too much memory. One that hangs in
a request, or is no longer what is wanted, is asked to end: one at a time, and only while the others
are ready.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from modelfleet.engines.engine import PoolDemand, PoolObserved, ReplicaObserved
from modelfleet.engines.local.child import Child, Now
from modelfleet.engines.local.processes import Files, Record, records, resident_bytes
from modelfleet.engines.local.spec import ProcessSpec

_SILENT_SECONDS = 3.0
_STARTING_SECONDS = 60.0
_LEAVE_SECONDS = 0.2
"""From the moment that the gateway no longer sends requests to a worker that goes."""
_SETTLED_SECONDS = 1.0
"""until the gateway surely knows that a worker is back"""
_NAME = re.compile(r"worker-([a-z0-9-]{1,40})-(\d+)")


class Pulse(Protocol):
    """What a worker says of itself in shared memory."""

    @property
    def pid(self) -> int: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def silent_seconds(self) -> float: ...
    @property
    def longest_run_seconds(self) -> float: ...
    @property
    def error(self) -> str: ...


@dataclass(frozen=True)
class WorkerKit:
    """How workers are made and read; composed by the host, since engines know no wire format."""

    spec: Callable[[PoolDemand, int], ProcessSpec]
    """(pool, replica) -> the process, named by `worker_name`"""
    prepare: Callable[[str, int], None]
    """(pool, replica): clear the way for a start: control block, old socket"""
    pulse: Callable[[str, int], Pulse | None]
    blame: Callable[[str, int], None] = lambda _pool, _replica: None
    """(pool, replica): what it was doing may have brought it down: keep that for its peers"""
    longest_run_seconds: float = 60.0
    """a model that takes longer for a request hangs"""


def worker_name(pool: str, replica: int) -> str:
    return f"worker-{pool}-{replica}"


def strays(files: Files) -> dict[str, set[int]]:
    """Workers of an earlier agent that are alive, by pool."""
    found: dict[str, set[int]] = {}
    for record in records(files):
        named = _NAME.fullmatch(record.name)
        if named and record.alive():
            found.setdefault(named[1], set()).add(int(named[2]))
    return found


class Pool:
    """The workers of one pool. `demand` None: all of them go."""

    def __init__(self, name: str, files: Files, kit: WorkerKit, now: Now = time.monotonic) -> None:
        self.name = name
        self.error = ""
        self._files = files
        self._kit = kit
        self._now = now
        self._demand: PoolDemand | None = None
        self._replicas: dict[int, Child] = {}
        self._leaving: dict[int, float] = {}

    @property
    def children(self) -> Iterable[Child]:
        return self._replicas.values()

    @property
    def empty(self) -> bool:
        return not self._replicas

    def adopt(self, numbers: Iterable[int], before: PoolObserved | None = None) -> None:
        """Take over these living workers, wanted or not. `before`: what an earlier agent saw."""
        restarts = {r.replica: r.restarts for r in before.replicas} if before else {}
        for number in sorted(numbers):
            child = self._child(self._demand or PoolDemand(self.name, ""), number)
            if child.adopt():
                child.restarts = restarts.get(number, 0)
                self._replicas[number] = child

    def want(self, demand: PoolDemand | None) -> None:
        self._demand = demand
        count = demand.replicas if demand else 0
        if demand is not None:
            for number in range(count):
                if number not in self._replicas:
                    self._replicas[number] = self._child(demand, number)
                self._leaving.pop(number, None)
                self._replicas[number].spec = self._kit.spec(demand, number)
                self._replicas[number].start()
        for number in self._replicas:
            if number >= count:
                self._leaving.setdefault(number, self._now() + _LEAVE_SECONDS)

    def step(self) -> None:
        for number, child in self._replicas.items():
            if self._now() >= self._leaving.get(number, float("inf")):
                child.stop("no longer wanted")
            self._examine(number, child)
            child.step()
        self._roll()
        for number in [n for n in self._leaving if self._replicas[n].state == "stopped"]:
            del self._replicas[number], self._leaving[number]

    def observed(self) -> PoolObserved:
        return PoolObserved(
            tuple(self._observe(number) for number in sorted(self._replicas)), self.error
        )

    def _observe(self, number: int) -> ReplicaObserved:
        child = self._replicas[number]
        pulse = self._pulse_of(number, child)
        return ReplicaObserved(
            replica=number,
            pid=child.pid,
            state=child.state,
            incarnation=child.incarnation,
            restarts=child.restarts,
            last_exit=child.last_exit,
            error=pulse.error if pulse else "",
        )

    def _child(self, demand: PoolDemand, number: int) -> Child:
        return Child(
            self._kit.spec(demand, number),
            self._files,
            before_start=lambda _: self._kit.prepare(self.name, number),
            # Clears the slots: else a peer would blame the requests that were running there.
            on_murder=lambda: self._kit.prepare(self.name, number),
            on_blame=lambda: self._kit.blame(self.name, number),
            is_ready=lambda record: self._ready(number, record),
            now=self._now,
        )

    def _ready(self, number: int, record: Record) -> bool:
        pulse = self._kit.pulse(self.name, number)
        return pulse is not None and pulse.pid == record.pid and pulse.state == "ready"

    def _pulse_of(self, number: int, child: Child) -> Pulse | None:
        """None unless this very process wrote it."""
        pulse = self._kit.pulse(self.name, number) if child.record else None
        return pulse if pulse and child.record and pulse.pid == child.record.pid else None

    def _examine(self, number: int, child: Child) -> None:
        if child.record is None or child.state == "stopping":
            return
        if self._demand is not None:
            limit = self._demand.memory_mb
            held = resident_bytes(child.record.pid) >> 20
            if held > limit:
                child.kill(f"memory: {held} MB, {limit} MB are allowed")
                return
        age = self._now() - child.since
        pulse = self._pulse_of(number, child)
        silent = min(pulse.silent_seconds, age) if pulse else age
        patience = _SILENT_SECONDS if child.state == "ready" else _STARTING_SECONDS
        if silent > patience:
            child.kill(f"no heartbeat for {silent:.1f} s")

    def _roll(self) -> None:
        """Replace one worker that is outdated or hangs, if all others are ready."""
        if self._demand is None:
            return
        wanted = {n: c for n, c in self._replicas.items() if n not in self._leaving}
        reasons = {n: reason for n, child in wanted.items() if (reason := self._unfit(n, child))}
        outdated = [wanted[number] for number in reasons]
        if not outdated or any(child.state == "stopping" for child in wanted.values()):
            return
        broken = [child for child in outdated if child.state != "ready"]
        others_ready = all(c.settled(_SETTLED_SECONDS) for c in wanted.values() if c not in broken)
        if others_ready:
            chosen = (broken or outdated)[0]
            chosen.restart(next(reasons[n] for n, child in wanted.items() if child is chosen))

    def _unfit(self, number: int, child: Child) -> str:
        """Why it should be replaced; empty if it should not."""
        if child.outdated:
            return "replaced by its new form"
        pulse = self._pulse_of(number, child)
        if pulse is None or pulse.longest_run_seconds <= self._kit.longest_run_seconds:
            return ""
        return f"a model hangs: it has been running for {pulse.longest_run_seconds:.0f} s"
