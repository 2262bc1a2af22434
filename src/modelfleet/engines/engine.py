"""What the rest of the platform asks of an engine."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

State = Literal["starting", "ready", "stopping", "backing-off", "stopped"]
"""`backing-off`: it died too often; the next start waits, `last_exit` says why."""


class PoolDemand(msgspec.Struct, frozen=True):
    """What an engine needs to know of a pool's desired state; workers read the rest."""

    pool: Annotated[str, msgspec.Meta(pattern="^[a-z0-9-]{1,40}$")]
    python: str
    replicas: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 2
    memory_mb: int = 2048
    cpus: int = 0


class ReplicaObserved(msgspec.Struct, frozen=True):
    replica: int
    pid: int | None
    state: State
    incarnation: int
    restarts: int
    """unwanted ends since the pool was placed"""
    last_exit: str = ""
    error: str = ""
    """what the worker itself reported last"""


class PoolObserved(msgspec.Struct, frozen=True):
    replicas: tuple[ReplicaObserved, ...] = ()
    error: str = ""
    """why the desired state can't be read; the pool runs on as it was"""


class ProcessObserved(msgspec.Struct, frozen=True):
    pid: int | None
    state: State
    restarts: int
    last_exit: str = ""


class Observed(msgspec.Struct, frozen=True):
    """`run/observed.json`."""

    pools: dict[str, PoolObserved] = {}
    processes: dict[str, ProcessObserved] = {}

    def ready(self) -> bool:
        """Do all processes of the platform run?"""
        return bool(self.processes) and all(p.state == "ready" for p in self.processes.values())

    def knows(self, process: str) -> bool:
        """Is a process of that name wanted? Workers are called `worker-POOL-REPLICA`."""
        return self._state(process) is not None

    def is_ready(self, process: str) -> bool:
        return self._state(process) == "ready"

    def _state(self, process: str) -> State | None:
        if process in self.processes:
            return self.processes[process].state
        pool, _, number = process.removeprefix("worker-").rpartition("-")
        replicas = self.pools[pool].replicas if pool in self.pools else ()
        return next((r.state for r in replicas if str(r.replica) == number), None)


class Engine(Protocol):
    """Keeps pools of workers running. All verbs return at once; `observe` tells what came of it."""

    def place(self, pool: str, desired: bytes) -> None:
        """Run the pool as `desired` says (the JSON that its workers read)."""

    def scale(self, pool: str, replicas: int) -> None:
        """Change the number of workers. Raises `NotFound`."""

    def drain(self, pool: str) -> None:
        """End the pool: its workers finish what they do and go."""

    def observe(self) -> Observed: ...
