"""One request to a pipeline, from its HTTP request to its record and answer.

The record is in the segment before the answer leaves, like a model's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from modelfleet.serving.pipelines.executor.calls import Gateway
from modelfleet.serving.pipelines.executor.execution import (
    DeadlinePassed,
    Execution,
    Origin,
    StepFailed,
)
from modelfleet.serving.pipelines.executor.messages import answer_body
from modelfleet.serving.pipelines.executor.runner import Runner
from modelfleet.serving.pipelines.executor.values import MissingTensor, Unusable, evaluate
from modelfleet_worker import binary
from modelfleet_worker.exchange import Books, Refusal, unpacked
from modelfleet_worker.http import Connection, Request, error_body, presentable
from modelfleet_worker.oip import BadRequest, Decoded
from modelfleet_worker.wire.ids import format_id, uuid7_at
from modelfleet_worker.wire.segment import Record, encode
from modelfleet_worker.wire.signature import Array, TensorSpec
from modelfleet_worker.wire.tensors import pack

PARTIAL = 206
"""Status in the record of an answer that lacks outputs; the client's is 200."""
_NOT_PASSED_ON = frozenset(
    b"host connection keep-alive transfer-encoding te trailer upgrade expect accept accept-encoding"
    b" authorization cookie traceparent x-model-version user-agent"
    b" inference-header-content-length via".split()
)
_OWN_PREFIXES = (b"content-", b"x-mf-", b"x-envoy-", b"x-forwarded-", b":", b"proxy-")


class Answer:
    """One request. Ends in `_close`, exactly once."""

    def __init__(
        self, runner: Runner, request: Request, connection: Connection, books: Books
    ) -> None:
        self._runner = runner
        self._headers = request.head.headers
        self._request_id = request.request_id
        self._body = request.body
        self._connection = connection
        self._books = books
        self._started_ns = time.perf_counter_ns()
        self._time_ns = time.time_ns()
        self._prediction = uuid7_at(self._time_ns)
        self._root = format_id(self._prediction)
        self._trace, self._flags = _trace(self._headers.get(b"traceparent"), self._prediction)
        self._rows = 0
        self._closed = False
        books.running += 1

    async def run(self, gateway: Gateway) -> None:
        try:
            deadline = self._deadline()
            decoded = self._runner.decoder.decode(
                self._plain_body(), self._headers.get(binary.HEADER)
            )
        except BadRequest as error:
            self.fail(400, str(error))
            return
        except Refusal as error:
            self.fail(error.status, str(error))
            return
        self._rows = decoded.rows
        origin = Origin(self._root, self._trace.hex(), self._flags, _context(self._headers))
        execution = Execution(self._runner, gateway, origin, decoded.inputs, deadline)
        try:
            await execution.run()
        except StepFailed as error:
            self.fail(error.status, str(error))
        except DeadlinePassed:
            self.fail(504, "the pipeline did not answer before the deadline")
        else:
            self._succeed(decoded, execution)

    def fail(self, status: int, reason: str) -> None:
        extra = b"\r\nretry-after: 1" if status == 429 else b""
        reason = presentable(reason)
        self._close(status, status, error_body(reason), error=reason, extra=extra)

    def _deadline(self) -> float:
        milliseconds = self._runner.plan.timeout_ms
        given = self._headers.get(b"x-mf-timeout-ms")
        if given is not None:
            asked = int(given) if given.isdigit() and len(given) < 16 else 0
            milliseconds = min(milliseconds, asked)
        if milliseconds <= 0:
            raise Refusal(504, "the deadline had passed before the request arrived")
        return time.monotonic() + milliseconds / 1000

    def _plain_body(self) -> bytes:
        encoding = self._headers.get(b"content-encoding", b"")
        return unpacked(self._body, encoding, self._connection.max_body)

    def _succeed(self, decoded: Decoded, execution: Execution) -> None:
        fed = self._runner.plan.outputs
        chosen = range(len(fed)) if decoded.outputs is None else decoded.outputs
        found: dict[TensorSpec, Array] = {}
        lost: list[str] = []
        for one in fed:
            try:
                found[one.spec] = evaluate(one.source, execution.tensors)
            except MissingTensor:
                lost.append(one.spec.name)
            except Unusable as error:
                self.fail(500, f"output {one.spec.name}: {error}")
                return
        wanted = {fed[k].spec: found[fed[k].spec] for k in chosen if fed[k].spec in found}
        if not wanted:
            failure = next(iter(execution.missing.values()))
            self.fail(failure.status, str(failure))
            return
        parameters = _told(execution.fallbacks, lost)
        body, size = answer_body(
            self._runner.plan.name,
            self._runner.plan.revision,
            decoded.id or self._root,
            wanted,
            frozenset(fed[k].spec.name for k in decoded.raw),
            parameters,
        )
        self._runner.counters.partial += bool(lost)
        self._close(
            PARTIAL if lost else 200,
            200,
            body,
            inputs=[] if lost else [pack(array) for array in decoded.inputs],
            outputs=[] if lost else [pack(array) for array in found.values()],
            extra=b"" if size is None else b"\r\n%s: %d" % (binary.HEADER, size),
            raw=size is not None,
        )

    def _close(
        self,
        recorded: int,
        status: int,
        body: bytes,
        *,
        inputs: list[bytes] | None = None,
        outputs: list[bytes] | None = None,
        error: str = "",
        extra: bytes = b"",
        raw: bool = False,
    ) -> None:
        """Record, count, then answer."""
        if self._closed:
            return
        self._closed = True
        self._books.running -= 1
        plan, counters, get = self._runner.plan, self._runner.counters, self._headers.get
        counters.requests += 1
        counters.errors += status >= 500
        attempt = get(b"x-envoy-attempt-count", b"1")
        request_id = self._request_id
        self._books.segments.append(
            encode(
                Record(
                    plan.index,
                    self._prediction,
                    request_id.decode("latin-1"),
                    self._trace,
                    self._time_ns,
                    time.perf_counter_ns() - self._started_ns,
                    recorded,
                    int(attempt) if attempt.isdigit() and len(attempt) < 10 else 1,
                    0,
                    self._rows,
                    inputs or [],
                    outputs or [],
                    get(b"x-mf-caller", b"").decode("latin-1"),
                    get(b"x-mf-client-request-id", b"").decode("latin-1"),
                    plan.name,
                    error[:200],
                )
            )
        )
        headers = b"x-mf-prediction-id: %s\r\nx-mf-model-version: %d" % (
            self._root.encode(),
            plan.revision,
        )
        if request_id:
            headers += b"\r\nx-request-id: " + request_id
        self._connection.respond(status, body, headers + extra, raw=raw)


def _told(fallbacks: Mapping[str, str], lost: list[str]) -> dict[str, object]:
    """Parameters of the answer: where it is not what the models say."""
    told: dict[str, object] = {}
    if lost:
        told |= {"partial": True, "missing": ",".join(lost)}
    if fallbacks:
        told["fallbacks"] = ",".join(f"{step}:{how}" for step, how in fallbacks.items())
    return told


def _trace(header: bytes | None, root: bytes) -> tuple[bytes, str]:
    """Trace id and flags of a W3C `traceparent`; without a valid one, the root id serves."""
    parts = header.split(b"-") if header is not None else []
    if len(parts) >= 4 and len(parts[1]) == 32 and len(parts[3]) == 2:
        try:
            found = bytes.fromhex(parts[1].decode("ascii"))
            bytes.fromhex(parts[3].decode("ascii"))
        except ValueError:
            found = b""
        if any(found):
            return found, parts[3].decode("ascii")
    return root, "00"


def _context(headers: Mapping[bytes, bytes]) -> bytes:
    """The client's own headers, for models that route by them (sticky keys) or trace by them."""
    return b"".join(
        b"%s: %s\r\n" % (name, value)
        for name, value in headers.items()
        if name not in _NOT_PASSED_ON and not name.startswith(_OWN_PREFIXES)
    )
