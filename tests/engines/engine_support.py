"""A home served by a keeper, an agent and fake workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from modelfleet.engines import Observed, ReplicaObserved
from modelfleet.engines.local import Files, LocalEngine, Record, read_observed, records
from modelfleet.engines.local.processes import read_record

HOST = Path(__file__).with_name("fake_host.py")


def wait_until(condition: Callable[[], object], what: str, seconds: float = 15.0) -> float:
    """How long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"waited {seconds} s for {what}"
        time.sleep(0.01)
    return time.monotonic() - started


class Home:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = Files(path / "run", path / "logs")
        self.engine = LocalEngine(self.files.desired, self.files.observed)
        self.keeper: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        self.files.observed.unlink(missing_ok=True)
        self.keeper = subprocess.Popen([sys.executable, HOST, "keeper", str(self.path)])
        wait_until(self.observed_ready, "the processes")

    def observed(self) -> Observed:
        return read_observed(self.files.observed)

    def observed_ready(self) -> bool:
        return self.observed().ready()

    def process(self, name: str) -> int:
        """Its pid, once it runs."""
        found: list[int] = []

        def runs() -> bool:
            known = self.observed().processes.get(name)
            found.extend([known.pid] if known and known.pid else [])
            return bool(found)

        wait_until(runs, name)
        return found[0]

    def agent(self) -> Record | None:
        found = read_record(self.files.agent)
        return found if found and found.alive() else None

    def agent_pid(self) -> int:
        found = self.agent()
        assert found is not None
        return found.pid

    def place(
        self, pool: str = "p", replicas: int = 2, memory_mb: int = 500, python: str = "a"
    ) -> None:
        wanted = {"pool": pool, "python": python, "replicas": replicas, "memory_mb": memory_mb}
        self.engine.place(pool, json.dumps({**wanted, "revision": 1, "versions": []}).encode())

    def replicas(self, pool: str = "p") -> list[ReplicaObserved]:
        found = self.observed().pools.get(pool)
        return list(found.replicas) if found else []

    def pids(self, pool: str = "p") -> list[int | None]:
        return [replica.pid for replica in self.replicas(pool)]

    def ready(self, count: int = 2, pool: str = "p") -> bool:
        return [replica.state for replica in self.replicas(pool)] == ["ready"] * count

    def behave(self, how: str) -> None:
        (self.path / "behaviour").write_text(how)

    def alive(self) -> list[Record]:
        return [record for record in records(self.files) if record.alive()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.keeper is not None
        self.keeper.send_signal(number)
        self.keeper.wait(timeout=30)

    def kill_everything(self) -> None:
        if self.keeper is not None and self.keeper.poll() is None:
            self.keeper.kill()
            self.keeper.wait()
        if (found := self.agent()) is not None:
            os.kill(found.pid, signal.SIGKILL)
            wait_until(lambda: self.agent() is None, "the agent's end")
        for record in self.alive():
            record.signal(signal.SIGKILL)
        wait_until(lambda: not self.alive(), "the end of all processes")
