"""MLflow's scoring protocol."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_worker.invocations import Invocations
from modelfleet_worker.oip import BadRequest, Decoded
from modelfleet_worker.runtimes.base import WHOLE, Habits, Own, Parameter
from modelfleet_worker.wire.signature import Signature, TensorSpec
from modelfleet_worker.wire.tensors import unpack

JSON = b"application/json"
LABELLED = (TensorSpec("label", "INT64", (-1,)), TensorSpec("probability", "FP64", (-1, 2)))
MATRIX = Signature((TensorSpec("x", "FP64", (-1, 2), ("a", "b")),), LABELLED)
COLUMNS = Signature(
    (
        TensorSpec("age", "FP64", (-1,)),
        TensorSpec("visits", "INT32", (-1,)),
        TensorSpec("city", "BYTES", (-1,)),
        TensorSpec("member", "BOOL", (-1,)),
    ),
    (TensorSpec("y", "FP64", (-1,)),),
)
NAMELESS = Signature((TensorSpec("x", "FP64", (-1, 2)),), LABELLED)
ROWS = [[1.0, 2.0], [3.0, 4.0]]
ROW: dict[str, Any] = {"age": 1.0, "visits": 3, "city": "Ulm", "member": True}
"""one record of COLUMNS"""


def decode(signature: Signature, body: Any, kind: bytes = JSON, **options: bool) -> Decoded:
    if isinstance(body, dict) and "age" in body:
        body = {"dataframe_records": [body]}
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    refuse = options.get("refuse_missing", False)
    return Invocations(signature, refuse).decode(raw, kind)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["a", "b"], "data": ROWS}},
        {"dataframe_split": {"columns": ["b", "z", "a"], "data": [[2, 0, 1], [4, 0, 3]]}},
        {"dataframe_split": {"columns": [0, 1], "index": [7, 8], "data": ROWS}},
        {"dataframe_split": {"data": ROWS}},
        {"dataframe_records": [{"a": 1, "b": 2}, {"b": 4, "a": 3}]},
        {"instances": ROWS},
        {"instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]},
        {"inputs": ROWS},
        {"inputs": {"x": ROWS}},
        {"inputs": {"a": [1, 3], "b": [2, 4]}},
        {"inputs": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]},
        {"instances": {"a": [1, 3], "b": [2, 4]}},
        {
            "dataframe_split": {
                "columns": ["z", "z", "a", "b"],
                "data": [[0, 0, 1, 2], [0, 0, 3, 4]],
            }
        },
        {"inputs": ROWS, "client_request_id": "7", "params": {"unknown": 1}},
        {"inputs": ROWS, "params": None},
    ],
)
def test_all_forms_of_a_matrix(body: dict[str, Any]) -> None:
    decoded = decode(MATRIX, body)
    assert decoded.rows == 2
    assert decoded.inputs[0].tolist() == ROWS


def test_columns_of_many_kinds() -> None:
    record = {"age": None, "visits": 3, "city": "Ulm", "member": True, "more": {}}
    decoded = decode(COLUMNS, {"dataframe_records": [record]})
    age, visits, city, member = decoded.inputs
    assert np.isnan(age[0])
    assert (visits.tolist(), city.tolist(), member.tolist()) == ([3], ["Ulm"], [True])


def test_csv() -> None:
    body = b'visits,city,age,member\n3,"Ulm, Donau",1.5,true\n4,,,0\n'
    age, visits, city, member = decode(COLUMNS, body, b"text/csv; charset=utf-8").inputs
    assert age[0] == 1.5
    assert np.isnan(age[1])
    assert (visits.tolist(), city.tolist()) == ([3, 4], ["Ulm, Donau", None])
    assert member.tolist() == [True, False]


def test_csv_as_pandas_reads_it() -> None:
    body = b"age,visits,city,member\rNA,3,n/a,True\rnull,4.0,NULLS,FALSE\r"
    age, visits, city, member = decode(COLUMNS, body, b"text/csv").inputs
    assert np.isnan(age).all()
    assert (visits.tolist(), city.tolist()) == ([3, 4], [None, "NULLS"])
    assert member.tolist() == [True, False]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["u", "v"], "data": ROWS}},
        {"dataframe_split": {"columns": [0, 1], "data": ROWS}},
        {"dataframe_records": [{"u": 1, "v": 2}, {"u": 3, "v": 4}]},
        {"dataframe_records": [{"x": [1, 2]}, {"x": [3, 4]}]},
        {"inputs": {"x": ROWS}},
        b"u,v\n1,2\n3,4\n",
    ],
)
def test_a_matrix_without_names_is_read_by_order(body: Any) -> None:
    kind = b"text/csv" if isinstance(body, bytes) else JSON
    assert decode(NAMELESS, body, kind).inputs[0].tolist() == ROWS


def test_what_clients_of_pandas_write() -> None:
    """NaN as such, also for a missing text; integers as floats where one was missing before."""
    row = (
        b'{"columns":["age","visits","city","member"],"data":[[NaN,3.0,NaN,1],[-Infinity,4,"a",0]]}'
    )
    age, visits, city, member = decode(COLUMNS, b'{"dataframe_split":%b}' % row).inputs
    assert np.isnan(age[0])
    assert age[1] == -np.inf
    assert (visits.dtype, visits.tolist()) == (np.int32, [3, 4])
    assert (city.tolist(), member.tolist()) == ([None, "a"], [True, False])
    assert decode(MATRIX, b'\xef\xbb\xbf{"inputs":[[1,2],[3,4]]}').inputs[0].tolist() == ROWS


def test_one_row_may_be_a_record() -> None:
    record = {"age": 1, "visits": 3, "city": "Ulm", "member": True}
    for form in ("inputs", "instances"):
        decoded = decode(COLUMNS, {form: record})
        assert (decoded.rows, decoded.inputs[2].tolist()) == (1, ["Ulm"])


@pytest.mark.parametrize("kind", [b"application/xml", b"text/csv; charset=latin-1", b"text/json"])
def test_other_forms_are_unsupported(kind: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        decode(COLUMNS, b"", kind)
    assert refused.value.status == 415


@pytest.mark.parametrize("charset", [b"utf-8", b"UTF-8", b'"utf-8"', b"us-ascii"])
def test_charsets_that_are_utf8(charset: bytes) -> None:
    kind = b"application/json; charset=" + charset + b"; profile=x"
    assert decode(MATRIX, {"inputs": ROWS}, kind).rows == 2


@pytest.mark.parametrize(
    ("signature", "body", "kind", "message"),
    [
        (MATRIX, {}, JSON, "exactly one of"),
        (MATRIX, {"instances": ROWS, "inputs": ROWS}, JSON, "exactly one of"),
        (MATRIX, {"rows": ROWS}, JSON, "exactly one of"),
        (MATRIX, b"{", JSON, "not a scoring request"),
        (MATRIX, {"inputs": ROWS}, b"application/xml", "Content-Type"),
        (MATRIX, {"instances": []}, JSON, "shape|rows"),
        (MATRIX, {"inputs": ROWS, "params": [1]}, JSON, "params"),
        (MATRIX, {"inputs": ROWS, "params": {"outputs": "label"}}, JSON, "params.outputs"),
        (MATRIX, {"inputs": {"a": [1], "b": [1, 2]}}, JSON, "rows|size|dimension"),
        (MATRIX, {"dataframe_split": {"columns": ["a", "b"], "data": []}}, JSON, "no rows"),
        (MATRIX, b"a,b,a\n1,2,3\n", b"text/csv", "'a' is given twice"),
        (MATRIX, b'{"inputs":[[NaN,1]', JSON, "not a scoring request"),
        (MATRIX, b"a,b\n1_0,2\n", b"text/csv", "column 'a'"),
        (NAMELESS, b"1,0\n1,2\n", b"text/csv", "not in their order"),
        (NAMELESS, b"u,v,w\n1,2,3\n", b"text/csv", "there are 3 columns"),
        (NAMELESS, {"dataframe_records": [{"u": 1, "v": 2}, {"u": 3}]}, JSON, "row 1 has no 'v'"),
        (COLUMNS, ROW | {"visits": 2.5}, JSON, "'visits'"),
        (COLUMNS, ROW | {"visits": 2.0**60}, JSON, "'visits'"),
        (COLUMNS, ROW | {"visits": 2.0**40}, JSON, "'visits'"),
        (COLUMNS, ROW | {"visits": "3"}, JSON, "'visits'"),
        (COLUMNS, ROW | {"member": 2}, JSON, "'member'"),
        (COLUMNS, ROW | {"city": 5}, JSON, "'city'"),
        (MATRIX, {"instances": [[1.0]]}, JSON, "the shape"),
        (MATRIX, {"instances": [[1.0, "2"]]}, JSON, "'x'"),
        (MATRIX, {"instances": [[1.0, True]]}, JSON, "'x'"),
        (MATRIX, {"instances": [[1.0], [1.0, 2.0]]}, JSON, "'x'"),
        (MATRIX, {"dataframe_split": {"columns": ["a"], "data": ROWS}}, JSON, "row 0 has 2"),
        (MATRIX, {"dataframe_records": [{"a": 1}]}, JSON, "missing column 'b'"),
        (MATRIX, {"instances": ROWS, "params": {"outputs": ["z"]}}, JSON, "unknown output 'z'"),
        (COLUMNS, {"inputs": ROWS}, JSON, "named columns"),
        (COLUMNS, b"age,visits,city,member\n1,2.5,a,true\n", b"text/csv", "'visits'"),
        (COLUMNS, b"age,visits,city,member\n1,2,a,maybe\n", b"text/csv", "'member'"),
        (COLUMNS, b"age,visits,city,member\n1,2\n", b"text/csv", "row 1 has 2"),
        (COLUMNS, b"age\n", b"text/csv", "at least one row"),
        (COLUMNS, b"\xff\xfe", b"text/csv", "not readable"),
    ],
)
def test_what_is_wrong_is_named(signature: Signature, body: Any, kind: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        decode(signature, body, kind)


def test_missing_values_are_refused_if_the_model_says_so() -> None:
    body = {"instances": [[1.0, None]]}
    assert np.isnan(decode(MATRIX, body).inputs[0][0, 1])
    with pytest.raises(BadRequest, match="missing values"):
        decode(MATRIX, body, refuse_missing=True)


def test_answers() -> None:
    outputs = [np.array([1, 0]), np.array([[0.25, 0.75], [1.0, np.nan]])]
    protocol = Invocations(MATRIX, False)
    assert json.loads(protocol.encode(outputs, None)) == {"predictions": [1, 0]}
    both = json.loads(protocol.encode(outputs, [1, 0]))["predictions"]
    assert both == {"probability": [[0.25, 0.75], [1.0, None]], "label": [1, 0]}
    texts = Invocations(Signature(MATRIX.inputs, (TensorSpec("t", "BYTES", (-1,)),)), False)
    answer = texts.encode([np.array(["a", b"b", None], dtype=object)], None)
    assert json.loads(answer) == {"predictions": ["a", "b", None]}


def test_answers_of_a_frame_are_rows() -> None:
    outputs = [np.array([1.5, np.nan]), np.array(["a", np.nan], dtype=object)]
    two = Signature(
        MATRIX.inputs, (TensorSpec("s", "FP64", (-1,)), TensorSpec("t", "BYTES", (-1,)))
    )
    answer = json.loads(Invocations(two, False, Habits(("s", "t"))).encode(outputs, None))
    assert answer == {"predictions": [{"s": 1.5, "t": "a"}, {"s": None, "t": None}]}
    one = Signature(MATRIX.inputs, (TensorSpec("prediction", "FP64", (-1,)),))
    answer = json.loads(Invocations(one, False, Habits(("score",))).encode(outputs[:1], None))
    assert answer == {"predictions": [{"score": 1.5}, {"score": None}]}


KNOWN = Habits(
    parameters=(Parameter("temperature", float), Parameter("stop", str, True), Parameter("any"))
)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"any": {"x": [1]}, "outputs": None}, {"any": {"x": [1]}}),
        ({}, None),
    ],
)
def test_parameters_of_the_model(given: dict[str, Any], read: dict[str, Any] | None) -> None:
    protocol = Invocations(MATRIX, False, KNOWN)
    found = protocol.decode(json.dumps({"inputs": ROWS, "params": given}).encode(), JSON)
    assert found.own == (None if read is None else Own(read))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": "hot"}, "the parameter 'temperature': Expected `float`"),
        ({"temperature": None}, "the parameter 'temperature': Expected `float`"),
        ({"stop": "a"}, "the parameter 'stop': Expected `array`"),
        ({"temprature": 1}, "unknown parameter 'temprature': the model has 'temperature', 'stop'"),
    ],
)
def test_parameters_that_the_model_can_t_take(given: dict[str, Any], message: str) -> None:
    protocol = Invocations(MATRIX, False, KNOWN)
    with pytest.raises(BadRequest, match=message):
        protocol.decode(json.dumps({"inputs": ROWS, "params": given}).encode(), JSON)


OPTIONAL = Signature(
    (
        TensorSpec("a", "FP64", (-1,)),
        TensorSpec("b", "FP64", (-1,), optional=True),
        TensorSpec("c", "BYTES", (-1,), optional=True),
    ),
    (TensorSpec("y", "FP64", (-1,)),),
)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"dataframe_split": {"columns": ["a"], "data": [[1], [2]]}}, JSON),
        ({"dataframe_records": [{"a": 1}, {"a": 2}]}, JSON),
        ({"inputs": {"a": [1, 2]}}, JSON),
        (b"a\n1\n2\n", b"text/csv"),
    ],
)
def test_optional_columns_may_be_left_out(body: Any, kind: bytes) -> None:
    found = decode(OPTIONAL, body, kind, refuse_missing=True)
    assert found.own == Own(absent=frozenset("bc"))
    assert [array.tolist() for array in found.inputs[::2]] == [[1, 2], [None, None]]
    assert np.isnan(found.inputs[1]).all()


def test_what_is_given_of_optional_columns() -> None:
    records = [{"a": 1, "b": 2}, {"a": 3}]
    found = decode(OPTIONAL, {"dataframe_records": records}, refuse_missing=True)
    assert found.own == Own(absent=frozenset("c"))
    assert found.inputs[1].tolist()[0] == 2
    assert np.isnan(found.inputs[1][1])
    whole = {"inputs": {"a": [1], "b": [1], "c": ["x"]}}
    assert decode(OPTIONAL, whole).own is None
    for bad in ({"inputs": {"b": [1], "c": ["x"]}}, {"dataframe_records": [{}]}):
        with pytest.raises(BadRequest, match="missing column 'a'"):
            decode(OPTIONAL, bad)


def test_calls_of_a_model_that_takes_no_rows() -> None:
    signature = Signature(
        (TensorSpec("x", "FP32", (-1, -1, 2)), TensorSpec("rate", "INT64", (-1,))),
        (TensorSpec("y", "FP32", (-1, -1)),),
    )
    protocol = Invocations(signature, False, Habits(), whole=True)
    for rate in (8, [8]):
        body = {"inputs": {"x": [[1, 2], [3, 4], [5, 6]], "rate": rate}}
        found = protocol.decode(json.dumps(body).encode(), JSON)
        assert found.rows == 1
        assert found.own == Own(bare=True)
        assert [array.shape for array in found.inputs] == [(1, 3, 2), (1,)]
    with pytest.raises(BadRequest, match="'rate' is a single value"):
        protocol.decode(json.dumps({"inputs": {"x": [[1, 2]], "rate": [1, 2]}}).encode(), JSON)
    answer = json.loads(protocol.encode([np.array([1.0, 2.0])], None))
    assert answer == {"predictions": [1.0, 2.0]}


def test_dicts_that_a_model_gives_are_answered_as_such() -> None:
    one = Signature(MATRIX.inputs, (TensorSpec("prediction", "BYTES", (-1,)),))
    protocol = Invocations(one, False, Habits(structured=("prediction",)))
    answer = json.loads(protocol.encode([np.array(['{"A": 1}', None], dtype=object)], None))
    assert answer == {"predictions": [{"A": 1}, None]}
    named = Invocations(one, False, Habits(named=True))
    answer = json.loads(named.encode([np.array(["a"], dtype=object)], None))
    assert answer == {"predictions": {"prediction": ["a"]}}


@given(st.binary(), st.sampled_from([JSON, b"text/csv", b""]))
def test_nothing_but_a_request_or_a_refusal(body: bytes, kind: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(decode(COLUMNS, body, kind), Decoded)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx"), inner),
        max_leaves=8,
    ),
    st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]),
)
def test_no_json_breaks_it(value: Any, form: str) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(decode(MATRIX, {form: value}), Decoded)


def test_a_worker_answers_invocations(fleet: Any, bundles: Any) -> None:
    fleet.add(17, bundles.linear_onnx())
    fleet.write()
    fleet.start()
    client = fleet.client()
    path, headers = "/v2/models/linear/invocations", {"content-type": "application/json"}
    good = client.ask("POST", path, b'{"instances": [[1, 2, 3, 4]]}', headers)
    assert (good.status, good.body) == (200, {"predictions": [30.0]})
    bad = client.ask("POST", path, b'{"instances": [["a"]]}', headers)
    assert (bad.status, bad.body["error_code"]) == (400, "BAD_REQUEST")
    client.close()


def pickled(predict: Any) -> bytes:
    """A model with that function, code and all."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    class Model:
        def predict(self, inputs: Any) -> Any:
            return predict(inputs)

    return bytes(cloudpickle.dumps(Model()))


def test_a_worker_answers_calls_without_rows(fleet: Any, bundles: Any) -> None:
    def predict(inputs: Any) -> Any:
        assert inputs["rate"].shape == ()
        return {"y": inputs["x"] * inputs["rate"], "n": np.array(len(inputs["x"]))}

    made = bundles.write(
        "whole",
        "python",
        pickled(predict),
        {"x": np.ones((1, 3)), "rate": np.array([2])},
        {"y": np.full((1, 3), 2.0), "n": np.array([3])},
        signature=Signature(
            (TensorSpec("x", "FP64", (-1, -1)), TensorSpec("rate", "INT64", (-1,))),
            (TensorSpec("y", "FP64", (-1, -1)), TensorSpec("n", "INT64", (-1,))),
        ),
        options={"batch": WHOLE},
    )
    fleet.add(17, made)
    fleet.write()
    fleet.start()
    client = fleet.client()
    about = client.ask("GET", "/v2/models/whole")
    assert [one["shape"] for one in about.body["inputs"]] == [[-1], []]
    assert [one["shape"] for one in about.body["outputs"]] == [[-1], []]
    tensors = [
        {"name": "x", "datatype": "FP64", "shape": [4], "data": [1, 2, 3, 4]},
        {"name": "rate", "datatype": "INT64", "shape": [], "data": [10]},
    ]
    found = client.ask("POST", "/v2/models/whole/infer", json.dumps({"inputs": tensors}).encode())
    assert found.status == 200
    assert [(o["name"], o["shape"], o["data"]) for o in found.body["outputs"]] == [
        ("y", [4], [10, 20, 30, 40]),
        ("n", [], [4]),
    ]
    tensors[1].update(shape=[2], data=[1, 5])
    tensors[0]["shape"] = [2, 2]
    found = client.ask("POST", "/v2/models/whole/infer", json.dumps({"inputs": tensors}).encode())
    assert [(o["shape"], o["data"]) for o in found.body["outputs"]] == [
        ([2, 2], [1, 2, 15, 20]),
        ([2], [2, 2]),
    ]
    path, headers = "/v2/models/whole/invocations", {"content-type": "application/json"}
    asked = b'{"inputs": {"x": [1, 2], "rate": 3}}'
    found = client.ask("POST", path, asked, headers)
    assert found.body == {"predictions": {"y": [3, 6], "n": 2}}
    client.close()
    records = fleet.records()
    assert [record.rows for record in records] == [1, 2, 1]
    spec = TensorSpec("x", "FP64", (-1, -1))
    assert unpack(spec, records[0].inputs[0], 1).tolist() == [[1, 2, 3, 4]]
