"""`python -m modelfleet.telemetry.main --home HOME`: the collector process.

Ends on SIGTERM or SIGINT with everything counted and sealed. Ends with an error if a commit fails:
whoever restarts it gets a collector that goes on from the last commit.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from modelfleet.core.layout import Layout
from modelfleet.core.settings import Settings, load_settings
from modelfleet.telemetry.collector import Collector
from modelfleet.telemetry.metrics import MetricsServer

_log = logging.getLogger("modelfleet.collector")
_NICENESS = 5
"""Counting may wait for a moment, answering may not."""
_GC_THRESHOLDS = 100_000, 50, 50
"""A block of records is many objects that live briefly, and none of them in a cycle."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="modelfleet.telemetry.main")
    parser.add_argument("--home", type=Path, required=True)
    settings = load_settings(parser.parse_args(arguments).home)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s"
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    os.nice(_NICENESS)
    gc.set_threshold(*_GC_THRESHOLDS)
    with _only_one(settings.layout, stop) as mine:
        if mine:
            run(settings, stop)
    return 0


def run(settings: Settings, stop: threading.Event) -> None:
    """Collect until `stop` is set."""
    import pyarrow as pa

    # Arrow's own allocator asks for huge pages: the kernel then looks for them at our cost.
    pa.set_memory_pool(pa.system_memory_pool())
    layout = settings.layout
    collector = Collector(layout, settings.evidence)
    server = MetricsServer(layout, metrics_port(settings))
    _log.info("collecting; metrics on http://127.0.0.1:%d/metrics", server.port)
    try:
        while not stop.is_set():
            stop.wait(collector.cycle())
    finally:
        server.close()
    collector.close()
    _log.info("stopped, everything sealed")


def metrics_port(settings: Settings) -> int:
    """The port that the host agent wrote to ports.json, else that of the settings."""
    try:
        ports = msgspec.json.decode(settings.layout.ports.read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError):
        return settings.metrics_port
    return ports.get("metrics", settings.metrics_port)


@contextmanager
def _only_one(layout: Layout, stop: threading.Event) -> Iterator[bool]:
    """Wait until no other collector of this home runs. False if `stop` came first."""
    layout.run.mkdir(parents=True, exist_ok=True)
    with open(layout.run / "collector.lock", "w") as lock:
        while not stop.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stop.wait(0.1)
                continue
            yield True
            return
        yield False


if __name__ == "__main__":
    raise SystemExit(main())
