"""One pipeline as an executor holds it: its plan, and what outlives a request."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from urllib.parse import quote

from modelfleet.serving.pipelines.counters import PipelineCounters, StepCounters
from modelfleet.serving.pipelines.executor.breaker import Breaker
from modelfleet.serving.pipelines.plan import PipelinePlan, StepPlan
from modelfleet_worker.oip import RequestDecoder
from modelfleet_worker.wire.signature import Array

_CACHED = 1024
"""answers that a step remembers"""


class Cache:
    """The last answers of a step by the digest of its request."""

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, tuple[float, Sequence[Array]]] = OrderedDict()

    @staticmethod
    def key(body: bytes) -> bytes:
        return blake2b(body, digest_size=16).digest()

    def put(self, key: bytes, outputs: Sequence[Array]) -> None:
        self._found[key] = (time.monotonic(), outputs)
        self._found.move_to_end(key)
        if len(self._found) > _CACHED:
            self._found.popitem(last=False)

    def get(self, key: bytes, max_age_ms: float) -> Sequence[Array] | None:
        at, outputs = self._found.get(key, (0.0, None))
        fresh = outputs is not None and (time.monotonic() - at) * 1000 <= max_age_ms
        return outputs if fresh else None


class Runner:
    """Breakers, caches and counters of an earlier definition go on where a step is the same."""

    def __init__(self, plan: PipelinePlan, before: Runner | None = None) -> None:
        self.plan = plan
        self.decoder = RequestDecoder(plan.signature)
        self.counters: PipelineCounters = (
            before.counters if before is not None else PipelineCounters()
        )
        self._breakers: dict[tuple[str, str | None], Breaker] = {}
        self._caches: dict[str, Cache] = {}
        same = set()
        if before is not None:
            old = {step.name: step for step in before.plan.steps}
            same = {s.name for s in plan.steps if _alike(s, old.get(s.name))}
            self._breakers = {k: b for k, b in before._breakers.items() if k[0] in same}
            self._caches = {k: c for k, c in before._caches.items() if k in same}
        known = self.counters.steps
        self.steps = {s.name: known.get(s.name, StepCounters()) for s in plan.steps}
        """Counters of this plan: requests that still run on an older one have theirs."""
        self.counters.steps = self.steps
        self.counters.edges = {k: v for k, v in self.counters.edges.items() if k in same}
        self._paths: dict[tuple[str, str | None], bytes] = {}

    def breaker(self, step: StepPlan, version: str | None) -> Breaker:
        """The version to fall back to has a circuit of its own."""
        key = (step.name, version)
        if key not in self._breakers:
            self._breakers[key] = Breaker(step.breaker)
        return self._breakers[key]

    def cache(self, step: StepPlan) -> Cache:
        return self._caches.setdefault(step.name, Cache())

    def path(self, step: StepPlan, version: str | None) -> bytes:
        key = (step.model, version)
        if key not in self._paths:
            pin = f"/versions/{quote(version, safe='')}" if version else ""
            self._paths[key] = f"/v2/models/{quote(step.model, safe='')}{pin}/infer".encode()
        return self._paths[key]

    def count_states(self, now: float) -> None:
        """Note the states of the circuits in the counters. now: monotonic seconds."""
        for step in self.plan.steps:
            state = self.breaker(step, step.version).state(now)
            self.steps[step.name].breaker = state


def _alike(step: StepPlan, old: StepPlan | None) -> bool:
    if old is None:
        return False
    return (step.model, step.version, step.inputs, step.outputs, step.breaker) == (
        old.model,
        old.version,
        old.inputs,
        old.outputs,
        old.breaker,
    )
