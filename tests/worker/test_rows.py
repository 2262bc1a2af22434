"""Which models answer rows, each for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelfleet_worker.rows import aligned, independent, of_calls, one_call, variable
from modelfleet_worker.wire.signature import Signature, TensorSpec

X = np.random.default_rng(2).normal(size=(16, 3))


def test_what_has_rows() -> None:
    assert aligned({"x": X}, {"y": X[:, 0]})
    assert not aligned({"x": X}, {"y": X[:4]})
    assert not aligned({"x": X, "rate": np.array(3)}, {})
    assert not aligned({"rate": np.array(3)}, {"y": np.array(1)})


@pytest.mark.parametrize(
    ("predict", "alone"),
    [
        (lambda x: x.sum(axis=1), True),
        (lambda x: x.sum(axis=1) * (1 + 1e-6 * len(x)), True),  # sums in another order
        (lambda x: np.where(x[:, 0] > 0, "up", "down"), True),
        (lambda x: x.sum(axis=1).squeeze(), True),
        (lambda x: np.full(len(x), np.nan), True),
        (lambda x: np.random.default_rng().normal(size=len(x)), True),  # it says what it likes
        (lambda x: x.cumsum(axis=0), False),  # steps in time
        (lambda x: x - x.mean(axis=0), False),
        (lambda x: x[:, 0].argsort().argsort(), False),
        (lambda x: np.where(x[:, 0] > np.median(x[:, 0]), "up", "down"), False),
    ],
)
def test_rows_that_are_answered_for_themselves(predict: Any, alone: bool) -> None:
    def model(inputs: Any) -> Any:
        return {"y": predict(inputs["x"])}

    some = {"x": X}
    assert independent(model, some, model(some)) == alone


def test_one_row_tells_steps_in_time() -> None:
    def model(inputs: Any) -> Any:
        return {"y": inputs["x"].cumsum(axis=0)}

    assert not independent(model, {"x": X[:1]}, {"y": X[:1]})


def test_a_model_that_takes_no_other_rows_counts_as_one_that_does() -> None:
    def model(inputs: Any) -> Any:
        if len(inputs["x"]) != 16:
            raise ValueError("sixteen, please")
        return {"y": inputs["x"] - inputs["x"].mean(axis=0)}

    assert independent(model, {"x": X}, model({"x": X}))


IDS = TensorSpec("ids", "INT64", (-1, -1))


def signature(*outputs: TensorSpec) -> Signature:
    return Signature((IDS,), outputs)


def test_sizes_of_outputs_that_follow_those_of_inputs() -> None:
    def model(inputs: Any) -> Any:
        ids = inputs["ids"]
        return {"each": np.ones((*ids.shape, 5)), "all": np.ones((len(ids), 7))}

    given = {"ids": np.ones((2, 6), np.int64)}
    found = signature(TensorSpec("each", "FP64", (-1, 6, 5)), TensorSpec("all", "FP64", (-1, 7)))
    assert [one.shape for one in variable(model, given, found, {}).outputs] == [
        (-1, -1, 5),
        (-1, 7),
    ]
    known = {"all": (-1, -1)}
    assert variable(model, given, found, known).outputs[1].shape == (-1, -1)
    fixed = Signature((TensorSpec("ids", "INT64", (-1, 6)),), found.outputs)
    assert variable(model, given, fixed, known) == fixed


def test_sizes_of_a_model_that_takes_only_its_example() -> None:
    def model(inputs: Any) -> Any:
        raise ValueError("six, please")

    found = signature(TensorSpec("all", "FP64", (-1, 7)))
    given = {"ids": np.ones((2, 6), np.int64)}
    assert variable(model, given, found, {}).outputs[0].shape == (-1, -1)
    assert variable(model, given, found, {"all": (-1, 7)}).outputs[0].shape == (-1, 7)


def test_the_signature_of_one_call() -> None:
    inputs = one_call({"x": X, "rate": np.array(3)})
    found = of_calls(inputs, one_call({"y": X[:, 0], "n": np.array(2.0)}))
    assert [one.shape for one in found.inputs] == [(-1, -1, 3), (-1,)]
    assert [one.shape for one in found.outputs] == [(-1, -1), (-1,)]
