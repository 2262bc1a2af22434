"""One inference from its HTTP request to its record and answer.

The record is appended to the segment before the answer is written: an answer that a client has
seen is always in the log, even if the process is killed the moment after.
"""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Optional

import msgspec

from modelfleet_worker import binary, log
from modelfleet_worker.fair import NORMAL, WEIGHTS
from modelfleet_worker.http import Connection, error_body, presentable
from modelfleet_worker.invocations import error_body as scoring_error
from modelfleet_worker.lane import DeadlinePassed, Outcome, Overloaded
from modelfleet_worker.oip import BadRequest
from modelfleet_worker.peers import Finding, examine
from modelfleet_worker.residency import NotLoaded, Residency
from modelfleet_worker.resident import Resident
from modelfleet_worker.runtimes.base import Own, Refused
from modelfleet_worker.wire.control import ControlBlock
from modelfleet_worker.wire.ids import format_id, uuid7_at
from modelfleet_worker.wire.segment import SHADOW, Record, SegmentWriter, encode
from modelfleet_worker.wire.signature import Array
from modelfleet_worker.wire.tensors import pack

FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.08
LOOKS = 16
"""How often, over about a second, a request that a dead worker holds is looked for again."""
GONE = 499
"""Status in the record of a request whose client went away while it waited; nobody sees it."""
_GZIP, _ZLIB = 31, 15
_ENCODINGS = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": _ZLIB}
_GZIP_START = b"\x1f\x8b"
_MEMBERS = 64
"""Of one gzip body; each takes a copy of what follows it."""


class Refusal(Exception):
    """A request that gets an error; `status` as in HTTP."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Facts(msgspec.Struct, frozen=True):
    """What the head of an inference says, for all requests that have it."""

    endpoint: str
    version: int
    """index that the gateway chose, 0 if it is not known"""
    named: Optional[bytes]
    """the header that says so"""
    scoring: bool
    """by MLflow's protocol"""
    attempt: int
    timeout_ms: Optional[int]
    encoding: Optional[bytes]
    kind: bytes
    json_size: Optional[bytes]
    trace_id: bytes
    flags: int
    caller: bytes
    caller_name: str
    client_id: str
    key: str
    weight: float
    limit: int

    @classmethod
    def of(
        cls,
        headers: dict[bytes, bytes],
        endpoint: str,
        version: int,
        named: Optional[bytes],
        *,
        scoring: bool,
    ) -> Facts:
        get = headers.get
        timeout, caller = get(b"x-mf-timeout-ms"), get(b"x-mf-caller", b"")
        return cls(
            endpoint=endpoint,
            version=version,
            named=named,
            scoring=scoring,
            attempt=_integer(get(b"x-envoy-attempt-count"), 1),
            timeout_ms=None if timeout is None else _integer(timeout, 0),
            encoding=get(b"content-encoding"),
            kind=get(b"content-type", b""),
            json_size=get(binary.HEADER),
            trace_id=_trace_id(get(b"traceparent")),
            flags=SHADOW if get(b"x-mf-shadow") == b"1" else 0,
            caller=caller,
            caller_name=caller.decode("latin-1"),
            client_id=get(b"x-mf-client-request-id", b"").decode("latin-1"),
            key=_key(get(b"x-mf-key"), get(b"x-mf-cookie"), get(b"cookie", b"")),
            weight=WEIGHTS.get(get(b"x-mf-priority", b"normal"), NORMAL),
            limit=_integer(get(b"x-mf-concurrency"), 0),
        )


class Books:
    """Where exchanges keep their accounts: control block, segment, and how many are running."""

    def __init__(self, pool: str, control: ControlBlock, segments: SegmentWriter) -> None:
        self.pool = pool
        self.control = control
        self.segments = segments
        self.running = 0


class Exchange:
    """Implements `lane.Call`. Every path ends in `_close`, exactly once."""

    __slots__ = (
        "_body",
        "_books",
        "_chosen",
        "_closed",
        "_connection",
        "_facts",
        "_gone",
        "_id",
        "_prediction",
        "_prediction_id",
        "_raw",
        "_request_id",
        "_resident",
        "_slot",
        "_started_ns",
        "_time_ns",
        "_version",
        "deadline",
        "inputs",
        "own",
        "rows",
    )

    def __init__(
        self, books: Books, facts: Facts, request_id: bytes, connection: Connection
    ) -> None:
        self._books = books
        self._connection = connection
        self._facts = facts
        self._version = facts.version
        self._started_ns = time.monotonic_ns()
        self._time_ns = time.time_ns()
        self._prediction = uuid7_at(self._time_ns)
        self._prediction_id = format_id(self._prediction)
        self._request_id = request_id
        self._resident: Optional[Resident] = None
        self._id = ""
        self._chosen: Optional[list[int]] = None
        self._raw: frozenset[int] = frozenset()
        self._body = b""
        self._slot = -1
        self._closed = False
        self._gone = False
        milliseconds = facts.timeout_ms
        self.deadline: Optional[float] = None
        if milliseconds is not None:
            self.deadline = self._started_ns / 1e9 + milliseconds / 1e3
        self.inputs: list[Array] = []
        self.own: Optional[Own] = None
        self.rows = 0
        books.running += 1

    def run(self, resident: Resident, body: bytes) -> None:
        """Decode, run the model here or in its lane, answer."""
        self._resident = resident
        self._version = resident.version.index
        resident.used()
        if self._facts.attempt > 1:
            self._if_innocent(partial(self._run, resident, body), 0)
        else:
            self._run(resident, body)

    def run_when_loaded(self, residency: Residency, index: int, body: bytes) -> None:
        """The same for a version that is known but not resident; `loaded` or `answer` follows."""
        reason = residency.failure(index)
        version = residency.spec(index)
        if reason is not None:
            # A quarantined version is so everywhere; one that failed may be resident elsewhere.
            if version is not None and version.quarantined:
                self.fail(500, f"this version is in quarantine: {reason}")
            else:
                self.fail(503, f"this version is not resident: {reason}")
            return
        self._version = index
        self._body = body
        if self._facts.attempt > 1:  # loading it may have brought another worker down
            self._if_innocent(partial(self._want, residency, index), 0)
        else:
            self._want(residency, index)

    def _want(self, residency: Residency, index: int) -> None:
        try:
            self._check_time()
            residency.want(index, self)
        except Refusal as error:
            self.fail(error.status, str(error))
        except Overloaded as error:
            self.fail(429, str(error))

    def begun(self, thread: int) -> None:
        self._occupy(thread)

    def loaded(self, resident: Resident) -> None:
        if not self._closed:
            self.run(resident, self._body)

    def _if_innocent(self, proceed: Callable[[], None], looks: int) -> None:
        """Go on with what was tried before, unless it brought down the worker that ran it."""
        request_id = self._request_id.decode("latin-1")
        finding = examine(self._books.control, self._books.pool, request_id)
        if finding is Finding.INNOCENT:
            proceed()
        elif finding is Finding.LEFT_BY_THE_DEAD and looks < LOOKS:
            pause = min(FIRST_PAUSE * 2**looks, LONGEST_PAUSE)
            asyncio.get_running_loop().call_later(pause, self._if_innocent, proceed, looks + 1)
        else:
            self.fail(500, "this request stopped the worker that ran it before")

    def _run(self, resident: Resident, body: bytes) -> None:
        try:
            self._check_time()
            facts = self._facts
            resident.lane.refuse_if_hopeless(self.deadline)  # then it is not worth reading
            if facts.encoding is not None:
                body = unpacked(body, facts.encoding, self._connection.max_body)
            if facts.scoring:
                decoded = resident.invocations.decode(body, facts.kind)
            else:
                decoded = resident.decoder.decode(body, facts.json_size)
            self._id = decoded.id or ""
            self._chosen = decoded.outputs
            self._raw = decoded.raw
            self.inputs = decoded.inputs
            self.own = decoded.own
            self.rows = decoded.rows
            if resident.runs_inline(decoded.rows):
                self._run_inline(resident)
            else:
                self._queue(resident)
        except BadRequest as error:
            self.fail(error.status, str(error))
        except Refusal as error:
            self.fail(error.status, str(error))
        except Overloaded as error:
            self.fail(429, str(error))
        except Exception as error:  # noqa: BLE001  # no request may stay without its answer
            self._raised(error)

    def fail(self, status: int, reason: str) -> None:
        """Answer with an error."""
        extra = b"\r\nretry-after: 1" if status == 429 else b""
        reason = presentable(reason)
        scoring = self._facts.scoring
        body = scoring_error(status, reason) if scoring else error_body(reason)
        self._close(status, body, [], [], reason, extra)

    # lane.Call

    @property
    def caller(self) -> bytes:
        return self._facts.caller

    @property
    def weight(self) -> float:
        return self._facts.weight

    @property
    def limit(self) -> int:
        return self._facts.limit

    def started(self) -> None:
        resident = self._resident
        self._occupy(resident.lane.thread if resident is not None else 0)

    def ended(self) -> None:
        self._books.control.release(self._slot)
        self._slot = -1

    def answer(self, outcome: Outcome) -> None:
        if self._gone:
            self.fail(GONE, "the client went away before it was answered")
        elif isinstance(outcome, DeadlinePassed):
            self.fail(504, "the model did not answer before the deadline")
        elif isinstance(outcome, Overloaded):
            self.fail(429, str(outcome))
        elif isinstance(outcome, NotLoaded):
            self.fail(503, f"this version is not resident: {outcome}")
        elif isinstance(outcome, BaseException):
            self._raised(outcome)
        else:
            self._succeed(outcome)

    # steps

    def _occupy(self, thread: int) -> None:
        self._slot = self._books.control.occupy(self._version, self._request_id, thread)

    def _run_inline(self, resident: Resident) -> None:
        control, begun = self._books.control, time.monotonic_ns()
        slot = control.occupy(self._version, self._request_id, threading.get_ident(), begun)
        try:
            outputs = resident.execute(self.inputs, self.rows, self.own)
        except BaseException as error:  # noqa: BLE001  # a model may raise SystemExit, too
            control.release(slot)
            self._raised(error)
            return
        control.release(slot)
        resident.took(time.monotonic_ns() - begun)
        self._succeed(outputs)

    def _queue(self, resident: Resident) -> None:
        self._connection.if_lost = self._lost
        resident.lane.submit(self)

    def _lost(self) -> None:
        """Nobody waits any more: out of the queue with it, so that no batch takes it along."""
        self._gone = True
        self.deadline = time.monotonic()
        if self._resident is not None:
            self._resident.lane.sweep(self.deadline)

    def _check_time(self) -> None:
        if self._facts.timeout_ms == 0:
            raise Refusal(504, "the deadline had passed before the request arrived")

    def _succeed(self, outputs: list[Array]) -> None:
        resident = self._resident
        assert resident is not None
        try:
            answer_id = self._id or self._prediction_id
            extra = b""
            endpoint = self._facts.endpoint
            shown = outputs
            if self.own is not None and self.own.bare:
                shown = [array.reshape(array.shape[1:]) for array in outputs]
            if self._facts.scoring:
                body = resident.invocations.encode(shown, self._chosen)
            elif self._raw:
                body, size = resident.encoder.encode_mixed(
                    endpoint, answer_id, shown, self._chosen, self._raw
                )
                extra = b"\r\n%s: %d" % (binary.HEADER, size)
            else:
                body = resident.encoder.encode(endpoint, answer_id, shown, self._chosen)
            raw_inputs = [pack(array) for array in self.inputs]
            raw_outputs = [pack(array) for array in outputs]
        except Exception as error:  # noqa: BLE001  # outputs may hold any object
            self._raised(error)
            return
        self._close(200, body, raw_inputs, raw_outputs, "", extra)

    def _raised(self, error: BaseException) -> None:
        if isinstance(error, Refused):
            self.fail(400, str(error))
            return
        resident = self._resident
        if resident is not None and resident.throttle.allows():
            log.failure(
                "a prediction failed",
                error,
                model=resident.version.model,
                version=resident.version.version,
                request=self._request_id.decode("latin-1"),
                held_back=resident.throttle.held(),
            )
        self.fail(500, log.describe(error))

    def _close(
        self,
        status: int,
        body: bytes,
        inputs: list[bytes],
        outputs: list[bytes],
        error: str,
        extra: bytes,
    ) -> None:
        """Record, then answer."""
        if self._closed:
            return
        self._closed = True
        self._books.running -= 1
        facts = self._facts
        self._books.segments.append(
            encode(
                Record(
                    self._version,
                    self._prediction,
                    self._request_id.decode("latin-1"),
                    facts.trace_id,
                    self._time_ns,
                    time.monotonic_ns() - self._started_ns,
                    status,
                    facts.attempt,
                    facts.flags,
                    self.rows,
                    inputs,
                    outputs,
                    facts.caller_name,
                    facts.client_id,
                    facts.endpoint,
                    error[:200],
                    facts.key,
                )
            )
        )
        headers = b"x-mf-prediction-id: " + self._prediction_id.encode()
        if self._resident is not None:
            headers += self._resident.version_header
        if self._request_id:
            headers += b"\r\nx-request-id: " + self._request_id
        raw = status == 200 and bool(self._raw)
        self._connection.respond(status, body, headers + extra, raw=raw)


def _key(key: Optional[bytes], name: Optional[bytes], cookies: bytes) -> str:
    """By what the request sticks to its version: a header's value or that of a cookie."""
    if name is not None:
        pairs = (one.strip().partition(b"=") for one in cookies.split(b";"))
        key = next((value for named, _, value in pairs if named == name), None)
    return key.decode("latin-1")[:200] if key else ""


def unpacked(body: bytes, encoding: bytes, limit: int) -> bytes:
    """A body without its Content-Encoding, of at most `limit` bytes; Refusal if that can't be."""
    encoding = encoding.lower()
    if encoding in (b"identity", b""):
        return body
    wbits = _ENCODINGS.get(encoding)
    if wbits is None:
        raise Refusal(415, "Content-Encoding must be gzip or deflate")
    return inflate(body, wbits, limit)


def inflate(body: bytes, wbits: int, limit: int) -> bytes:
    """A gzip or zlib body of at most `limit` bytes, inflated. Refusal if it is longer or broken.
    gzip may have several members."""
    parts: list[bytes] = []
    left = limit
    for _ in range(_MEMBERS):
        state = zlib.decompressobj(wbits)
        try:
            plain = state.decompress(body, left + 1)
        except zlib.error as error:
            raise Refusal(400, f"the compressed body is broken: {error}") from error
        left -= len(plain)
        if left < 0:
            raise Refusal(413, f"the inflated body is longer than {limit} bytes")
        parts.append(plain)
        body = state.unused_data
        if state.eof and not body:
            return plain if len(parts) == 1 else b"".join(parts)
        if not state.eof or wbits != _GZIP or not body.startswith(_GZIP_START):
            break
    raise Refusal(400, "the compressed body is cut off or followed by something else")


def _integer(text: Optional[bytes], default: int) -> int:
    return int(text) if text is not None and text.isdigit() and len(text) < 16 else default


def _trace_id(header: Optional[bytes]) -> bytes:
    """The 16 bytes of a W3C `traceparent`; none if there is no valid one."""
    if header is None or len(header) < 55 or header[2:3] != b"-" or header[35:36] != b"-":
        return b""
    try:
        found = bytes.fromhex(header[3:35].decode("ascii"))
    except ValueError:
        return b""
    return found if any(found) and len(found) == 16 else b""
