"""The life of a worker process: start, follow the desired file, drain, end.

It does not end with its parent: a restarted host agent adopts it by its control block.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Optional, Union

import msgspec

from modelfleet_worker import log
from modelfleet_worker.exchange import Books
from modelfleet_worker.http import Connection
from modelfleet_worker.residency import Residency
from modelfleet_worker.server import MAX_BODY, ModelServer
from modelfleet_worker.tls import TlsFiles, TlsListener, host_and_port
from modelfleet_worker.wire import desired
from modelfleet_worker.wire.control import ControlBlock, State
from modelfleet_worker.wire.segment import SegmentWriter

POLL_SECONDS = 0.05
TICK_SECONDS = 0.25
DRAIN_SECONDS = 10.0
IDLE_GRACE_SECONDS = 0.5
TAKEOVER_SECONDS = 5.0
# A thread that loads or predicts gives the interpreter back after this at the latest.
SWITCH_SECONDS = 0.0005
_BACKLOG = 1024


class Arguments(msgspec.Struct, frozen=True):
    """What the agent says on the command line."""

    home: Path
    pool: str
    replica: int
    socket: Path
    control: Path
    incarnation: int
    segment_mb: int = 64
    max_body: int = MAX_BODY
    tcp: Optional[str] = None
    tls: Optional[str] = None
    """HOST:PORT at which the gateway of another host reaches us"""
    tls_cert: Optional[Path] = None
    tls_key: Optional[Path] = None
    tls_ca: Optional[Path] = None

    @property
    def tls_files(self) -> Optional[TlsFiles]:
        """None without TLS. ValueError if it is told by halves."""
        given = (self.tls, self.tls_cert, self.tls_key, self.tls_ca)
        if not any(given):
            return None
        if not (self.tls and self.tls_cert and self.tls_key and self.tls_ca):
            raise ValueError("--tls, --tls-cert, --tls-key and --tls-ca belong together")
        host_and_port(self.tls)
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)


class Worker:
    """One process of a pool."""

    def __init__(self, arguments: Arguments, loop: asyncio.AbstractEventLoop) -> None:
        self._arguments = arguments
        self._loop = loop
        self._control = _take_over(arguments)
        self._control.watch_for_crashes()
        self._segments = SegmentWriter(
            arguments.home / "segments",
            arguments.pool,
            arguments.replica,
            arguments.incarnation,
            arguments.segment_mb,
            self._control,
        )
        self._books = Books(arguments.pool, self._control, self._segments)
        self._desired = arguments.home / "run" / "desired" / f"{arguments.pool}.json"
        self._residency = Residency(self._desired, self._control, loop, self._acknowledged)
        self._server = ModelServer(self._residency, self._books, arguments.max_body)
        self._listeners: list[Union[asyncio.AbstractServer, TlsListener]] = []
        self._first = asyncio.Event()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM, then drain. What goes wrong is told in the control block, too."""
        try:
            await self._run()
        except BaseException as error:
            self._control.set_error(log.describe(error))
            self._control.set_state(State.FAILED)
            raise

    async def _run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        _limit(self._desired, self._arguments.replica)
        self._tick()
        self._poll()
        stopped = asyncio.ensure_future(self._stop.wait())
        warm = asyncio.ensure_future(self._first.wait())
        await asyncio.wait({stopped, warm}, return_when=asyncio.FIRST_COMPLETED)
        if not self._stop.is_set():
            await self._open()
            await stopped
        warm.cancel()
        await self._drain()

    async def _open(self) -> None:
        """Listen and say so. Nobody can connect before the first revision is warm."""
        gc.collect()
        gc.freeze()
        listener = unix_socket(self._arguments.socket)
        self._listeners.append(
            await self._loop.create_unix_server(self._connection, sock=listener, backlog=_BACKLOG)
        )
        if self._arguments.tcp is not None:
            host, _, port = self._arguments.tcp.rpartition(":")
            self._listeners.append(
                await self._loop.create_server(self._connection, host, int(port), backlog=_BACKLOG)
            )
        files = self._arguments.tls_files
        if files is not None and self._arguments.tls is not None:
            secure = TlsListener(self._server, self._arguments.tls, files)
            await secure.open()
            self._listeners.append(secure)
        self._server.ready = True
        self._control.set_state(State.READY)
        _say("ready")

    def _connection(self) -> Connection:
        return Connection(self._server)

    def _acknowledged(self) -> None:
        self._first.set()

    def _tick(self) -> None:
        self._control.heartbeat()
        self._control.set_running(self._books.running)
        self._server.sweep(time.monotonic())
        self._control.tell_loads(self._residency.loads())
        self._loop.call_later(TICK_SECONDS, self._tick)

    def _poll(self) -> None:
        if not self._stop.is_set():
            self._residency.poll()
            self._loop.call_later(POLL_SECONDS, self._poll)

    async def _drain(self) -> None:
        """Answer what is in, close what is idle, end when nobody is left."""
        self._control.set_state(State.DRAINING)
        self._server.draining = True
        for listener in self._listeners:
            listener.close()
        begun = time.monotonic()
        connections = self._server.connections
        log.event("info", "draining", connections=len(connections), running=self._books.running)
        while connections and time.monotonic() - begun < DRAIN_SECONDS:
            if time.monotonic() - begun > IDLE_GRACE_SECONDS:
                for connection in [c for c in connections if c.idle]:
                    connection.close()
            await asyncio.sleep(0.02)
        self._control.set_running(self._books.running)
        self._segments.close()
        log.event("info", "ended", connections=len(connections), running=self._books.running)


def main(arguments: Arguments) -> None:
    """Run a worker; returns never: a hung model thread must not hold up the end."""
    sys.setswitchinterval(SWITCH_SECONDS)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # frameworks warn at every load and many a predict
    loop = new_loop()
    asyncio.set_event_loop(loop)
    code = 0
    try:
        loop.run_until_complete(Worker(arguments, loop).run())
    except BaseException as error:  # noqa: BLE001  # it ends in the log and the exit code
        log.failure("the worker failed", error)
        code = 1
    os._exit(code)


def new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _take_over(arguments: Arguments) -> ControlBlock:
    """Own the control block. An earlier process of this replica may need a moment to be gone."""
    try:
        control = ControlBlock.open(arguments.control, writable=True)
    except FileNotFoundError:
        control = ControlBlock.create(arguments.control)
    end = time.monotonic() + TAKEOVER_SECONDS
    while True:
        try:
            control.begin(arguments.incarnation)
            return control
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def _limit(path: Path, replica: int) -> None:
    """Memory and cores from the pool: a model that eats memory gets a MemoryError, not the machine.
    Replicas begin at different cores."""
    try:
        pool = desired.load(path)
    except (OSError, msgspec.DecodeError):
        return  # the first revision has not come yet; the agent watches the resident size, too
    cores = sorted(os.sched_getaffinity(0))
    if 0 < pool.cpus < len(cores):
        first = (zlib.crc32(pool.pool.encode()) + replica * pool.cpus) % len(cores)
        os.sched_setaffinity(0, (cores + cores)[first : first + pool.cpus])
    limit = pool.memory_mb << 20
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def unix_socket(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.bind(str(path))
    return listener


def _say(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201
    except OSError:
        log.event("warning", "nobody reads our output any more")
