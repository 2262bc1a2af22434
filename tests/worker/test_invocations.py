"""MLflow's scoring protocol."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_worker.invocations import Invocations
from modelfleet_worker.oip import BadRequest, Decoded
from modelfleet_worker.wire.signature import Signature, TensorSpec

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
ROWS = [[1.0, 2.0], [3.0, 4.0]]


def decode(signature: Signature, body: Any, kind: bytes = JSON, **options: bool) -> Decoded:
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
    assert (visits.tolist(), city.tolist()) == ([3, 4], ["Ulm, Donau", ""])
    assert member.tolist() == [True, False]


@pytest.mark.parametrize(
    ("signature", "body", "kind", "message"),
    [
        (MATRIX, {}, JSON, "exactly one of"),
        (MATRIX, {"instances": ROWS, "inputs": ROWS}, JSON, "exactly one of"),
        (MATRIX, {"rows": ROWS}, JSON, "rows"),
        (MATRIX, b"{", JSON, "not a scoring request"),
        (MATRIX, {"inputs": ROWS}, b"application/xml", "Content-Type"),
        (MATRIX, {"instances": []}, JSON, "shape|rows"),
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
