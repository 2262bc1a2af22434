"""One request through the graph: each step once, as soon as what it takes is there."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

from modelfleet.serving.pipelines.counters import StepCounters
from modelfleet.serving.pipelines.definition import INPUT, From
from modelfleet.serving.pipelines.executor.calls import (
    CallFailed,
    CallTimeout,
    Gateway,
    Response,
)
from modelfleet.serving.pipelines.executor.messages import call_body, error_of, read_answer
from modelfleet.serving.pipelines.executor.runner import Cache, Runner
from modelfleet.serving.pipelines.executor.values import (
    MissingTensor,
    Unusable,
    evaluate,
    rows_where,
    scatter,
)
from modelfleet.serving.pipelines.kinds import constant
from modelfleet.serving.pipelines.plan import StepPlan
from modelfleet_worker import binary
from modelfleet_worker.wire.signature import Array

_PASSED_ON = frozenset({400, 429, 503, 504})
"""Statuses of a step that the pipeline may answer with; others become 500."""
_NOTHING_LEFT_S = 0.005
"""With less time than this, the deadline has passed: models are told whole milliseconds and count
them from when they are asked, so that one that was given all the time may end a little early."""


class StepFailed(Exception):
    """A step has no answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class DeadlinePassed(Exception):
    """The request's time is over: nobody waits for an answer any more."""


class Origin:
    """What all calls of one request carry along."""

    def __init__(self, root: str, trace: str, flags: str, context: bytes) -> None:
        """root: prediction id of the pipeline's answer. trace, flags: of W3C Trace Context.
        context: header lines of the client that go to every model."""
        self._root = root
        self._trace = trace
        self._flags = flags
        self._context = context

    def headers(self, json_size: int, milliseconds: int) -> bytes:
        span = os.urandom(8).hex()
        own = (
            f"content-type: application/octet-stream\r\nx-request-id: {self._root}\r\n"
            f"traceparent: 00-{self._trace}-{span}-{self._flags}\r\n"
            f"x-mf-timeout-ms: {milliseconds}\r\n"
        )
        size = b"%s: %d\r\n" % (binary.HEADER, json_size)
        return own.encode() + size + self._context


class Execution:
    """`tensors` grows step by step; `missing` and `fallbacks` tell where it went another way."""

    def __init__(
        self,
        runner: Runner,
        gateway: Gateway,
        origin: Origin,
        inputs: Sequence[Array],
        deadline: float,
    ) -> None:
        """deadline: monotonic seconds."""
        self._runner = runner
        self._gateway = gateway
        self._origin = origin
        self._deadline = deadline
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._called: set[str] = set()
        names = (spec.name for spec in runner.plan.inputs)
        self.tensors = {f"{INPUT}.{n}": a for n, a in zip(names, inputs, strict=True)}
        self.rows = len(inputs[0])
        self.missing: dict[str, StepFailed] = {}
        self.fallbacks: dict[str, str] = {}

    async def run(self) -> None:
        """Raises `StepFailed` of a step that must answer, `DeadlinePassed`."""
        steps = self._runner.plan.steps
        if len(steps) == 1:
            await self._step(steps[0])
            return
        for step in steps:
            self._tasks[step.name] = asyncio.create_task(self._step(step))
        tasks = list(self._tasks.values())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for found in ended:
            if isinstance(found, Exception):
                raise found

    def _counters(self, step: StepPlan) -> StepCounters:
        return self._runner.steps[step.name]

    async def _step(self, step: StepPlan) -> None:
        for need in step.needs:
            await self._tasks[need]
        try:
            outputs = await self._outputs(step)
        except StepFailed as failure:
            told = StepFailed(failure.status, f"step {step.name}: {failure}")
            self._counters(step).last_error = str(failure)[:300]
            if not step.optional:
                raise told from failure
            self._counters(step).missing += 1
            self.missing[step.name] = told
            return
        for spec, array in zip(step.outputs, outputs, strict=True):
            self.tensors[f"{step.name}.{spec.name}"] = array

    async def _outputs(self, step: StepPlan) -> Sequence[Array]:
        """For all rows: those that meet the condition from the model, the others as defined."""
        try:
            arrays = [evaluate(fed.source, self.tensors) for fed in step.inputs]
            mask = rows_where(step.when, self.tensors) if step.when is not None else None
            if mask is None or mask.all():
                return await self._answer(step, arrays, self.rows)
            others = [self._other(step, k) for k in range(len(step.outputs))]
            if not mask.any():
                self._counters(step).skipped += 1
                return others
            chosen = await self._answer(step, [a[mask] for a in arrays], int(mask.sum()))
            return scatter(mask, chosen, others)
        except MissingTensor as error:
            return self._constants(step, self.rows, StepFailed(503, f"{error} is missing"))
        except Unusable as error:
            return self._constants(step, self.rows, StepFailed(500, str(error)))

    def _other(self, step: StepPlan, k: int) -> Array:
        spec = step.outputs[k]
        value = step.otherwise[spec.name]
        if isinstance(value, From):
            return evaluate(value.source, self.tensors)
        return constant(value, spec, self.rows)

    async def _answer(self, step: StepPlan, arrays: Sequence[Array], rows: int) -> Sequence[Array]:
        """Of the model, else of the fallback."""
        specs = [fed.spec for fed in step.inputs]
        body, size = call_body(specs, arrays, step.outputs)
        rule = step.fallback
        try:
            found = await self._call(step, step.version, body, size, rows)
        except StepFailed as failure:
            if rule is None:
                raise
            self._counters(step).last_error = str(failure)[:300]
            return await self._fall_back(step, failure, body, size, rows)
        self._called.add(step.name)
        for need in step.needs:
            if need in self._called:
                self._runner.counters.saw(need, step.name)
        if rule is not None and rule.cached_ms is not None:
            self._runner.cache(step).put(Cache.key(body), found)
        return found

    async def _fall_back(
        self, step: StepPlan, failure: StepFailed, body: bytes, size: int, rows: int
    ) -> Sequence[Array]:
        rule = step.fallback
        assert rule is not None
        if rule.previous and step.previous is not None and step.previous != step.version:
            try:
                found = await self._call(step, step.previous, body, size, rows)
            except StepFailed:
                pass  # counted; what is left of the fallback comes next
            else:
                self._fell_back(step, "previous")
                return found
        if rule.cached_ms is not None:
            cached = self._runner.cache(step).get(Cache.key(body), rule.cached_ms)
            if cached is not None:
                self._fell_back(step, "cached")
                return cached
        return self._constants(step, rows, failure)

    def _constants(self, step: StepPlan, rows: int, failure: StepFailed) -> Sequence[Array]:
        if step.fallback is None or not step.fallback.constant:
            raise failure
        self._fell_back(step, "constant")
        self._counters(step).last_error = str(failure)[:300]
        return [constant(step.fallback.constant[s.name], s, rows) for s in step.outputs]

    def _fell_back(self, step: StepPlan, how: str) -> None:
        self.fallbacks[step.name] = how
        self._counters(step).fallbacks += 1

    async def _call(
        self, step: StepPlan, version: str | None, body: bytes, size: int, rows: int
    ) -> Sequence[Array]:
        """Of the model itself. Raises `StepFailed`, and `DeadlinePassed` when all time is over."""
        counters = self._counters(step)
        breaker = self._runner.breaker(step, version)
        now = time.monotonic()
        left = self._deadline - now
        if left <= _NOTHING_LEFT_S:
            raise DeadlinePassed
        ticket = breaker.admit(now)
        if ticket is None:
            counters.refused += 1
            raise StepFailed(503, "its circuit is open, because its model has failed")
        seconds = left if step.timeout_ms is None else min(left, step.timeout_ms / 1000)
        counters.calls += 1
        try:
            response = await self._gateway.post(
                self._runner.path(step, version),
                self._origin.headers(size, max(1, int(seconds * 1000))),
                body,
                seconds,
            )
            found = _read(step, response, rows)
        except (StepFailed, Unusable, CallFailed, CallTimeout) as error:
            ended = time.monotonic()
            counters.errors += 1
            failure = _failure(error, seconds)
            counters.timeouts += failure.status == 504
            if failure.status >= 500 or failure.status == 429:
                breaker.failed(ticket, ended)
            else:
                breaker.succeeded(ticket)
            if ended >= self._deadline - _NOTHING_LEFT_S:
                raise DeadlinePassed from error
            raise failure from error
        except BaseException:  # given up, because another step failed
            breaker.released(ticket)
            raise
        breaker.succeeded(ticket)
        counters.milliseconds += (time.monotonic() - now) * 1000
        return found


def _read(step: StepPlan, response: Response, rows: int) -> list[Array]:
    if response.status != 200:
        status = response.status if response.status in _PASSED_ON else 500
        raise StepFailed(
            status, f"{step.model} answered {response.status}: {error_of(response.body)}"
        )
    return read_answer(response.body, response.headers.get(binary.HEADER), step.outputs, rows)


def _failure(error: Exception, seconds: float) -> StepFailed:
    if isinstance(error, StepFailed):
        return error
    if isinstance(error, CallTimeout):
        return StepFailed(504, f"no answer within {seconds * 1000:.0f} ms")
    if isinstance(error, CallFailed):
        return StepFailed(503, str(error))
    return StepFailed(500, str(error))
