"""Scoring tables: columns become tensors strictly, groups are answered one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelfleet_worker.loading import load
from modelfleet_worker.score import Asked, Column, Group, score, tensor
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.signature import TensorSpec

MATRIX = TensorSpec("x", "FP64", (-1, 2), ("a", "b"))


def test_columns_become_tensors() -> None:
    columns = {"a": np.array([1, 2]), "b": np.array(["3", None], dtype=object)}
    found = tensor(MATRIX, columns, 2)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [[1, 3], [2, np.nan]])
    whole = tensor(MATRIX, {"x": np.ones((2, 2), np.float32)}, 2)
    assert whole.dtype == np.float64
    wide = tensor(TensorSpec("w", "FP32", (-1, 2)), {"w_0": np.ones(3), "w_1": np.zeros(3)}, 3)
    np.testing.assert_array_equal(wide, [[1, 0]] * 3)
    loose = tensor(TensorSpec("l", "FP32", (-1, -1, -1)), {"l": np.ones((2, 3, 4))}, 2)
    assert loose.shape == (2, 3, 4)
    text = tensor(TensorSpec("t", "BYTES", (-1,)), {"t": np.array([1, 2])}, 2)
    assert text.tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("spec", "values", "said"),
    [
        (MATRIX, {"a": np.ones(2)}, "no column 'b'"),
        (TensorSpec("n", "INT64", (-1,)), {"n": np.array([0.5])}, "has fractions"),
        (TensorSpec("n", "INT64", (-1,)), {"n": np.array([np.nan])}, "has gaps"),
        (TensorSpec("n", "INT8", (-1,)), {"n": np.array([300])}, "does not fit INT8"),
        (TensorSpec("n", "FP64", (-1,)), {"n": np.array(["x"])}, "column 'n'"),
    ],
)
def test_what_does_not_fit(spec: TensorSpec, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tensor(spec, values, len(next(iter(values.values()))))


def test_a_group_that_is_refused_does_not_hurt_the_others(bundles: Any) -> None:
    folder, digest = bundles.logistic()
    loaded = load(VersionSpec(1, "m", "1.0.0", 1, digest, str(folder)))
    arrays = {"x": np.random.default_rng(0).normal(size=(5000, 4)), "a": np.ones(3)}
    good = Group((Column("x", "x"),), 5000)
    bad = Group((Column("a", "a"),), 3)
    found, content = score(loaded, Asked((good, bad, good)), arrays)
    assert [bool(one.error) for one in found.groups] == [False, True, False]
    assert "no column 'b', 'c', 'd'" in found.groups[1].error
    assert set(found.groups[0].outputs) == {"label", "probability"}
    assert len(content) > 5000 * 3 * 8
