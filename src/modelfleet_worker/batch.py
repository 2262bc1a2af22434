"""`python -m modelfleet_worker.batch VERSION MEMORY_MB`: the model process of a batch.

VERSION is a `VersionSpec` in JSON. It loads the version as a worker does, says `Hello` on stdout,
and answers each `Ask` on stdin until stdin ends. It opens no socket and writes no file.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
import warnings
from typing import IO

import msgspec
import numpy as np

from modelfleet_worker import log
from modelfleet_worker.loading import Loaded, load
from modelfleet_worker.wire import frames
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.tensors import pack, unpack

_PR_SET_PDEATHSIG = 1


def serve(loaded: Loaded, asked: IO[bytes], told: IO[bytes]) -> None:
    """Answer until nobody asks any more."""
    while True:
        try:
            ask, tail = frames.read(asked, frames.Ask)
        except EOFError:
            return
        begun = time.perf_counter_ns()
        try:
            parts = _predict(loaded, ask, tail)
        except BaseException as error:  # noqa: BLE001  # a model may raise SystemExit, too
            latency = time.perf_counter_ns() - begun
            frames.write(told, frames.Told(latency, error=log.describe(error)))
            continue
        latency = time.perf_counter_ns() - begun
        frames.write(told, frames.Told(latency, tuple(map(len, parts))), parts)


def _predict(loaded: Loaded, ask: frames.Ask, tail: bytes) -> list[bytes]:
    specs = loaded.spec.signature.inputs
    raws = frames.split(tail, ask.sizes)
    # Models may write into their inputs: unpacked tensors are views of read-only bytes.
    inputs = {spec.name: np.array(unpack(spec, raw, ask.rows)) for spec, raw in zip(specs, raws)}
    outputs = loaded.conformer.apply(loaded.runtime.predict(inputs), ask.rows)
    return [pack(output) for output in outputs]


def own_stdout() -> IO[bytes]:
    """Stdout for frames alone: whatever a model prints goes to stderr from now on."""
    mine = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return mine


def limit_memory(megabytes: int) -> None:
    """Allocations beyond it raise MemoryError in the model instead of starving the machine."""
    if megabytes:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        wanted = megabytes << 20
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def end_with(parent: int) -> None:
    """Be killed when the thread that started us ends; at once if it has ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    end_with(os.getppid())
    told = own_stdout()
    warnings.simplefilter("ignore")
    version = msgspec.json.decode(sys.argv[1], type=VersionSpec)
    limit_memory(int(sys.argv[2]))
    try:
        loaded = load(version)
    except BaseException as error:  # noqa: BLE001  # whatever a model raises while it loads
        frames.write(told, frames.Hello(error=log.describe(error)))
        os._exit(1)
    frames.write(told, frames.Hello(loaded.load_s))
    serve(loaded, sys.stdin.buffer, told)
    os._exit(0)  # threads of frameworks must not hold up the end


if __name__ == "__main__":
    main()
