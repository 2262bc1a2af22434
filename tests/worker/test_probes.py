"""Rows that no example holds, and what they uncover."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelfleet_worker.compile import trial
from modelfleet_worker.compile.missing import write_missing
from modelfleet_worker.compile.probes import ROWS, probes
from modelfleet_worker.compile.trial import Parity, Side
from modelfleet_worker.runtimes.base import Tensors
from modelfleet_worker.wire.signature import Signature, TensorSpec, infer
from modelfleet_worker.wire.spec import BundleSpec, example_of

X = np.random.default_rng(1).normal(size=(20, 2))


class Computed:
    def __init__(self, predict: Callable[[Any], Any]) -> None:
        self._predict = predict

    def predict(self, inputs: Tensors) -> Tensors:
        return {"y": self._predict(next(iter(inputs.values())))}


class Labelled:
    def __init__(self, label: int, probability: Any) -> None:
        self._label, self._probability = label, probability

    def predict(self, inputs: Tensors) -> Tensors:
        return {"label": np.full(len(inputs["x"]), self._label), "probability": self._probability}


def refuted(
    inputs: dict[str, Any],
    source: Callable[[Any], Any],
    compiled: Callable[[Any], Any],
    missing: bool = True,
) -> Parity:
    rows = len(next(iter(inputs.values())))
    signature = infer(inputs, {"y": np.zeros(rows)})
    spec = BundleSpec("sklearn", "a", signature)
    sides = [Side(spec, Computed(one)) for one in (source, compiled)]
    proof = trial.parity(signature, *sides, inputs)
    assert proof.passed
    return trial.probed(signature, *sides, inputs, proof, missing)


def test_the_same_passes_and_tells_how_much_was_tried() -> None:
    found = refuted({"x": X}, lambda x: x.sum(axis=1), lambda x: x.sum(axis=1))
    assert found.passed
    assert found.rows == len(X)
    assert found.probed >= 2 * ROWS


def test_missing_values_that_go_elsewhere() -> None:
    def compiled(x: Any) -> Any:
        return np.nan_to_num(x[:, 0], nan=0.0)

    found = refuted({"x": X}, lambda x: np.nan_to_num(x[:, 0], nan=5.0), compiled)
    assert (found.passed, found.where) == (False, "values are missing")
    refused = refuted({"x": X}, lambda x: x[:, 0], lambda x: x[:, 0], missing=False)
    assert refused.passed


def test_codes_that_the_example_lacks() -> None:
    codes = np.arange(20.0).reshape(-1, 1) % 3
    found = refuted({"x": codes}, lambda x: x[:, 0], lambda x: np.clip(x[:, 0], 0, 2), False)
    assert (found.passed, found.where) == (False, "values lie outside of the example's")


def test_numbers_that_only_float64_tells_apart() -> None:
    stamps = (1.7e9 + np.arange(20) * 256).reshape(-1, 1)
    near = [rows["x"] for where, rows in probes({"x": stamps}, False) if "float32" in where]
    assert len(near) == 2
    for rows in near:
        assert (rows != rows.astype(np.float32)).all()
        assert (rows.astype(np.float32)[: len(stamps)] == stamps).all()


def test_numbers_that_float32_holds_well_are_not_tried() -> None:
    mixed = np.column_stack([X[:, 0], 1.7e9 + np.arange(20) * 256])
    assert not [where for where, _ in probes({"x": X}, False) if "float32" in where]
    near = [rows["x"] for where, rows in probes({"x": mixed}, False) if "float32" in where]
    assert len(near) == 2
    for rows in near:
        assert (rows[:20, 0] == X[:, 0]).all()
        assert (rows[:20, 1] != mixed[:, 1]).all()


@pytest.mark.parametrize(("gap", "passed"), [(1e-7, True), (0.2, False)])
def test_ties_of_a_probe_may_break_either_way(gap: float, passed: bool) -> None:
    signature = infer({"x": X}, {"label": np.zeros(20, int), "probability": np.zeros((20, 2))})
    spec = BundleSpec("sklearn", "a", signature)
    even = np.column_stack([np.full(20, 0.5 - gap), np.full(20, 0.5 + gap)])
    sides = [Side(spec, Labelled(label, even)) for label in (0, 1)]
    assert not trial.parity(signature, *sides, {"x": X}).passed
    assert trial.parity(signature, *sides, {"x": X}, ties=True).passed is passed


def refusing(x: Any) -> Any:
    if (x == "never seen before").any():
        raise ValueError("unknown")
    return np.zeros(len(x))


@pytest.mark.parametrize("refuses", [True, False])
def test_text_that_only_one_of_them_answers(refuses: bool) -> None:
    towns = {"town": np.array(["a", "b"] * 5, dtype=object)}

    def compiled(x: Any) -> Any:
        return refusing(x) if refuses else np.zeros(len(x))

    found = refuted(towns, refusing, compiled)
    assert found.passed is refuses
    assert found.where == ("" if refuses else "text is 'never seen before'")


def test_whole_numbers_stay_in_their_type() -> None:
    rows = {"n": np.array([0, 255], dtype=np.uint8), "b": np.array([True, False])}
    for _, probe in probes(rows, True):
        assert {name: one.dtype for name, one in probe.items()} == {
            name: one.dtype for name, one in rows.items()
        }


def test_only_the_nodes_of_its_own_trees_are_completed() -> None:
    pytest.importorskip("sklearn")
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier(max_depth=1).fit(X, X[:, 1] > 0)

    def graph(features: list[int]) -> Any:
        said = {
            "nodes_treeids": SimpleNamespace(ints=[0, 0, 0]),
            "nodes_nodeids": SimpleNamespace(ints=[0, 1, 2]),
            "nodes_featureids": SimpleNamespace(ints=features),
            "nodes_modes": SimpleNamespace(strings=[b"BRANCH_LEQ", b"LEAF", b"LEAF"]),
        }
        for name, one in said.items():
            one.name = name
        node = SimpleNamespace(op_type="TreeEnsembleClassifier", attribute=list(said.values()))
        return SimpleNamespace(graph=SimpleNamespace(node=[node]))

    other = graph([0, 0, 0])
    write_missing(other, model)
    assert len(other.graph.node[0].attribute) == 4
    assert model.tree_.feature[0] == 1


def test_an_example_whose_sizes_all_vary_is_read_back() -> None:
    images = np.arange(24.0, dtype=np.float32).reshape(2, 3, 2, 2)
    varying = TensorSpec("x", "FP32", (-1, 3, -1, -1))
    signature = Signature((varying,), infer({"x": X}, {"y": np.zeros(2)}).outputs)
    found, _ = example_of({"x": images}, {"y": np.zeros(2)}).arrays(signature)
    assert (found["x"] == images).all()
