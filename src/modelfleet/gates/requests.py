"""A request of gates, as others see it: each gate's state, and the verdict over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelfleet.gates.store import GateRun, Verdict
from modelfleet.serving.progress import Progress


@dataclass(frozen=True)
class GateState:
    gate: str
    kind: str
    blocking: bool
    state: str
    """queued, running, waiting (for people) or done"""
    progress: Progress | None
    reused: bool
    run: GateRun | None
    spec: Mapping[str, object]


@dataclass(frozen=True)
class GateRequest:
    id: str
    model: str
    version: str
    champion: str | None
    requested_by: str
    created_at: str
    gates: tuple[GateState, ...]

    @property
    def ended(self) -> bool:
        return all(one.run is not None for one in self.gates)

    @property
    def verdict(self) -> str:
        return verdict_of([(one.blocking, one.run) for one in self.gates])


def verdict_of(gates: Sequence[tuple[bool, GateRun | None]]) -> str:
    """Of all that block: fail, running, inconclusive, warn or pass, the first that holds of any."""
    blocking = [run for blocks, run in gates if blocks]
    found = {run.verdict if run else None for run in blocking}
    if Verdict.FAIL in found:
        return "fail"
    if None in found:
        return "running"
    for one in (Verdict.INCONCLUSIVE, Verdict.WARN):
        if one in found:
            return one.value
    return "pass"
