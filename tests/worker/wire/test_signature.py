from __future__ import annotations

import msgspec
import numpy as np
import pytest

from modelfleet_worker.wire.signature import DTYPES, Signature, TensorSpec, datatype_of, infer
from modelfleet_worker.wire.spec import BundleSpec, Example, example_of
from modelfleet_worker.wire.tensors import pack, unpack


def test_infer_matrix_and_columns() -> None:
    found = infer(
        {"x": np.zeros((3, 2))},
        {"label": np.zeros(3, dtype=np.int64), "probability": np.zeros((3, 2))},
        features={"x": ["distance", "hour"]},
    )
    assert found.inputs == (TensorSpec("x", "FP64", (-1, 2), ("distance", "hour")),)
    assert [spec.shape for spec in found.outputs] == [(-1,), (-1, 2)]
    assert found.is_matrix
    assert found.feature_names() == ["distance", "hour"]

    columns = infer(
        {"carrier": np.array(["AA", "B6"]), "hour": np.array([1, 2], dtype=np.int32)},
        {"prediction": np.zeros(2)},
    )
    assert [spec.datatype for spec in columns.inputs] == ["BYTES", "INT32"]
    assert columns.feature_names() == ["carrier", "hour"]
    assert not columns.is_matrix


def test_columns_of_a_matrix() -> None:
    found = infer({"x": np.zeros((3, 2))}, {"y": np.zeros(3)})
    table = np.arange(6.0).reshape(3, 2)
    assert [column.tolist() for column in found.columns([table])] == [[0, 2, 4], [1, 3, 5]]
    assert found.feature_names() == ["x_0", "x_1"]


def test_json_round_trip_leaves_out_empty_features() -> None:
    found = infer({"x": np.zeros(3)}, {"y": np.zeros(3)})
    content = msgspec.json.encode(found)
    assert b"features" not in content
    assert msgspec.json.decode(content, type=Signature) == found


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ('{"name":"x","datatype":"FP8","shape":[-1]}', "unknown datatype 'FP8'"),
        ('{"name":"x","datatype":"FP64","shape":[]}', "is no shape"),
        ('{"name":"x","datatype":"FP64","shape":[-1,3],"features":["a"]}', "1 features do not fit"),
    ],
)
def test_nonsense_is_refused(spec: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.json.decode(spec, type=TensorSpec)


def test_distinct_names() -> None:
    spec = TensorSpec("x", "FP64", (-1,))
    with pytest.raises(ValueError, match="distinct names"):
        Signature((spec, spec), (spec,))


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_every_datatype_survives_pack_and_unpack(datatype: str) -> None:
    spec = TensorSpec("x", datatype, (-1, 3))
    values = [["a", "", "ü"], ["b", "c", "d"]] if datatype == "BYTES" else [[0, 1, 1], [1, 0, 1]]
    array = np.array(values, dtype=spec.dtype)
    assert datatype_of(array) == datatype
    again = unpack(spec, pack(array), rows=2)
    assert again.tolist() == array.tolist()
    assert again.dtype == array.dtype


def test_complex_numbers_have_no_datatype() -> None:
    with pytest.raises(ValueError, match="complex128"):
        datatype_of(np.zeros(2, dtype=np.complex128))


def test_example_round_trip_with_null() -> None:
    signature = infer({"x": np.zeros((2, 2))}, {"y": np.zeros(2)})
    example = example_of({"x": np.array([[1.0, np.nan], [3.0, 4.0]])}, {"y": np.array([1.0, 2.0])})
    again = msgspec.json.decode(msgspec.json.encode(example), type=Example)
    inputs, outputs = again.arrays(signature)
    assert np.isnan(inputs["x"][0, 1])
    assert outputs["y"].tolist() == [1.0, 2.0]


def test_bundle_spec_refuses_unknown_runtimes() -> None:
    content = b"""{"runtime":"r","artifact":"m","signature":{"inputs":[{"name":"x","datatype":
    "FP64","shape":[-1]}],"outputs":[{"name":"y","datatype":"FP64","shape":[-1]}]}}"""
    with pytest.raises(msgspec.ValidationError, match="runtime 'r' is none of sklearn"):
        msgspec.json.decode(content, type=BundleSpec)
