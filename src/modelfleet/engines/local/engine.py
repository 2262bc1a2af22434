"""How the control plane speaks to the host agent: files, replaced by rename."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from modelfleet.core.errors import NotFound
from modelfleet.core.files import write_atomically
from modelfleet.engines.engine import Observed, PoolDemand


def read_observed(path: Path) -> Observed:
    """Empty if no agent has written one yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Observed)
    except (FileNotFoundError, msgspec.DecodeError):
        return Observed()


def read_demand(path: Path) -> PoolDemand:
    """Raises FileNotFoundError, or `msgspec.DecodeError` if the pool isn't named as its file."""
    demand = msgspec.json.decode(path.read_bytes(), type=PoolDemand)
    if demand.pool != path.stem:
        raise msgspec.ValidationError(f"it names another pool, {demand.pool[:80]}")
    return demand


class LocalEngine:
    """`Engine` over the agent of this machine."""

    def __init__(self, desired: Path, observed: Path) -> None:
        self._desired = desired
        self._observed = observed

    def place(self, pool: str, desired: bytes) -> None:
        write_atomically(self._desired / f"{pool}.json", desired)

    def scale(self, pool: str, replicas: int) -> None:
        path = self._desired / f"{pool}.json"
        try:
            wanted = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(f"There is no pool {pool}.") from None
        self.place(pool, json.dumps({**wanted, "replicas": replicas}).encode())

    def drain(self, pool: str) -> None:
        (self._desired / f"{pool}.json").unlink(missing_ok=True)

    def observe(self) -> Observed:
        return read_observed(self._observed)
