"""Source and compiled side by side: the same rows in the dtype of production, then the clock.

Tolerance: |a - b| <= 1e-4 * scale + 1e-3 * |a|, where scale is 1 for probabilities and the
largest |a| for regressions; no label may flip; what is finite on one side is on the other. The
same holds for `probes` of models that take tables.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Optional

import msgspec
import numpy as np

from modelfleet_worker.compile.probes import probes
from modelfleet_worker.runtimes.base import Conformer, Runtime
from modelfleet_worker.wire.signature import Array, Signature
from modelfleet_worker.wire.spec import BundleSpec

MAX_ROWS = 256
BATCH = 64
RTOL, ATOL = 1e-3, 1e-4
_TRIALS = 90
_TURN = 10
_TRIAL_SECONDS = 0.25


class Parity(msgspec.Struct, frozen=True):
    """label_flips: rows whose label differs; max_abs_diff: over all floating outputs.

    probed: rows beyond the example that were compared, too. where: what is unusual about those
    that differ, whose figures these are then; empty if the example itself does or nothing.
    """

    rows: int
    max_abs_diff: float
    label_flips: int
    passed: bool
    probed: int = 0
    where: str = ""


class Speed(msgspec.Struct, frozen=True):
    """Median microseconds of one call with 1 and with 64 rows."""

    source_1_us: float
    compiled_1_us: float
    source_64_us: float
    compiled_64_us: float


class SourceSpeed(msgspec.Struct, frozen=True):
    """The same of the source alone."""

    source_1_us: float
    source_64_us: float


class Side:
    """One variant of a model, ready to be asked."""

    def __init__(self, spec: BundleSpec, runtime: Runtime) -> None:
        self._runtime = runtime
        self._conformer = Conformer(spec.signature)

    def answer(self, inputs: dict[str, Array]) -> list[Array]:
        rows = len(next(iter(inputs.values())))
        return self._conformer.apply(self._runtime.predict(inputs), rows)


def parity(
    signature: Signature,
    source: Side,
    compiled: Side,
    inputs: dict[str, Array],
    ties: bool = False,
) -> Parity:
    """Ask both with up to 256 rows. ties: labels of equal probability may flip."""
    inputs = {name: array[:MAX_ROWS] for name, array in inputs.items()}
    flips, worst, passed = 0, 0.0, True
    rows = 0
    own = source.answer(inputs)
    even = _even(signature, own) if ties else None
    for spec, mine, other in zip(signature.outputs, own, compiled.answer(inputs)):
        rows = len(mine)
        if mine.dtype.kind != "f":
            flipped = (mine != other).reshape(rows, -1).any(axis=1)
            flips += int((flipped if even is None else flipped & ~even).sum())
            continue
        finite = np.isfinite(mine)
        passed = passed and bool((finite == np.isfinite(other)).all())
        both = finite & np.isfinite(other)
        difference = np.abs(mine[both] - other[both])
        scale = 1.0 if spec.name == "probability" else float(np.abs(mine[both]).max(initial=0.0))
        passed = passed and bool((difference <= ATOL * scale + RTOL * np.abs(mine[both])).all())
        worst = max(worst, float(difference.max(initial=0.0)))
    return Parity(rows, worst, flips, passed and flips == 0 and rows > 0)


def _even(signature: Signature, outputs: Sequence[Array]) -> Optional[Array]:
    """Rows whose two most probable classes are equally so."""
    for spec, array in zip(signature.outputs, outputs):
        if spec.name == "probability" and array.ndim == 2 and array.shape[1] > 1:
            ordered = np.sort(array, axis=1)
            found: Array = ordered[:, -1] - ordered[:, -2] <= ATOL
            return found
    return None


def probed(
    signature: Signature,
    source: Side,
    compiled: Side,
    inputs: dict[str, Array],
    proof: Parity,
    missing: bool,
) -> Parity:
    """`proof`, or the first probe that refutes it. missing: the model takes missing values."""
    count = 0
    for where, rows in probes(inputs, missing):
        try:
            source.answer(rows)
        except Exception:  # noqa: BLE001  # the model refuses them: then both must
            if _refuses(compiled, rows):
                continue
            return Parity(len(next(iter(rows.values()))), 0.0, 0, False, count, where)
        if _refuses(compiled, rows):
            return Parity(len(next(iter(rows.values()))), 0.0, 0, False, count, where)
        found = parity(signature, source, compiled, rows, ties=True)
        count += found.rows
        if not found.passed:
            return msgspec.structs.replace(found, probed=count, where=where)
    return msgspec.structs.replace(proof, probed=count)


def _refuses(side: Side, rows: dict[str, Array]) -> bool:
    try:
        side.answer(rows)
    except Exception:  # noqa: BLE001  # whatever it raises, it gives no answer
        return True
    return False


def speed(source: Side, compiled: Side, inputs: dict[str, Array]) -> Speed:
    """Time both in turns, so that noise of the machine meets both."""
    one, batch = _rows(inputs, 1), _rows(inputs, BATCH)
    source_1, compiled_1 = _race([lambda: source.answer(one), lambda: compiled.answer(one)])
    source_64, compiled_64 = _race([lambda: source.answer(batch), lambda: compiled.answer(batch)])
    return Speed(source_1, compiled_1, source_64, compiled_64)


def source_speed(source: Side, inputs: dict[str, Array]) -> SourceSpeed:
    """Time the source alone."""
    one, batch = _rows(inputs, 1), _rows(inputs, BATCH)
    single, many = _race([lambda: source.answer(one)]), _race([lambda: source.answer(batch)])
    return SourceSpeed(single[0], many[0])


def _rows(inputs: dict[str, Array], count: int) -> dict[str, Array]:
    """`count` rows, the example repeated if it has fewer."""
    return {name: np.resize(array, (count, *array.shape[1:])) for name, array in inputs.items()}


def _race(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Median microseconds of each. In turns of ten calls, the first of which only fills caches."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + _TRIAL_SECONDS
    while not times[-1] or (len(times[-1]) < _TRIALS and time.perf_counter() < end):
        for call, taken in zip(calls, times):
            call()
            for _ in range(_TURN - 1):
                start = time.perf_counter()
                call()
                taken.append(time.perf_counter() - start)
    return [round(statistics.median(taken) * 1e6, 2) for taken in times]
