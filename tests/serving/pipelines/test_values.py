"""Transforms, conditions and constants on arrays."""

from __future__ import annotations

import numpy as np
import pytest

from modelfleet.serving.pipelines.definition import Transform, parse_condition
from modelfleet.serving.pipelines.executor.messages import (
    answer_body,
    call_body,
    read_answer,
)
from modelfleet.serving.pipelines.executor.values import (
    MissingTensor,
    Unusable,
    evaluate,
    rows_where,
    scatter,
)
from modelfleet.serving.pipelines.kinds import Mismatch, constant
from modelfleet_worker.oip import RequestDecoder
from modelfleet_worker.wire.signature import Signature, TensorSpec

TENSORS = {
    "input.x": np.array([[1.0, 2.0], [3.0, 4.0]]),
    "a.score": np.array([0.5, np.nan]),
    "a.label": np.array(["low", "high"], dtype=object),
}


def test_columns_stand_side_by_side() -> None:
    found = evaluate(Transform(concat=("input.x", "a.score")), TENSORS)
    assert np.array_equal(found, [[1, 2, 0.5], [3, 4, np.nan]], equal_nan=True)


def test_a_column_is_selected_and_cast() -> None:
    column = Transform(select="input.x", column=1)
    assert evaluate(column, TENSORS).tolist() == [2.0, 4.0]
    whole = evaluate(Transform(cast=column, to="INT32"), TENSORS)
    assert (whole.dtype, whole.tolist()) == (np.int32, [2, 4])


def test_what_a_type_can_not_hold_is_refused() -> None:
    with pytest.raises(Unusable, match="NaN"):
        evaluate(Transform(cast="a.score", to="INT32"), TENSORS)
    with pytest.raises(Unusable, match="doesn't fit"):
        evaluate(Transform(cast="input.x", to="INT8"), {"input.x": np.array([300.0])})


def test_a_missing_tensor_is_told() -> None:
    with pytest.raises(MissingTensor, match=r"b\.score"):
        evaluate(Transform(concat=("input.x", "b.score")), TENSORS)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a.score > 0.2", [True, False]),
        ("a.score <= 0.2", [False, False]),  # NaN is neither above nor below
        ("a.score != 0.5", [False, True]),
        ("input.x[1] >= 4", [False, True]),
        ('a.label == "low"', [True, False]),
    ],
)
def test_conditions_are_decided_row_by_row(text: str, rows: list[bool]) -> None:
    assert rows_where(parse_condition(text), TENSORS).tolist() == rows


def test_rows_go_back_to_their_places() -> None:
    mask = np.array([True, False, True])
    (found,) = scatter(mask, [np.array([1.0, 3.0])], [np.array([9.0, 9.0, 9.0])])
    assert found.tolist() == [1.0, 9.0, 3.0]


def test_constants_fill_rows_and_columns() -> None:
    matrix = TensorSpec("p", "FP32", (-1, 2))
    assert constant([0.25, 0.75], matrix, 2).tolist() == [[0.25, 0.75]] * 2
    assert constant(1, matrix, 1).tolist() == [[1.0, 1.0]]
    assert constant("none", TensorSpec("l", "BYTES", (-1,)), 2).tolist() == ["none"] * 2
    for wrong, spec in (
        ([1.0], matrix),
        (True, matrix),
        (0.5, TensorSpec("n", "INT32", (-1,))),
        (300, TensorSpec("n", "UINT8", (-1,))),
        ("x", matrix),
    ):
        with pytest.raises(Mismatch):
            constant(wrong, spec, 1)


SIGNATURE = Signature(
    (TensorSpec("x", "FP64", (-1, 2)), TensorSpec("word", "BYTES", (-1,))),
    (TensorSpec("score", "FP64", (-1,)), TensorSpec("word", "BYTES", (-1,))),
)


def test_a_call_is_what_a_worker_reads() -> None:
    arrays = [TENSORS["input.x"], TENSORS["a.label"]]
    body, size = call_body(SIGNATURE.inputs, arrays, SIGNATURE.outputs[:1])
    decoded = RequestDecoder(SIGNATURE).decode(body, b"%d" % size)
    assert decoded.outputs == [0]
    assert decoded.raw == {0}
    assert [a.tolist() for a in decoded.inputs] == [a.tolist() for a in arrays]


@pytest.mark.parametrize("raw", [frozenset(), frozenset({"score"}), frozenset({"score", "word"})])
def test_an_answer_is_read_back(raw: frozenset[str]) -> None:
    score, word = np.array([0.5, np.nan]), np.array(["a", "ü"], dtype=object)
    given = dict(zip(SIGNATURE.outputs, (score, word), strict=True))
    body, size = answer_body("p", 1, "id", given, raw, {})
    found = read_answer(body, b"%d" % size if size else None, SIGNATURE.outputs, 2)
    assert np.array_equal(found[0], score, equal_nan=True)
    assert found[1].tolist() == ["a", "ü"]
    for spec, rows in ((SIGNATURE.outputs, 3), ((TensorSpec("more", "FP64", (-1,)),), 2)):
        with pytest.raises(Unusable):
            read_answer(body, b"%d" % size if size else None, spec, rows)
    with pytest.raises(Unusable):
        read_answer(body[:-3], b"%d" % size if size else None, SIGNATURE.outputs, 2)
