"""A worker without sockets: bytes go into `http.Connection`, through the real server, exchange,
books and lanes, and the answers come out as bytes. The model gives back what it gets."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from modelfleet_worker.eviction import Cache
from modelfleet_worker.exchange import Books
from modelfleet_worker.http import Connection
from modelfleet_worker.loading import Loaded
from modelfleet_worker.residency import Residency
from modelfleet_worker.resident import Resident
from modelfleet_worker.runtimes.base import Conformer
from modelfleet_worker.server import ModelServer
from modelfleet_worker.wire.control import ControlBlock
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.segment import SegmentWriter
from modelfleet_worker.wire.signature import DTYPES, Array, Signature, TensorSpec
from modelfleet_worker.wire.spec import BundleSpec

MAX_BODY = 200_000
SECONDS = 5.0
"""Longest time that one input may take"""
MEGABYTES = 300
"""Memory that one input may add at its peak"""
ALLOWED = frozenset({200, 400, 404, 405, 408, 413, 415, 429, 431, 504})


def echo(*inputs: TensorSpec) -> Signature:
    outputs = tuple(TensorSpec(f"{s.name}_back", s.datatype, s.shape) for s in inputs)
    return Signature(inputs, outputs)


SIGNATURES: Mapping[int, Signature] = {
    1: echo(TensorSpec("x", "FP64", (-1, 3), ("a", "b", "c"))),
    2: echo(*(TensorSpec(kind.lower(), kind, (-1,)) for kind in DTYPES)),
    3: echo(TensorSpec("x", "FP32", (-1, -1, -1))),
    4: echo(TensorSpec("x", "BYTES", (-1, 2))),
    5: echo(TensorSpec("x", "INT64", (-1, -1))),
    6: echo(*(TensorSpec(f"x{k}", "BYTES", (-1,)) for k in range(2))),
}
"""by version index"""


class Echo:
    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return {f"{name}_back": array for name, array in inputs.items()}


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.paused = False

    def write(self, data: Any) -> None:
        assert not self.closed, "written after the end"
        self.written += data

    def close(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Target:
    """inline: models run on the event loop, not in their lanes."""

    def __init__(self, folder: Path, *, inline: bool = True) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.control = ControlBlock.create(folder / "fuzz.ctl")
        self.control.begin(1)
        self.segments = SegmentWriter(folder / "segments", "fuzz", 0, 1, 4, self.control)
        self.books = Books("fuzz", self.control, self.segments)
        desired = folder / "desired.json"
        residency = Residency(desired, self.control, self.loop, lambda: None)
        for index, signature in SIGNATURES.items():
            spec = BundleSpec("onnx" if inline else "python", "artifact", signature)
            version = VersionSpec(index, f"m{index}", "1.0.0", 1, "0" * 64, str(folder))
            loaded = Loaded(spec, Echo(), Conformer(signature), 0.0, 0.0)
            entry = Cache().add(index, 1, 0.0, pinned=True)
            residency.table[index] = Resident(version, loaded, self.loop, entry)
        self.server = ModelServer(residency, self.books, MAX_BODY)
        self.server.ready = True
        self._asked = 0

    def close(self) -> None:
        self.segments.close()
        self.control.close()
        self.loop.close()

    def feed(self, pieces: Sequence[bytes]) -> tuple[list[Answer], bool]:
        """One connection that gets these bytes and no more: its answers, and whether it was
        closed. Raises AssertionError if anything is not as it should be."""
        self._tidy()
        began, before = time.perf_counter(), _peak()
        wire = Wire()
        connection = Connection(self.server)
        connection.connection_made(wire)
        try:
            self.loop.run_until_complete(self._feed(connection, wire, pieces))
        finally:
            connection.connection_lost(None)
        assert self.books.running == 0, "a request has no end"
        assert time.perf_counter() - began < SECONDS, "it took too long"
        assert _peak() - before < MEGABYTES << 10, f"{(_peak() - before) >> 10} MiB more"
        return split(bytes(wire.written)), wire.closed

    async def _feed(self, connection: Connection, wire: Wire, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            if wire.closed:
                break
            connection.data_received(piece)
            await self._settle(wire)
        end = time.monotonic() + SECONDS
        while not wire.closed and self._waits(connection) and time.monotonic() < end:
            await asyncio.sleep(0)
        if not wire.closed and connection.half_read_for(time.monotonic()):
            connection.time_out()  # as the sweep would

    async def _settle(self, wire: Wire) -> None:
        await asyncio.sleep(0)
        while wire.paused and not wire.closed:
            await asyncio.sleep(0)

    def _waits(self, connection: Connection) -> bool:
        return not connection.idle and not connection.half_read_for(time.monotonic())

    def infer(
        self, index: int, body: bytes, headers: Mapping[str, str] | None = None, verb: str = "infer"
    ) -> Answer:
        """One well-formed request with any body."""
        head = [f"POST /v2/models/m{index}/{verb} HTTP/1.1", "host: w", f"x-mf-version: {index}"]
        head += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head.append(f"content-length: {len(body)}")
        request = "\r\n".join(head).encode() + b"\r\n\r\n" + body
        answers, _ = self.feed([request])
        assert len(answers) == 1, answers
        return answers[0]

    def _tidy(self) -> None:
        self._asked += 1
        if self._asked % 1000 == 0:
            for path in sorted((self.folder / "segments").glob("*.seg"))[:-2]:
                path.unlink(missing_ok=True)


def _peak() -> int:
    """KiB"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def split(written: bytes) -> list[Answer]:
    """The answers in what was written; AssertionError if it is not HTTP."""
    found: list[Answer] = []
    while written:
        if written.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            written = written[25:]
            continue
        head, end, rest = written.partition(b"\r\n\r\n")
        assert end, written[:300]
        first, *lines = head.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 "), first
        headers = dict(line.split(b": ", 1) for line in lines)
        assert len(headers) == len(lines), lines
        size = int(headers[b"content-length"])
        assert len(rest) >= size, (head, rest)
        found.append(Answer(int(first.split()[1]), headers, rest[:size]))
        written = rest[size:]
    return found


def check(answer: Answer, *, scoring: bool = False, anywhere: bool = False) -> None:
    """What must be true of every answer to bad input. anywhere: the request may name a version
    that this worker does not hold, which is no fault of the request."""
    elsewhere = anywhere and answer.status == 503 and b"is not resident here" in answer.body
    assert answer.status in ALLOWED or elsewhere, answer
    if answer.headers[b"content-type"] == b"application/json":
        told = json.loads(answer.body)
    else:
        assert answer.headers[b"content-type"] == b"application/octet-stream"
        size = int(answer.headers[b"inference-header-content-length"])
        told = json.loads(answer.body[:size])
        raw = sum(o.get("parameters", {}).get("binary_data_size", 0) for o in told["outputs"])
        assert size + raw == len(answer.body)
    if answer.status == 200:
        return
    assert len(answer.body) < 10_000, "an error tells all that was sent"
    if scoring and set(told) != {"error"}:
        assert set(told) == {"error_code", "message"}, told
        assert isinstance(told["message"], str)
    else:
        assert set(told) == {"error"}, told
        assert isinstance(told["error"], str)
