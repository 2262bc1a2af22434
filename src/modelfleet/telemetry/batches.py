"""Records by column: the collector looks at thousands at a time, and at single ones only where
their request was tried more than once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from modelfleet_worker.wire.segment import BATCH_PREFIX, Record

Places = NDArray[np.intp]
Integers = NDArray[np.int64]
Texts = Sequence[str]
Raws = Sequence[Sequence[bytes]]


class Batch:
    """Records in the order in which they were read; each column is a field of all of them."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        columns = zip(*map(astuple, records), strict=True) if records else repeat((), 17)
        version, ids, request_ids, trace_ids, time, latency, status, attempt, flags, rows = (
            next(columns) for _ in range(10)
        )
        self.prediction_ids: Sequence[bytes] = ids
        self.request_ids: Texts = request_ids
        self.trace_ids: Sequence[bytes] = trace_ids
        self.versions: Sequence[int] = version
        self.flags: Sequence[int] = flags
        self.version, self.time_ns, self.latency_ns, self.status, self.attempt, self.rows = (
            np.array(column, np.int64) for column in (version, time, latency, status, attempt, rows)
        )
        self.inputs: Raws
        self.outputs: Raws
        self.callers: Texts
        self.client_request_ids: Texts
        self.endpoints: Texts
        self.errors: Texts
        self.keys: Texts
        (
            self.inputs,
            self.outputs,
            self.callers,
            self.client_request_ids,
            self.endpoints,
            self.errors,
            self.keys,
        ) = columns

    def __len__(self) -> int:
        return len(self.records)

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
