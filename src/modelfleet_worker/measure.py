"""`python -m modelfleet_worker.measure VERSION MEMORY_MB`: seconds of one call, by its rows.

VERSION is a `VersionSpec` in JSON. Runs as `batch` does; answers one line of JSON, a `Measured`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import msgspec
import numpy as np

from modelfleet_worker import log
from modelfleet_worker.batch import end_with, limit_memory, own_stdout
from modelfleet_worker.loading import Loaded, load
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.spec import read_example

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ROUNDS = 5
_CALL_SECONDS = 0.04
"""of each size in each round"""
_MIN_CALLS = 3
_BUDGET_SECONDS = 15.0


class Point(msgspec.Struct, frozen=True):
    """Seconds of one call of `rows` rows."""

    rows: int
    median_s: float
    p95_s: float
    calls: int


class Measured(msgspec.Struct, frozen=True):
    """runtime: that of the bundle; batchable: may several requests share a call?"""

    points: tuple[Point, ...] = ()
    runtime: str = ""
    batchable: bool = False
    error: str = ""


def measure(version: VersionSpec, loaded: Loaded) -> Measured:
    """Time calls of 1, 2, 4, ... 256 rows of the example, in rounds, so that noise of the machine
    meets all sizes. A model that is slow is asked less often, and for fewer rows."""
    signature = loaded.spec.signature
    batchable = all(one.shape[0] == -1 for one in (*signature.inputs, *signature.outputs))
    inputs, _ = read_example(Path(version.path)).arrays(signature)
    sizes = SIZES if batchable else (1,)
    tables = {
        k: {name: np.resize(array, (k, *array.shape[1:])) for name, array in inputs.items()}
        for k in sizes
    }
    times: dict[int, list[float]] = {k: [] for k in sizes}
    end = time.monotonic() + _BUDGET_SECONDS
    for _ in range(_ROUNDS):
        for k in sizes:
            spent = 0.0
            while time.monotonic() < end and (spent < _CALL_SECONDS or len(times[k]) < _MIN_CALLS):
                begun = time.perf_counter()
                loaded.conformer.apply(loaded.runtime.predict(tables[k]), k)
                times[k].append(time.perf_counter() - begun)
                spent += times[k][-1]
    points = [
        Point(k, statistics.median(found), float(np.quantile(found, 0.95)), len(found))
        for k, found in times.items()
        if found
    ]
    return Measured(tuple(points), loaded.spec.runtime, batchable)


def main() -> None:
    end_with(os.getppid())
    told = own_stdout()
    warnings.simplefilter("ignore")
    version = msgspec.json.decode(sys.argv[1], type=VersionSpec)
    limit_memory(int(sys.argv[2]))
    try:
        found = measure(version, load(version))
    except BaseException as error:  # noqa: BLE001  # whatever a model raises
        found = Measured(error=log.describe(error))
    told.write(msgspec.json.encode(found) + b"\n")
    told.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
