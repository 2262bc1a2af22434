"""From a bundle on disk to a model that has proven itself: verify, load, warm up, measure."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import msgspec
import numpy as np

from modelfleet_worker import runtimes
from modelfleet_worker.runtimes.base import Conformer, LoadError, Runtime
from modelfleet_worker.wire import bundle
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.signature import Array, TensorSpec
from modelfleet_worker.wire.spec import BundleSpec, read_example, read_spec

_TRIALS = 30
_TRIAL_SECONDS = 0.05


class Loaded(msgspec.Struct, frozen=True):
    """A warm model. load_s: verify to warm; row_s: median time of one row."""

    spec: BundleSpec
    runtime: Runtime
    conformer: Conformer
    load_s: float
    row_s: float


def load(version: VersionSpec) -> Loaded:
    """Load one version. BundleCorrupt, LoadError, or whatever the model itself raises."""
    started = time.monotonic()
    folder = Path(version.path)
    bundle.verify(folder, version.digest)
    spec = read_spec(folder)
    runtime = runtimes.load(folder, spec)
    conformer = Conformer(spec.signature)
    row_s = _warm_up(folder, spec, runtime, conformer)
    return Loaded(spec, runtime, conformer, time.monotonic() - started, row_s)


def _warm_up(folder: Path, spec: BundleSpec, runtime: Runtime, conformer: Conformer) -> float:
    """Answer the example; the median seconds of one row. LoadError if the answer is no good."""
    inputs, golden = read_example(folder).arrays(spec.signature)
    rows = {len(array) for array in inputs.values()}
    if len(rows) != 1 or 0 in rows:
        raise LoadError(f"example.json: its inputs have {sorted(rows)} rows")
    count = rows.pop()
    outputs = conformer.apply(runtime.predict(inputs), count)
    for output, array in zip(spec.signature.outputs, outputs):
        _compare(output, array, golden[output.name])
    one = {name: np.ascontiguousarray(array[:1]) for name, array in inputs.items()}
    return _median_time(runtime, conformer, one)


def _compare(output: TensorSpec, array: Array, golden: Array) -> None:
    """Same shape as the golden output, and finite wherever that is."""
    if array.shape != golden.shape:
        raise LoadError(
            f"its example gave {output.name!r} the shape {list(array.shape)}, "
            f"not {list(golden.shape)}"
        )
    if array.dtype.kind == "f":
        lost = np.isfinite(golden) & ~np.isfinite(array)
        if lost.any():
            raise LoadError(f"its example gave {output.name!r} {int(lost.sum())} values of NaN")


def _median_time(runtime: Runtime, conformer: Conformer, one: dict[str, Array]) -> float:
    times: list[float] = []
    end = time.perf_counter() + _TRIAL_SECONDS
    while not times or (len(times) < _TRIALS and time.perf_counter() < end):
        start = time.perf_counter()
        conformer.apply(runtime.predict(one), 1)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
