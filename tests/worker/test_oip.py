from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from modelfleet_worker.oip import AnswerEncoder, BadRequest, RequestDecoder
from modelfleet_worker.runtimes.base import Own, Parameter
from modelfleet_worker.wire.signature import DTYPES, Signature, TensorSpec, infer

MATRIX = Signature((TensorSpec("x", "FP64", (-1, 3)),), (TensorSpec("y", "FP64", (-1,)),))
COLUMNS = Signature(
    (
        TensorSpec("hour", "INT32", (-1,)),
        TensorSpec("carrier", "BYTES", (-1,)),
        TensorSpec("late", "BOOL", (-1,)),
    ),
    (TensorSpec("y", "FP64", (-1,)), TensorSpec("z", "BYTES", (-1, 2))),
)


def body(*tensors: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": tensors, **more}).encode()


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


@pytest.mark.parametrize("data", [[[1, 2, 3], [4.5, 5, 6]], [1, 2, 3, 4.5, 5, 6]])
def test_nested_and_flat_data_are_the_same(data: Any) -> None:
    decoded = RequestDecoder(MATRIX).decode(body(tensor("x", "FP64", [2, 3], data), id="mine"))
    assert decoded.inputs[0].tolist() == [[1, 2, 3], [4.5, 5, 6]]
    assert decoded.inputs[0].dtype == np.float64
    assert (decoded.rows, decoded.id, decoded.outputs) == (2, "mine", None)


def test_a_byte_order_mark_is_passed_over() -> None:
    content = b"\xef\xbb\xbf" + body(tensor("x", "FP64", [1, 3], [1, 2, 3]))
    assert RequestDecoder(MATRIX).decode(content).inputs[0].tolist() == [[1, 2, 3]]


def test_a_missing_text_is_answered_as_null() -> None:
    values = np.array([["a", np.nan], [None, b"b"]], dtype=object)
    answer = AnswerEncoder(COLUMNS, "1.0.0").encode("m", "i", [np.zeros(2), values], [1])
    assert json.loads(answer)["outputs"][0]["data"] == ["a", None, None, "b"]


def test_flat_clients_are_served_for_ever() -> None:
    decoder = RequestDecoder(MATRIX)
    for _ in range(300):
        assert decoder.decode(body(tensor("x", "FP64", [1, 3], [1, 2, 3]))).rows == 1
    assert decoder.decode(body(tensor("x", "FP64", [1, 3], [[1, 2, 3]]))).rows == 1


def test_flat_and_nested_clients_in_turns() -> None:
    decoder = RequestDecoder(MATRIX)
    for _ in range(3):
        for data in ([1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]):
            decoded = decoder.decode(body(tensor("x", "FP64", [2, 3], data)))
            assert decoded.inputs[0].tolist() == [[1, 2, 3], [4, 5, 6]]
        for shape in ([2, 2], [3, 3], [-1, 3], [6], [1, 2, 3]):
            with pytest.raises(BadRequest, match="'x'"):
                decoder.decode(body(tensor("x", "FP64", shape, [1, 2, 3, 4, 5, 6])))


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_all_datatypes(datatype: str) -> None:
    signature = Signature(
        (TensorSpec("x", datatype, (-1,)),), (TensorSpec("y", datatype, (-1, 2)),)
    )
    values = {"BYTES": ["a", "ü"], "BOOL": [True, False]}.get(datatype, [1, 2])
    decoded = RequestDecoder(signature).decode(body(tensor("x", datatype, [2], values)))
    assert decoded.inputs[0].tolist() == values
    assert decoded.inputs[0].dtype == DTYPES[datatype]
    answer = np.array([values, values], dtype=DTYPES[datatype])
    written = json.loads(AnswerEncoder(signature, "1.2.0").encode("m", "id", [answer], None))
    assert written["outputs"] == [
        {"name": "y", "datatype": datatype, "shape": [2, 2], "data": values * 2}
    ]


def test_columns_of_mixed_kinds_and_as_n_by_1() -> None:
    decoded = RequestDecoder(COLUMNS).decode(
        body(
            tensor("late", "BOOL", [2], [True, False]),
            tensor("hour", "INT32", [2, 1], [[5], [6]]),
            tensor("carrier", "BYTES", [2, 1], ["AA", "B6"]),
            outputs=[{"name": "z"}],
        )
    )
    assert [array.tolist() for array in decoded.inputs] == [[5, 6], ["AA", "B6"], [True, False]]
    assert decoded.outputs == [1]


X = tensor("x", "FP64", [1, 3], [[1, 2, 3]])
SHARED: dict[str, Any] = {"name": "x", "datatype": "FP64", "shape": [1, 3]}
SHARED |= {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 24}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[1]", "not an inference request"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not an inference request"),
        (b'{"inputs":[{"name":"x","data":' + b"[" * 100_000, "not valid JSON"),
        (b"{}", "missing required field `inputs`"),
        (body(), "missing tensor 'x'"),
        (body(tensor("y", "FP64", [1, 3], [[1, 2, 3]])), "unknown tensor 'y': .* 'x'"),
        (body(X, X), "'x' is given twice"),
        (body(tensor("x", "FP32", [1, 3], [[1, 2, 3]])), "'x' has the datatype 'FP32'.*'FP64'"),
        (body(tensor("x", "FP64", [1, 2], [[1, 2]])), r"'x' has the shape \[1, 2\].*\[-1, 3\]"),
        (body(tensor("x", "FP64", [3], [1, 2, 3])), r"'x' has the shape \[3\]"),
        (body(tensor("x", "FP64", [], [])), r"'x' has the shape \[\]"),
        (body(tensor("x", "FP64", [0, 3], [])), "at least one row"),
        (body(tensor("x", "FP64", [-1, 3], [[1, 2, 3]])), r"'x' has the shape \[-1, 3\]"),
        (body(tensor("x", "FP64", [2, 3], [[1, 2, 3]])), r"nested as \[1, 3\], its shape says"),
        (body(tensor("x", "FP64", [1, 3], [1, 2])), "'x': too few elements: 2 .* needs 3"),
        (body(tensor("x", "FP64", [1, 3], [1, 2, 3, 4])), "'x': too many elements"),
        (body(tensor("x", "FP64", [2, 3], [[1, 2, 3], [4]])), "'x': its rows are not equally"),
        (body(tensor("x", "FP64", [1, 3], [["a", 2, 3]])), "'x': Expected `float.*`, got `str`"),
        (body(tensor("x", "FP64", [1, 3], [[True, 2, 3]])), "'x': Expected `float`, got `bool`"),
        (body(tensor("x", "FP64", [1, 3], 5)), "'x': data must be a flat array, or nested"),
        (body(tensor("x", "FP64", [1, 3], [[[1, 2, 3]]])), "nested as deep as its shape"),
        (body({"name": "x", "shape": [1, 3], "datatype": "FP64"}), "'x': data must be .* none"),
        (body(X, outputs=[{"name": "q"}]), "unknown output 'q': the outputs are 'y'"),
        (body(SHARED), "'x': .* shared memory"),
        (
            body(X, outputs=[{"name": "y", "parameters": {"shared_memory_region": "r"}}]),
            "'y': .* shared memory",
        ),
        (
            body(X, outputs=[{"name": "y", "parameters": {"classification": 2}}]),
            "'y': .* classification",
        ),
        (b"\xef\xbb\xbf", "not valid JSON"),
        (body(X, id=5), r"Expected `str \| null`, got `int` - at `\$.id`"),
    ],
)
def test_what_is_wrong_is_named(content: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        RequestDecoder(MATRIX).decode(content)


@pytest.mark.parametrize(
    ("datatype", "value", "message"),
    [
        ("UINT8", 256, "<= 255"),
        ("INT8", -129, ">= -128"),
        ("UINT64", -1, ">= 0"),
        ("UINT64", 2**64, ""),
        ("INT64", 2**63, ""),
        ("INT32", 1.5, "got `float`"),
        ("INT32", None, "got `null`"),
        ("BOOL", 1, "got `int`"),
        ("BYTES", 5, "got `int`"),
    ],
)
def test_values_outside_of_the_datatype(datatype: str, value: Any, message: str) -> None:
    signature = infer({"x": np.zeros(1, dtype=DTYPES[datatype])}, {"y": np.zeros(1)})
    with pytest.raises(BadRequest, match=f"tensor 'x': .*{message}"):
        RequestDecoder(signature).decode(body(tensor("x", datatype, [1], [value])))


def test_rows_must_agree() -> None:
    with pytest.raises(BadRequest, match="'carrier' has 1 rows, tensor 'hour' has 2"):
        RequestDecoder(COLUMNS).decode(
            body(
                tensor("hour", "INT32", [2], [1, 2]),
                tensor("carrier", "BYTES", [1], ["AA"]),
                tensor("late", "BOOL", [2], [True, False]),
            )
        )


@pytest.mark.parametrize("gap", ["null", "NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("form", ["[[1, %s, 3]]", "[1, %s, 3]"])
def test_gaps_are_values_or_refused(gap: str, form: str) -> None:
    content = body(tensor("x", "FP64", [1, 3], "here")).replace(b'"here"', (form % gap).encode())
    decoder = RequestDecoder(MATRIX)
    value = decoder.decode(content).inputs[0][0, 1]
    assert np.isnan(value) if gap in ("null", "NaN") else np.isinf(value)
    with pytest.raises(BadRequest, match="tensor 'x' holds null, NaN or infinity"):
        RequestDecoder(MATRIX, refuse_missing=True).decode(content)


def test_null_strings() -> None:
    signature = infer({"s": np.array(["a"], dtype=object)}, {"y": np.zeros(1)})
    content = body(tensor("s", "BYTES", [2], ["a", None]))
    assert RequestDecoder(signature).decode(content).inputs[0].tolist() == ["a", None]
    with pytest.raises(BadRequest, match="holds null"):
        RequestDecoder(signature, refuse_missing=True).decode(content)


def test_answers_carry_selection_and_null_for_nan() -> None:
    outputs = [np.array([1.5, np.nan, np.inf]), np.array([[b"a", "b"]], dtype=object)]
    encoder = AnswerEncoder(COLUMNS, "2.0.0")
    written = json.loads(encoder.encode('na"me', "id-1", outputs, None))
    assert (written["model_name"], written["model_version"]) == ('na"me', "2.0.0")
    assert written["id"] == "id-1"
    assert written["outputs"][0]["data"] == [1.5, None, None]
    assert written["outputs"][1]["data"] == ["a", "b"]
    only = json.loads(encoder.encode("m", "id", outputs, [1]))
    assert [output["name"] for output in only["outputs"]] == ["z"]


CALLS = Signature(
    (
        TensorSpec("x", "FP32", (-1, -1, 2)),
        TensorSpec("rate", "INT64", (-1,)),
        TensorSpec("name", "BYTES", (-1, -1)),
    ),
    (TensorSpec("y", "FP32", (-1, -1)), TensorSpec("n", "INT64", (-1,))),
)


def call(shape: list[int], data: Any, rate: Any = 8, rate_shape: tuple[int, ...] = ()) -> bytes:
    return body(
        tensor("x", "FP32", shape, data),
        tensor("rate", "INT64", list(rate_shape), rate),
        tensor("name", "BYTES", [1], ["a"]),
    )


@pytest.mark.parametrize("data", [[[1, 2], [3, 4]], [1, 2, 3, 4]])
@pytest.mark.parametrize(("rate", "shape"), [(8, ()), ([8], ()), ([8], (1,))])
def test_one_call_in_the_shapes_of_a_model_without_rows(
    data: Any, rate: Any, shape: tuple[int, ...]
) -> None:
    found = RequestDecoder(CALLS, whole=True).decode(call([2, 2], data, rate, shape))
    assert found.rows == 1
    assert found.own == Own(bare=True)
    assert [array.tolist() for array in found.inputs] == [[[[1, 2], [3, 4]]], [8], [["a"]]]


def test_a_single_value_among_several_calls_of_one() -> None:
    several = body(
        tensor("x", "FP32", [1, 1, 2], [[[1, 2]]]),
        tensor("rate", "INT64", [1], [8]),
        tensor("name", "BYTES", [1, 1], ["a"]),
    )
    assert RequestDecoder(CALLS, whole=True).decode(several).own is None


def test_several_calls_at_once() -> None:
    several = body(
        tensor("x", "FP32", [2, 1, 2], [[[1, 2]], [[3, 4]]]),
        tensor("rate", "INT64", [2], [8, 9]),
        tensor("name", "BYTES", [2, 1], ["a", "b"]),
    )
    found = RequestDecoder(CALLS, whole=True).decode(several)
    assert found.rows == 2
    assert found.own is None
    assert found.inputs[0].shape == (2, 1, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (call([2, 3], [1] * 6), r"'x' has the shape \[2, 3\], the model takes \[-1, 2\]"),
        (call([2], [1, 2]), r"'x' has the shape \[2\], the model takes \[-1, 2\]"),
        (call([0, 2], []), "shape"),
        (call([2, 2], [1, 2, 3]), "too few elements"),
        (call([1, 2], [1, 2], "x"), "'rate'"),
        (call([1, 2], [1, 2], [1, 2], (2,)), "rows"),
        (body(tensor("x", "FP32", [1, 2], [1, 2])), "missing tensor 'rate', 'name'"),
    ],
)
def test_calls_that_are_none(content: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        RequestDecoder(CALLS, whole=True).decode(content)


def test_parameters_of_the_model_among_those_of_the_request() -> None:
    decoder = RequestDecoder(MATRIX, parameters=(Parameter("top_k", int),))
    x = tensor("x", "FP64", [1, 3], [1, 2, 3])
    found = decoder.decode(body(x, parameters={"top_k": 3, "priority": 1}))
    assert found.own == Own({"top_k": 3})
    assert decoder.decode(body(x)).own is None
    assert decoder.decode(body(x, parameters={"binary_data_output": True})).raw == {0}
    assert decoder.decode(body(x, parameters={"binary_data_output": True})).own is None
    with pytest.raises(BadRequest, match="the parameter 'top_k': Expected `int`"):
        decoder.decode(body(x, parameters={"top_k": "many"}))
    gap = body(tensor("x", "FP64", [1, 3], [1, 2, float("nan")]), parameters={"top_k": 1})
    assert decoder.decode(gap).own == Own({"top_k": 1})


def test_optional_tensors_may_be_left_out() -> None:
    signature = Signature(
        (TensorSpec("a", "FP64", (-1,)), TensorSpec("b", "FP64", (-1,), optional=True)),
        (TensorSpec("y", "FP64", (-1,)),),
    )
    decoder = RequestDecoder(signature, refuse_missing=True)
    found = decoder.decode(body(tensor("a", "FP64", [2], [1, 2])))
    assert found.own == Own(absent=frozenset("b"))
    assert np.isnan(found.inputs[1]).tolist() == [True, True]
    with pytest.raises(BadRequest, match="missing tensor 'a'"):
        decoder.decode(body(tensor("b", "FP64", [2], [1, 2])))
