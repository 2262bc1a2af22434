"""A warm version: decode, run where it should run, encode.

Models under 100 us a row run on the event loop, others in a lane of their own, unless the version
was tuned (see `VersionSpec`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Optional

from modelfleet_worker import log
from modelfleet_worker.eviction import Entry
from modelfleet_worker.invocations import Invocations
from modelfleet_worker.lane import BATCH_ROWS, Lane
from modelfleet_worker.loading import Loaded
from modelfleet_worker.oip import AnswerEncoder, RequestDecoder
from modelfleet_worker.runtimes.base import WHOLE, ModelFault, Own, Refused, answer, habits
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.signature import Array

INLINE_SECONDS = 100e-6
INLINE_ROWS = 64
SLOW_NS = 1_000_000
MAX_STRIKES = 50


class Resident:
    """Arbitrary Python (`runtime: python`) has a lane unless somebody says otherwise: nobody knows
    what it waits for."""

    def __init__(
        self,
        version: VersionSpec,
        loaded: Loaded,
        loop: asyncio.AbstractEventLoop,
        entry: Entry,
    ) -> None:
        """entry: its place in the worker's budget."""
        self.loaded = loaded
        self.used = entry.use
        self.signature = loaded.spec.signature
        refuses, whole = loaded.spec.refuse_missing, loaded.spec.options.get("batch") == WHOLE
        known = habits(loaded.runtime)
        self.decoder = RequestDecoder(self.signature, refuses, whole, known.parameters)
        self.invocations = Invocations(self.signature, refuses, known, whole)
        self._names = [spec.name for spec in self.signature.inputs]
        self._strikes = 0
        self._slow = False
        self.throttle = log.Throttle()
        batchable = all(
            spec.shape[0] == -1 for spec in (*self.signature.inputs, *self.signature.outputs)
        )
        self.lane = Lane(loop, version.model, self.execute, batchable, loaded.row_s)
        self.describe_as(version)

    def describe_as(self, version: VersionSpec) -> None:
        """Take over what can change without loading again."""
        self.version = version
        own = self.loaded.row_s < INLINE_SECONDS and self.loaded.spec.runtime != "python"
        wanted = own if version.inline is None else version.inline
        self.inline = wanted and not self._slow
        self.lane.batch_rows = version.batch_rows or BATCH_ROWS
        self.encoder = AnswerEncoder(self.signature, version.version)
        self.version_header = b"\r\nx-mf-model-version: " + version.version.encode()

    def is_of(self, version: VersionSpec) -> bool:
        """Is this what `version` asks for, but for what `describe_as` takes over?"""
        mine = self.version
        return (mine.digest, mine.variant) == (version.digest, version.variant)

    def execute(self, inputs: Sequence[Array], rows: int, own: Optional[Own] = None) -> list[Array]:
        """Run the model; outputs in signature order. Raises whatever the model raises. own: what
        the request asks for itself alone."""
        named = dict(zip(self._names, inputs))
        if own is not None:
            return self._execute_as(own, named, rows)
        outputs = self.loaded.runtime.predict(named)
        return self.loaded.conformer.apply(outputs, rows)

    def _execute_as(self, own: Own, named: dict[str, Array], rows: int) -> list[Array]:
        outputs = answer(self.loaded.runtime, named, own)
        try:
            return self.loaded.conformer.apply(outputs, rows)
        except (ModelFault, ValueError) as error:
            if own.params is None:
                raise
            raise Refused(f"with these parameters its answer has another form: {error}") from error

    def runs_inline(self, rows: int) -> bool:
        """May this request run on the event loop? Never while the lane runs the same model."""
        return self.inline and rows <= INLINE_ROWS and not self.lane.busy

    def took(self, nanoseconds: int) -> None:
        """Note the time of an inline run; a model that became slow moves to its lane for good.

        Slow runs must outnumber the others by far: one long pause of the machine proves nothing.
        """
        if nanoseconds < SLOW_NS:
            if self._strikes:
                self._strikes -= 1
            return
        self._strikes += 1
        if self._strikes > MAX_STRIKES:
            self.inline, self._slow = False, True
            log.event(
                "warning",
                "too slow for the event loop, runs in its own thread now",
                model=self.version.model,
                last_us=nanoseconds // 1000,
            )
