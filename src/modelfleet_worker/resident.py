"""The models that a worker holds, and how it follows what its pool should hold.

`Residency` polls the desired file. New versions are loaded one at a time in a thread; each serves
as soon as it is warm, without waiting for the others. When all of a revision are in (or have
failed, each with its reason), the revision is acknowledged in the control block. Removed versions
answer for a little while longer, for requests that were on their way, and then go.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional, Union

import msgspec

from modelfleet_worker import loading, log
from modelfleet_worker.invocations import Invocations
from modelfleet_worker.lane import Lane
from modelfleet_worker.loading import Loaded
from modelfleet_worker.oip import AnswerEncoder, RequestDecoder
from modelfleet_worker.wire import desired
from modelfleet_worker.wire.control import ControlBlock
from modelfleet_worker.wire.desired import PoolSpec, VersionSpec
from modelfleet_worker.wire.signature import Array

INLINE_SECONDS = 100e-6
INLINE_ROWS = 64
SLOW_SECONDS = 1e-3
MAX_STRIKES = 50
LINGER_SECONDS = 2.0


class Resident:
    """A warm version. Models under 100 us a row run on the event loop, others in their lane.

    Arbitrary Python (`runtime: python`) always has a lane: nobody knows what it waits for.
    """

    def __init__(
        self, version: VersionSpec, loaded: Loaded, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.loaded = loaded
        self.signature = loaded.spec.signature
        self.decoder = RequestDecoder(self.signature, loaded.spec.refuse_missing)
        self.invocations = Invocations(self.signature, loaded.spec.refuse_missing)
        self.inline = loaded.row_s < INLINE_SECONDS and loaded.spec.runtime != "python"
        self._names = [spec.name for spec in self.signature.inputs]
        self._strikes = 0
        self.throttle = log.Throttle()
        batchable = all(
            spec.shape[0] == -1 for spec in (*self.signature.inputs, *self.signature.outputs)
        )
        self.lane = Lane(loop, version.model, self.execute, batchable, loaded.row_s)
        self.describe_as(version)

    def describe_as(self, version: VersionSpec) -> None:
        """Take over what can change without loading again."""
        self.version = version
        self.encoder = AnswerEncoder(self.signature, version.version)
        self.version_header = b"\r\nx-mf-model-version: " + version.version.encode()

    def is_of(self, version: VersionSpec) -> bool:
        """Is this what `version` asks for, but for what `describe_as` takes over?"""
        mine = self.version
        return (mine.digest, mine.variant) == (version.digest, version.variant)

    def execute(self, inputs: Sequence[Array], rows: int) -> list[Array]:
        """Run the model; outputs in signature order. Raises whatever the model raises."""
        outputs = self.loaded.runtime.predict(dict(zip(self._names, inputs)))
        return self.loaded.conformer.apply(outputs, rows)

    def runs_inline(self, rows: int) -> bool:
        """May this request run on the event loop? Never while the lane runs the same model."""
        return self.inline and rows <= INLINE_ROWS and not self.lane.busy

    def took(self, seconds: float) -> None:
        """Note the time of an inline run; a model that became slow moves to its lane for good.

        Slow runs must outnumber the others by far: one long pause of the machine proves nothing.
        """
        if seconds < SLOW_SECONDS:
            if self._strikes:
                self._strikes -= 1
            return
        self._strikes += 1
        if self._strikes > MAX_STRIKES:
            self.inline = False
            log.event(
                "warning",
                "too slow for the event loop, runs in its own thread now",
                model=self.version.model,
                last_us=round(seconds * 1e6),
            )


class Residency:
    """acknowledged: called after each acknowledged revision."""

    def __init__(
        self,
        path: Path,
        control: ControlBlock,
        loop: asyncio.AbstractEventLoop,
        acknowledged: Callable[[], None],
    ) -> None:
        self.table: dict[int, Resident] = {}
        self._path = path
        self._control = control
        self._loop = loop
        self._acknowledged = acknowledged
        self._seen: Optional[tuple[int, int, int]] = None
        self._target: Optional[PoolSpec] = None
        self._settled = True
        self._loading: Optional[VersionSpec] = None
        self._failed: dict[int, str] = {}

    def poll(self) -> None:
        """Look for a new desired file: one `stat` if there is none."""
        try:
            status = os.stat(self._path)
            mark = (status.st_mtime_ns, status.st_ino, status.st_size)
            if mark == self._seen:
                return
            self._seen = mark
            target = desired.load(self._path)
        except FileNotFoundError:
            return  # the pool was removed: the agent will stop us
        except (OSError, msgspec.DecodeError) as error:
            self._control.set_error(f"{self._path.name}: {error}")
            log.failure("the desired file can't be read; going on with the last one", error)
            return
        self._target = target
        self._settled = False
        self._failed = {}
        self._advance()

    def by_name(self, model: str, version: Optional[str]) -> Optional[Resident]:
        """The resident of that model: of that semantic version, or the newest one."""
        fitting = [
            resident
            for resident in self.table.values()
            if resident.version.model == model and version in (None, resident.version.version)
        ]
        return max(fitting, key=lambda resident: resident.version.sequence, default=None)

    def _advance(self) -> None:
        """Start the next load, or settle the revision if nothing is left to load."""
        target = self._target
        if target is None or self._loading is not None or self._settled:
            return
        for version in target.versions:
            resident = self.table.get(version.index)
            if resident is not None and resident.is_of(version):
                if resident.version != version:
                    resident.describe_as(version)
            elif version.index not in self._failed:
                self._start(version)
                return
        self._settle(target)

    def _start(self, version: VersionSpec) -> None:
        self._loading = version
        threading.Thread(
            target=self._load, args=(version,), name=f"load {version.model}", daemon=True
        ).start()

    def _load(self, version: VersionSpec) -> None:
        outcome: Union[Loaded, BaseException]
        try:
            outcome = loading.load(version)
        except BaseException as error:  # noqa: BLE001  # whatever it does, the worker goes on
            outcome = error
        try:
            self._loop.call_soon_threadsafe(self._loaded, version, outcome)
        except RuntimeError:
            return  # the loop is closed: the process ends

    def _loaded(self, version: VersionSpec, outcome: Union[Loaded, BaseException]) -> None:
        self._loading = None
        names: dict[str, log.Value] = {
            "model": version.model,
            "version": version.version,
            "index": version.index,
        }
        if isinstance(outcome, Loaded):
            old = self.table.get(version.index)
            resident = Resident(version, outcome, self._loop)
            self.table[version.index] = resident
            if old is not None:
                old.lane.close()
            log.event(
                "info",
                "resident",
                **names,
                variant=version.variant,
                load_ms=round(outcome.load_s * 1e3, 1),
                row_us=round(outcome.row_s * 1e6, 1),
                inline=resident.inline,
            )
        else:
            self._failed[version.index] = f"{version.model} {version.version}: " + log.describe(
                outcome
            )
            self._control.set_error(self._failed[version.index])
            log.failure("a version could not be loaded", outcome, **names)
        self._advance()

    def _settle(self, target: PoolSpec) -> None:
        self._settled = True
        wanted = {version.index for version in target.versions}
        if any(index not in wanted for index in self.table):
            self._loop.call_later(LINGER_SECONDS, self._retire)
        failed = [index for index in self._failed if index in wanted]
        if not failed:
            self._control.set_error("")
        self._control.acknowledge(target.revision, failed)
        log.event("info", "revision", revision=target.revision, failed=len(failed))
        self._acknowledged()

    def _retire(self) -> None:
        """Drop what nobody wants any more; calls that are in still get their answers."""
        wanted = {version.index for version in self._target.versions} if self._target else set()
        for index in [index for index in self.table if index not in wanted]:
            resident = self.table.pop(index)
            resident.lane.close()
            log.event("info", "dropped", model=resident.version.model, index=index)
