"""One batch from its order to its end: read, map, predict, log, write, note; chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelfleet.batch.manifest import Manifest, identity, locked, open_manifest
from modelfleet.batch.mapping import Bad, ColumnMap
from modelfleet.batch.model import ModelDied, ModelProcess, ModelRaised, Predicted
from modelfleet.batch.records import BatchLog, pieces
from modelfleet.batch.sinks import ROW, Sink, kept_names, output_table
from modelfleet.batch.sources import Source, open_source
from modelfleet.batch.types import Order, Progress
from modelfleet.core.errors import InvalidInput
from modelfleet.core.layout import Layout
from modelfleet.telemetry.lookup import sealed_ids
from modelfleet_worker.wire.signature import Array, Signature
from modelfleet_worker.wire.spec import BundleSpec, read_spec
from modelfleet_worker.wire.tensors import pack

if TYPE_CHECKING:
    import pyarrow as pa

CALL_ROWS = 4096
"""Rows of one call of the model; between two calls the progress is told."""
MAX_SEGMENTS = 8
"""Of ours that the collector may have before it; more wait."""
_WAIT_SECONDS = 0.1
Tell = Callable[[Progress], None]


@dataclass
class _Answers:
    """Of one chunk. `good`: places in the chunk that were answered."""

    good: NDArray[np.intp]
    inputs: list[Array]
    outputs: list[Array]
    latency_ns: int
    bad: Bad


def run(layout: Layout, order: Order, tell: Tell) -> Progress:
    """Do it. Raises `FleetError` for whatever stands in the way; what is done stays done."""
    folder = Path(order.wish.output)
    spec = read_spec(Path(order.spec.path))
    with locked(folder):
        source = open_source(order.wish.input)
        kept = source.names if order.wish.keep else order.wish.key
        unknown = [name for name in kept if name not in source.names]
        if unknown:
            raise InvalidInput(
                f"The input has no column {unknown[0]!r} to keep.",
                hint=f"It has: {', '.join(source.names[:30])}.",
            )
        columns = ColumnMap(spec, source.names, order.wish.columns, source.is_text)
        manifest = open_manifest(folder, identity(order, source.fingerprint), order.id)
        if manifest.complete:
            return _progress("succeeded", manifest, source, manifest.input_rows, 0.0)
        manifest.save(folder)
        return _Run(layout, order, spec, source, columns, manifest, tell).go()


class _Run:
    def __init__(
        self,
        layout: Layout,
        order: Order,
        spec: BundleSpec,
        source: Source,
        columns: ColumnMap,
        manifest: Manifest,
        tell: Tell,
    ) -> None:
        self._layout = layout
        self._order = order
        self._signature: Signature = spec.signature
        self._source = source
        self._columns = columns
        self._manifest = manifest
        self._tell = tell
        self._folder = Path(order.wish.output)
        self._resumed = manifest.input_rows
        self._kept = list(source.names) if order.wish.keep else list(order.wish.key)
        self._kept_as = kept_names(spec.signature, self._kept)
        self._sink = Sink(self._folder, order.wish.format, manifest.run)
        self._model = ModelProcess(order.model_argv, layout.worker_package, spec.signature)
        tensors = (*spec.signature.inputs, *spec.signature.outputs)
        self._call_rows = CALL_ROWS if all(one.shape[0] == -1 for one in tensors) else 1
        self._log = BatchLog(
            layout.segments,
            manifest.run,
            megabytes=order.segment_mb,
            version=order.spec.index,
            caller=order.caller,
            job=order.id,
        )
        self._begun = 0.0

    def go(self) -> Progress:
        try:
            self._model.start()
            self._begun = time.monotonic()
            done = self._manifest.seconds
            read = list(dict.fromkeys([*self._columns.used, *self._kept]))
            chunks = self._source.chunks(read, self._resumed, self._order.wish.chunk_rows)
            for table in chunks:
                self._pause_if_ahead()
                self._chunk(table, is_first=self._manifest.input_rows == self._resumed)
                self._note(
                    chunks=self._manifest.chunks + 1,
                    input_rows=self._manifest.input_rows + table.num_rows,
                    seconds=done + time.monotonic() - self._begun,
                    begun_ns=time.time_ns(),
                )
                self._say("running")
            self._note(complete=True)
            return self._say("succeeded")
        finally:
            self._model.close()
            self._log.close()

    def _note(self, **changes: object) -> None:
        self._manifest = msgspec.structs.replace(self._manifest, **changes)
        self._manifest.save(self._folder)

    def _chunk(self, table: pa.Table, *, is_first: bool) -> None:
        """Predict, log and write one chunk. is_first: it may have been begun before."""
        manifest = self._manifest
        found = self._answers(table)
        rows = len(found.good)
        size = sum(len(pack(array[:1])) for array in (*found.inputs, *found.outputs))
        parts = pieces(manifest.run, manifest.chunks, manifest.begun_ns, rows, size)
        if self._call_rows == 1:
            parts = pieces(manifest.run, manifest.chunks, manifest.begun_ns, rows, 1 << 30)
        known = self._logged([piece.prediction_id for piece in parts]) if is_first else set()
        self._log.append(
            manifest.chunks,
            manifest.begun_ns,
            parts,
            found.inputs,
            found.outputs,
            found.latency_ns,
            known,
        )
        kept = self._keep(table, found.good)
        version = self._order.spec.version
        self._sink.write(
            manifest.chunks,
            output_table(kept, self._signature, found.outputs, parts, version),
        )
        if found.bad:
            self._sink.reject(manifest.chunks, self._rejected(table, found.bad))
        self._manifest = msgspec.structs.replace(
            manifest, rows=manifest.rows + rows, rejected=manifest.rejected + len(found.bad)
        )

    def _logged(self, ids: Sequence[bytes]) -> set[bytes]:
        """Those of a chunk's records that are in the log already. Segments come first: what leaves
        them is in Parquet before."""
        return self._log.unsealed() | sealed_ids(self._layout, ids)

    def _keep(self, table: pa.Table, good: NDArray[np.intp]) -> pa.Table:
        import pyarrow as pa

        if self._kept:
            kept = table.select(self._kept).rename_columns(self._kept_as)
            return kept.take(pa.array(good)) if len(good) < len(table) else kept
        return pa.table({ROW: pa.array(good + self._manifest.input_rows + 1)})

    def _rejected(self, table: pa.Table, bad: Bad) -> pa.Table:
        """Row number, reason, and the row's columns as far as they were read."""
        import pyarrow as pa

        places = sorted(bad)
        first = self._manifest.input_rows + 1
        shown = list(dict.fromkeys([*self._kept, *self._columns.used]))
        named = {name: f"input_{name}" if name in (ROW, "reason") else name for name in shown}
        rows = table.select(shown).take(pa.array(places))
        found = {
            ROW: pa.array([place + first for place in places], pa.int64()),
            "reason": pa.array([bad[place] for place in places], pa.string()),
        }
        return pa.table(found | {named[name]: rows.column(name) for name in shown})

    def _answers(self, table: pa.Table) -> _Answers:
        mapped = self._columns.apply(table)
        self._refuse(mapped.bad)
        bad, answered = dict(mapped.bad), np.ones(len(mapped.good), dtype=bool)
        outputs: list[list[Array]] = []
        latency = 0
        for start in range(0, len(mapped.good), self._call_rows):
            stop = min(start + self._call_rows, len(mapped.good))
            latency += self._call(mapped.tensors, start, stop, mapped.good, outputs, bad, answered)
            self._say("running", start)
        whole = [np.concatenate(one) for one in zip(*outputs, strict=True)]
        if not outputs:
            whole = [
                np.zeros((0, *(max(size, 0) for size in spec.shape[1:])), spec.dtype)
                for spec in self._signature.outputs
            ]
        inputs = mapped.tensors
        if not answered.all():
            inputs = [tensor[answered] for tensor in inputs]
        return _Answers(mapped.good[answered], inputs, whole, latency, bad)

    def _call(
        self,
        tensors: Sequence[Array],
        start: int,
        stop: int,
        good: NDArray[np.intp],
        outputs: list[list[Array]],
        bad: Bad,
        answered: NDArray[np.bool_],
    ) -> int:
        """Ask for rows start to stop; where the model raises, for halves of them, down to the rows
        that it can't take. Returns nanoseconds."""
        part = [tensor[start:stop] for tensor in tensors]
        try:
            found = self._ask(part, stop - start, int(good[start]))
        except ModelRaised as error:
            if stop - start > 1:
                middle = (start + stop) // 2
                return sum(
                    self._call(tensors, *ends, good, outputs, bad, answered)
                    for ends in ((start, middle), (middle, stop))
                )
            place = int(good[start])
            bad[place] = str(error)
            answered[start] = False
            self._refuse({place: str(error)})
            return 0
        outputs.append(found.outputs)
        return found.latency_ns

    def _ask(self, part: Sequence[Array], rows: int, place: int) -> Predicted:
        """Ask; a process that died gets a second chance."""
        try:
            return self._model.predict(part, rows)
        except ModelDied:
            self._model.start()
        try:
            return self._model.predict(part, rows)
        except ModelDied as error:
            first = self._manifest.input_rows + place + 1
            raise InvalidInput(
                f"The model took its process down twice ({error}) in a call of {rows} rows"
                f" that begins with row {first}.",
            ) from error

    def _refuse(self, bad: Bad) -> None:
        """Raises `InvalidInput` for the first bad row unless such rows are skipped."""
        if bad and self._order.wish.on_error == "fail":
            place = min(bad)
            raise InvalidInput(
                f"Row {self._manifest.input_rows + place + 1}: {bad[place]}.",
                hint="With --on-error skip such rows go to _rejected and the others are scored.",
            )

    def _pause_if_ahead(self) -> None:
        """Wait for the collector if it has too much of ours to read."""
        while len(self._log.segments()) > MAX_SEGMENTS:
            self._say("waiting")
            time.sleep(_WAIT_SECONDS)

    def _say(self, state: str, begun: int = 0) -> Progress:
        now = _progress(
            state,
            self._manifest,
            self._source,
            self._resumed,
            time.monotonic() - self._begun,
            begun,
        )
        self._tell(now)
        return now


def _progress(
    state: str, manifest: Manifest, source: Source, resumed: int, seconds: float, begun: int = 0
) -> Progress:
    done = manifest.input_rows - resumed + begun
    complete = manifest.complete or state == "succeeded"
    return msgspec.convert(
        {
            "state": state,
            "rows": manifest.rows + begun,
            "rejected": manifest.rejected,
            "total": manifest.input_rows if complete else source.total(done + resumed),
            "chunks": manifest.chunks,
            "resumed_rows": resumed,
            "seconds": seconds,
            "rows_per_second": done / seconds if seconds > 0 else 0.0,
        },
        Progress,
    )
