"""The prediction records of a batch: the same log as online, in pieces of a chunk.

A piece is one record with up to 1,024 rows; row k of it is the prediction `id#k`. Request ids and
prediction ids follow from the run, the chunk and the moment at which the chunk was begun, which
its manifest keeps: a chunk that is done again has the same ids, and `append` leaves out what the
log has already.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelfleet.core.errors import Unavailable
from modelfleet.core.ids import digest
from modelfleet_worker.wire.ids import uuid7_of
from modelfleet_worker.wire.segment import (
    BATCH_PREFIX,
    Record,
    SegmentReader,
    SegmentWriter,
    encode,
)
from modelfleet_worker.wire.signature import Array
from modelfleet_worker.wire.tensors import pack

MAX_ROWS = 1024
_PIECE_BYTES = 512 << 10


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of those of a chunk that were answered."""

    number: int
    start: int
    stop: int
    prediction_id: bytes


def pieces(run: str, chunk: int, time_ns: int, rows: int, row_bytes: int) -> list[Piece]:
    """How the answered rows of a chunk become records. row_bytes: of inputs and outputs."""
    size = max(1, min(MAX_ROWS, _PIECE_BYTES // max(row_bytes, 1)))
    found = []
    for number, start in enumerate(range(0, rows, size)):
        seed = int(digest(f"{run}/{chunk}/{number}".encode())[:16], 16)
        found.append(Piece(number, start, min(start + size, rows), uuid7_of(time_ns, seed)))
    return found


class BatchLog:
    """Appends to segments of the pool `batch-<run>`."""

    def __init__(
        self, folder: Path, run: str, *, megabytes: int, version: int, caller: str, job: str
    ) -> None:
        self._folder = folder
        self._run = run
        self._pool = f"batch-{run}"
        self._version = version
        self._caller = caller
        self._job = job
        self._account = _Account()
        self._writer = SegmentWriter(
            folder, self._pool, 0, time.time_ns() // 1_000_000, megabytes, self._account
        )

    def append(
        self,
        chunk: int,
        time_ns: int,
        parts: Sequence[Piece],
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        latency_ns: int,
        known: Collection[bytes] = (),
    ) -> None:
        """Log the rows of a chunk. latency_ns: of the whole chunk; known: ids that are in the log.

        Raises `Unavailable` if the log takes no more.
        """
        rows = parts[-1].stop if parts else 0
        for piece in parts:
            if piece.prediction_id in known:
                continue
            mine = slice(piece.start, piece.stop)
            count = piece.stop - piece.start
            self._writer.append(
                encode(
                    Record(
                        version=self._version,
                        prediction_id=piece.prediction_id,
                        request_id=f"{self._run}-{chunk}-{piece.number}",
                        trace_id=b"",
                        time_ns=time_ns,
                        latency_ns=latency_ns * count // rows,
                        status=200,
                        attempt=1,
                        flags=0,
                        rows=count,
                        inputs=[pack(array[mine]) for array in inputs],
                        outputs=[pack(array[mine]) for array in outputs],
                        caller=self._caller,
                        client_request_id=self._job,
                        endpoint=BATCH_PREFIX + self._run,
                        error="",
                    )
                )
            )

    def segments(self) -> list[Path]:
        """Those that the collector has not taken in for good."""
        return sorted(self._folder.glob(f"{self._pool}-*.seg"))

    def unsealed(self) -> set[bytes]:
        """Prediction ids that stand in segments."""
        return {record.prediction_id for path in self.segments() for record in _records(path)}

    def close(self) -> None:
        self._writer.close()


def _records(path: Path) -> Iterator[Record]:
    try:
        reader = SegmentReader(path)
    except FileNotFoundError:  # sealed meanwhile
        return
    with reader:
        offset = None
        while True:
            found, end = reader.read() if offset is None else reader.read(offset)
            if not found:
                return
            yield from (record for _, record in found)
            offset = end


class _Account:
    """A batch that can't be logged must not go on."""

    def __init__(self) -> None:
        self._error = "a record is larger than a segment"

    def set_error(self, text: str) -> None:
        self._error = text

    def add_dropped(self) -> None:
        raise Unavailable(f"The prediction log takes no more: {self._error}.")
