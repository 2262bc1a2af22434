"""Records by column: the collector looks at thousands at a time, and at single ones only where
their request was tried more than once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from modelfleet_worker.wire.segment import BATCH_PREFIX, Record

Places = NDArray[np.intp]
Integers = NDArray[np.int64]
Row = tuple[
    int,
    bytes,
    str,
    bytes,
    int,
    int,
    int,
    int,
    int,
    int,
    list[bytes],
    list[bytes],
    str,
    str,
    str,
    str,
    str,
]
"""The fields of `Record`, in its order."""
ID_BYTES = 16


class Batch:
    """Records in the order in which they were read; each column is a field of all of them.

    ValueError if a prediction id isn't one.
    """

    versions: Sequence[int]
    prediction_ids: Sequence[bytes]
    request_ids: Sequence[str]
    trace_ids: Sequence[bytes]
    flags: Sequence[int]
    inputs: Sequence[Sequence[bytes]]
    outputs: Sequence[Sequence[bytes]]
    callers: Sequence[str]
    client_request_ids: Sequence[str]
    endpoints: Sequence[str]
    errors: Sequence[str]
    keys: Sequence[str]

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        (
            self.versions,
            self.prediction_ids,
            self.request_ids,
            self.trace_ids,
            time_ns,
            latency_ns,
            status,
            attempt,
            self.flags,
            tensor_rows,
            self.inputs,
            self.outputs,
            self.callers,
            self.client_request_ids,
            self.endpoints,
            self.errors,
            self.keys,
        ) = zip(*rows, strict=True) if rows else ((),) * 17
        self.version, self.time_ns, self.latency_ns, self.status, self.attempt, self.rows = (
            np.array(column, np.int64)
            for column in (self.versions, time_ns, latency_ns, status, attempt, tensor_rows)
        )
        self.ids = b"".join(self.prediction_ids)
        """The prediction ids, one after the other."""
        if len(self.ids) != ID_BYTES * len(rows):
            raise ValueError(f"a prediction id has {ID_BYTES} bytes")

    @classmethod
    def of(cls, records: Iterable[Record]) -> Batch:
        return cls([astuple(record) for record in records])

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, place: int) -> Row:
        return self._rows[place]

    def record(self, place: int) -> Record:
        return Record(*self._rows[place])

    def take(self, places: Sequence[int]) -> Batch:
        return Batch([self._rows[place] for place in places])

    def span_ms(self) -> tuple[int, int]:
        """When the first and the last of the prediction ids were made, Unix milliseconds."""
        times = np.frombuffer(self.ids, ">u8")[::2] >> 16
        return int(times.min()), int(times.max())

    def served(self) -> NDArray[np.bool_]:
        """Those that a worker wrote, rather than a batch run."""
        runs = {one for one in set(self.endpoints) if one.startswith(BATCH_PREFIX)}
        if not runs:
            return np.ones(len(self), dtype=np.bool_)
        return np.array([endpoint not in runs for endpoint in self.endpoints])


def groups(places: Places, *keys: Integers) -> list[Places]:
    """`places` with equal keys together, each group in order. keys: columns of the batch."""
    if not len(places):
        return []
    columns = [key[places] for key in keys]
    order = np.lexsort(columns)
    changes = np.zeros(len(order) - 1, dtype=np.bool_)
    for column in columns:
        ordered = column[order]
        changes |= ordered[1:] != ordered[:-1]
    return np.split(places[order], np.flatnonzero(changes) + 1)
