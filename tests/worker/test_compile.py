"""Comparing and choosing, and the converter's manners. Real conversions need the converters'
packages and are tested end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelfleet_worker
from modelfleet_worker.compile import converter, graphs, trial
from modelfleet_worker.compile.trial import Parity, Side, Speed
from modelfleet_worker.runtimes.base import Tensors
from modelfleet_worker.wire.signature import Array, infer
from modelfleet_worker.wire.spec import BundleSpec
from modelfleet_worker.wire.vocabulary import RUNTIMES

ROWS = 10
CLASSIFIER = BundleSpec(
    "sklearn",
    "a",
    infer(
        {"x": np.zeros((ROWS, 2))},
        {"label": np.zeros(ROWS, dtype=np.int64), "probability": np.zeros((ROWS, 2))},
    ),
    "predict+predict_proba",
)
REGRESSOR = BundleSpec("sklearn", "a", infer({"x": np.zeros((ROWS, 2))}, {"p": np.zeros(ROWS)}))


class Fixed:
    """A runtime with the same answer for ever."""

    def __init__(self, **outputs: Array) -> None:
        self.outputs = outputs

    def predict(self, inputs: Tensors) -> Tensors:
        rows = len(inputs["x"])
        return {name: np.resize(a, (rows, *a.shape[1:])) for name, a in self.outputs.items()}


def compare(spec: BundleSpec, source: dict[str, Array], compiled: dict[str, Array]) -> Parity:
    sides = [Side(spec, Fixed(**outputs)) for outputs in (source, compiled)]
    return trial.parity(spec.signature, *sides, {"x": np.zeros((ROWS, 2))})


def probability(shift: float) -> Array:
    return np.column_stack([np.full(ROWS, 0.4 - shift), np.full(ROWS, 0.6 + shift)])


@pytest.mark.parametrize(("shift", "passed"), [(1e-7, True), (4e-4, True), (1e-3, False)])
def test_probabilities_have_an_absolute_tolerance(shift: float, passed: bool) -> None:
    label = np.ones(ROWS, dtype=np.int64)
    found = compare(
        CLASSIFIER,
        {"label": label, "probability": probability(0)},
        {"label": label, "probability": probability(shift)},
    )
    assert found.passed == passed
    assert (found.rows, found.label_flips) == (ROWS, 0)
    assert found.max_abs_diff == pytest.approx(shift)


def test_one_flipped_label_fails() -> None:
    label = np.ones(ROWS, dtype=np.int64)
    flipped = np.where(np.arange(ROWS) == 3, 0, label)
    found = compare(
        CLASSIFIER,
        {"label": label, "probability": probability(0)},
        {"label": flipped, "probability": probability(0)},
    )
    assert (found.passed, found.label_flips) == (False, 1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("error", "passed"), [(5e-5, True), (5e-3, False)])
def test_regressions_are_judged_by_their_own_scale(
    scale: float, error: float, passed: bool
) -> None:
    values = np.linspace(-1, 1, ROWS) * scale
    found = compare(REGRESSOR, {"p": values}, {"p": values + error * scale})
    assert found.passed == passed


def test_nan_on_one_side_fails() -> None:
    values = np.arange(ROWS, dtype=np.float64)
    gaps = np.where(values == 4, np.nan, values)
    assert not compare(REGRESSOR, {"p": values}, {"p": gaps}).passed
    assert compare(REGRESSOR, {"p": gaps}, {"p": gaps}).passed


def test_speed_measures_both_batches() -> None:
    side = Side(REGRESSOR, Fixed(p=np.zeros(ROWS)))
    found = trial.speed(side, side, {"x": np.zeros((3, 2))})
    assert min(found.source_1_us, found.compiled_1_us) > 0
    assert min(found.source_64_us, found.compiled_64_us) > 0


@pytest.mark.parametrize(
    ("passed", "source_us", "compiled_us", "chosen"),
    [(True, 100, 10, "compiled"), (True, 10, 100, "source"), (False, 100, 10, "source")],
)
def test_compiled_is_chosen_only_if_equal_and_faster(
    passed: bool, source_us: float, compiled_us: float, chosen: str
) -> None:
    proof = Parity(5, 0.01, 0 if passed else 1, passed)
    found, reason = converter._choose(proof, Speed(source_us, compiled_us, 1, 1))
    assert found == chosen
    assert reason


def test_bools_become_ints_on_the_way_into_attributes() -> None:
    assert graphs._without_bools(True) is not True
    assert graphs._without_bools([True, False, 2]) == [1, 0, 2]
    assert graphs._without_bools("text") == "text"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    source = str(Path(modelfleet_worker.__file__).parents[1])
    started = subprocess.Popen(
        [sys.executable, "-m", "modelfleet_worker.convert"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": source},
    )
    with started:
        yield started
        started.kill()


def test_the_converter_outlives_what_it_cannot_convert(
    process: subprocess.Popen[bytes], bundles: Any, tmp_path: Path
) -> None:
    python, digest = bundles.python("p", lambda inputs: {"y": inputs["x"][:, 0]})
    orders = [
        (b"{", "malformed|truncated"),
        (b"{}", "bundle"),
        (b'{"bundle":"/nowhere","digest":"d","out":"o"}', "bundle.json"),
        (
            json.dumps({"bundle": str(python), "digest": digest, "out": str(tmp_path / "o")}),
            "Python objects are not converted",
        ),
    ]
    assert process.stdin is not None
    assert process.stdout is not None
    for order, reason in orders:
        process.stdin.write((order if isinstance(order, bytes) else order.encode()) + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer["converted"] is False
        assert any(part in answer["reason"] for part in reason.split("|")), answer
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("runtime", ["python", "onnx", "mlflow", "something"])
def test_what_no_converter_takes_is_refused(runtime: str) -> None:
    with pytest.raises(graphs.NotConvertible, match=r"not converted|ONNX graph already"):
        graphs.warm(runtime)


def test_every_convertible_runtime_has_its_converters_and_the_other_way_round() -> None:
    assert {name for name, one in RUNTIMES.items() if one.converters} == set(graphs.NEEDS)
    assert {name for name, one in RUNTIMES.items() if not one.converters} == set(graphs.UNCONVERTED)


def test_reasons_are_for_people() -> None:
    said = "\x1b[96mfailed\x1b[0m in /tmp/place/.b.12/files/model.onnx:\n\n  node " + "x" * 900
    short = converter._short(said, "/tmp/place/bundle")
    assert short.startswith("failed in model.onnx: node xx")
    assert len(short) < 450
    said = "Error No Op registered for StringLength with domain_version of 15"
    assert converter._short(said, "/tmp/o") == "ONNX has no operator for its StringLength"
