"""Raw tensors behind the JSON of a body, both ways."""

from __future__ import annotations

import contextlib
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_worker import binary
from modelfleet_worker.oip import AnswerEncoder, BadRequest, Decoded, RequestDecoder
from modelfleet_worker.wire.signature import DTYPES, Signature, TensorSpec

MIXED = Signature(
    (TensorSpec("x", "FP64", (-1, 2)), TensorSpec("s", "BYTES", (-1,))),
    (TensorSpec("y", "FP64", (-1,)), TensorSpec("z", "BYTES", (-1,))),
)
X = np.array([[1.0, 2.0]])
TEXT = b"\x02\0\0\0\xc3\xbc"


def raw(name: str, datatype: str, shape: list[int], size: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def request(*tensors: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": tensors, **more}).encode()


GOOD = request(raw("s", "BYTES", [1], len(TEXT)), raw("x", "FP64", [1, 2], 16))
TAIL = TEXT + X.tobytes()


def decode(head: bytes, tail: bytes, **options: bool) -> Decoded:
    return RequestDecoder(MIXED, **options).decode(head + tail, b"%d" % len(head))


def test_tensors_follow_in_the_order_of_the_request() -> None:
    decoded = decode(GOOD, TAIL)
    assert [array.tolist() for array in decoded.inputs] == [[[1, 2]], ["ü"]]
    assert decoded.inputs[0].flags.writeable


def test_json_and_raw_tensors_mixed() -> None:
    text = {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["ü"]}
    decoded = decode(request(text, raw("x", "FP64", [1, 2], 16)), X.tobytes())
    assert [array.tolist() for array in decoded.inputs] == [[[1, 2]], ["ü"]]


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_all_datatypes_there_and_back(datatype: str) -> None:
    spec = TensorSpec("x", datatype, (-1, 2))
    values: Any = [["a", "ü"], ["", b"\xff"]] if datatype == "BYTES" else [[0, 1], [1, 0]]
    array = np.array(values, dtype=spec.dtype)
    written = binary.write(array, datatype)
    head = request(raw("x", datatype, [2, 2], len(written)))
    decoder = RequestDecoder(Signature((spec,), (spec,)))
    found = decoder.decode(head + written, b"%d" % len(head)).inputs[0]
    assert found.dtype == spec.dtype
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("head", "tail", "message"),
    [
        (GOOD, TAIL[:-1], "binary_data_size is 16, but 15 bytes"),
        (GOOD, TAIL + b"x", "1 bytes follow the JSON"),
        (GOOD, b"\x09" + TAIL[1:], "element 0 is longer"),
        (GOOD, b"\x01" + TAIL[1:], "1 bytes follow the last of 1"),
        (GOOD.replace(b"[1]", b"[2]"), TAIL, "too few bytes|before element"),
        (GOOD.replace(b"[1]", b"[99999999999999]"), TAIL, "too few bytes"),
        (GOOD.replace(b"[1, 2]", b"[2, 2]"), TAIL, "needs 32"),
        (GOOD.replace(b"16}", b"-1}"), TAIL, "binary_data_size is -1"),
        (GOOD.replace(b"16}", b'"a"}'), TAIL, "binary_data_size"),
        (GOOD.replace(b'"FP64"', b'"FP64", "data": [1, 2]'), TAIL, "both data and"),
    ],
)
def test_what_does_not_fit_is_named(head: bytes, tail: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        decode(head, tail)


@pytest.mark.parametrize("header", [b"", b"-1", b"1e3", b"9" * 20, b"100000", b"\xb2"])
def test_a_wrong_header(header: bytes) -> None:
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length"):
        RequestDecoder(MIXED).decode(GOOD + TAIL, header)


def test_sizes_without_a_header() -> None:
    with pytest.raises(BadRequest, match="no header Inference-Header-Content-Length"):
        RequestDecoder(MIXED).decode(GOOD)


def test_missing_values_and_wrong_booleans_are_refused() -> None:
    with pytest.raises(BadRequest, match="'x' holds null, NaN"):
        decode(GOOD, TEXT + np.array([1, np.nan]).tobytes(), refuse_missing=True)
    spec = TensorSpec("b", "BOOL", (-1,))
    with pytest.raises(ValueError, match="0 or 1"):
        binary.read(spec, (2,), memoryview(b"\x01\x02"))


def test_which_outputs_are_raw() -> None:
    wish = {"name": "z", "parameters": {"binary_data": True}}
    text = {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    x = {"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}
    decoder = RequestDecoder(MIXED)
    assert decoder.decode(request(x, text, outputs=[wish, {"name": "y"}])).raw == {1}
    everything = {"binary_data_output": True}
    assert decoder.decode(request(x, text, parameters=everything)).raw == {0, 1}
    matrix = RequestDecoder(Signature(MIXED.inputs[:1], MIXED.outputs))
    assert matrix.decode(request(x, parameters=everything)).raw == {0, 1}
    assert matrix.decode(request(x)).raw == frozenset()


def test_answers_mixed() -> None:
    outputs = [np.array([1.5, np.nan]), np.array(["ü", None], dtype=object)]
    encoder = AnswerEncoder(MIXED, "1.0.0")
    body, size = encoder.encode_mixed("m", "id", outputs, [1, 0], frozenset([1]))
    first, second = json.loads(body[:size])["outputs"]
    assert (first["parameters"], "data" in first) == ({"binary_data_size": 10}, False)
    assert body[size:] == TEXT + b"\0\0\0\0"
    assert second["data"] == [1.5, None]


@given(
    st.one_of(st.binary(max_size=20), st.integers(-2, 300).map(lambda n: b"%d" % n)),
    st.one_of(st.binary(), st.just(GOOD + TAIL), st.binary().map(lambda tail: GOOD + tail)),
)
def test_nothing_but_a_request_or_a_refusal(header: bytes, body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(RequestDecoder(MIXED).decode(body, header), Decoded)


def test_a_worker_answers_raw(fleet: Any, bundles: Any) -> None:
    fleet.add(17, bundles.linear_onnx())
    fleet.write()
    fleet.start()
    values = np.array([[1.0, 2.0, 3.0, 4.0]])
    wish = {"binary_data_output": True}
    head = request(raw("x", "FP64", [1, 4], 32), parameters=wish)
    client = fleet.client()
    named = {binary.HEADER.decode(): str(len(head)), "content-type": "application/octet-stream"}
    for encoding in ("identity", "deflate"):
        body = head + values.tobytes()
        sent = zlib.compress(body) if encoding == "deflate" else body
        headers = {**named, "content-encoding": encoding}
        client.request("POST", "/v2/models/linear/infer", sent, headers)
        answer = client.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        assert answer.getheader("content-type") == "application/octet-stream"
        size = int(answer.getheader(binary.HEADER.decode()))
        assert np.frombuffer(content[size:]).tolist() == [30.0]
    bad = client.ask(
        "POST", "/v2/models/linear/infer", head, {**named, binary.HEADER.decode(): "x"}
    )
    assert bad.status == 400
    assert "Inference-Header-Content-Length" in bad.error
    client.close()
