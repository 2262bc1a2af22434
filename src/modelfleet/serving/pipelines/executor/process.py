"""The life of an executor: start, follow `pipelines.json`, count, drain, end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from pathlib import Path

import msgspec

from modelfleet.core.layout import Layout
from modelfleet.serving.pipelines.counters import Counted
from modelfleet.serving.pipelines.executor.calls import CallFailed, Gateway
from modelfleet.serving.pipelines.executor.server import PipelineServer
from modelfleet.serving.pipelines.plan import POOL, Published, load
from modelfleet_worker import log
from modelfleet_worker.exchange import Books
from modelfleet_worker.http import Connection
from modelfleet_worker.process import (
    DRAIN_SECONDS,
    IDLE_GRACE_SECONDS,
    TICK_SECONDS,
    new_loop,
    unix_socket,
)
from modelfleet_worker.wire.control import ControlBlock, State
from modelfleet_worker.wire.segment import SegmentWriter

_POLL_SECONDS = 0.1
_COUNT_SECONDS = 1.0
_BACKLOG = 1024


class Arguments(msgspec.Struct, frozen=True):
    home: Path
    replica: int
    segment_mb: int
    max_body: int
    incarnation: int


class Key:
    """The platform's key for calls of models; the control plane replaces the file in time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = -1
        self._text = b""

    def refresh(self) -> None:
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._seen:
                self._text = self._path.read_bytes().strip()
                self._seen = changed
        except FileNotFoundError:
            return

    def __call__(self) -> bytes:
        if not self._text:
            self.refresh()
        if not self._text:
            raise CallFailed("the platform's key for pipelines is not there yet")
        return self._text


class Executor:
    def __init__(self, arguments: Arguments, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._layout = layout = Layout(arguments.home)
        self._replica = arguments.replica
        # A new block, never the one of a dead predecessor: readers know it as dead for good.
        self._control = ControlBlock.create(layout.control_block(POOL, arguments.replica))
        self._control.begin(arguments.incarnation)
        segments = SegmentWriter(
            layout.segments,
            POOL,
            arguments.replica,
            arguments.incarnation,
            arguments.segment_mb,
            self._control,
        )
        self._books = Books(POOL, self._control, segments)
        self._key = Key(layout.pipelines_key)
        self._gateway = Gateway(layout.gateway_socket, self._key)
        self._server = PipelineServer(self._gateway, self._books, arguments.max_body)
        self._held = Published(-1)
        self._seen: tuple[int, int] | None = None
        self._written = b""
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM, then drain."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._follow()
        listener = await self._loop.create_unix_server(
            lambda: Connection(self._server),
            sock=unix_socket(self._layout.worker_socket(POOL, self._replica)),
            backlog=_BACKLOG,
        )
        gc.collect()
        gc.freeze()
        self._server.ready = True
        self._control.set_state(State.READY)
        self._tick()
        self._poll()
        self._count()
        await self._stop.wait()
        await self._drain(listener)

    def _tick(self) -> None:
        self._control.heartbeat()
        self._control.set_running(self._books.running)
        self._server.sweep(time.monotonic())
        self._loop.call_later(TICK_SECONDS, self._tick)

    def _poll(self) -> None:
        if not self._stop.is_set():
            self._key.refresh()
            self._follow()
            self._loop.call_later(_POLL_SECONDS, self._poll)

    def _follow(self) -> None:
        """Hold what the file says and acknowledge it. One that can't be read changes nothing."""
        try:
            status = self._layout.pipelines.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen == self._seen:
                return
            self._seen = seen
            published = load(self._layout)
        except FileNotFoundError:
            published = Published()
        except msgspec.DecodeError as error:
            log.failure("pipelines.json can't be read", error)
            self._control.set_error(log.describe(error))
            return
        if published != self._held:
            self._server.hold(published)
            self._held = published
            self._control.acknowledge(published.revision)

    def _count(self) -> None:
        """Write the counters for the control plane, if they changed. Losing them loses a page."""
        now = time.monotonic()
        for runner in self._server.runners.values():
            runner.count_states(now)
        counted = Counted({n: r.counters for n, r in self._server.runners.items()})
        content = msgspec.json.encode(counted)
        if content != self._written:
            path = self._layout.pipeline_counters(self._replica)
            temporary = path.with_suffix(".new")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(content)
                temporary.replace(path)
                self._written = content
            except OSError as error:
                log.failure("the counters can't be written", error)
        self._loop.call_later(_COUNT_SECONDS, self._count)

    async def _drain(self, listener: asyncio.AbstractServer) -> None:
        """Answer what is in, close what is idle, end when nobody is left."""
        self._control.set_state(State.DRAINING)
        self._server.draining = True
        listener.close()
        begun = time.monotonic()
        connections = self._server.connections
        while connections and time.monotonic() - begun < DRAIN_SECONDS:
            if time.monotonic() - begun > IDLE_GRACE_SECONDS:
                for connection in [c for c in connections if c.idle]:
                    connection.close()
            await asyncio.sleep(0.02)
        self._gateway.close()
        self._books.segments.close()


def main(arguments: Arguments) -> None:
    """Run an executor; never returns."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    loop = new_loop()
    asyncio.set_event_loop(loop)
    code = 0
    try:
        loop.run_until_complete(Executor(arguments, loop).run())
    except BaseException as error:  # noqa: BLE001  # it ends in the log and the exit code
        log.failure("the executor failed", error)
        code = 1
    os._exit(code)
