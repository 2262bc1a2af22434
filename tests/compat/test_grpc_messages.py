"""gRPC messages to HTTP bodies and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from modelfleet.compat.grpc import open_inference_pb2 as pb
from modelfleet.compat.grpc.messages import Malformed, request_body, response
from modelfleet_worker.oip import AnswerEncoder, RequestDecoder
from modelfleet_worker.wire.signature import DTYPES, Signature, TensorSpec

TYPED = [
    ("BOOL", "bool_contents", [True, False]),
    ("INT8", "int_contents", [-1, 1]),
    ("INT16", "int_contents", [-300, 1]),
    ("INT32", "int_contents", [-70000, 1]),
    ("INT64", "int64_contents", [-(2**40), 1]),
    ("UINT8", "uint_contents", [255, 1]),
    ("UINT16", "uint_contents", [65535, 1]),
    ("UINT32", "uint_contents", [2**32 - 1, 1]),
    ("UINT64", "uint64_contents", [2**64 - 1, 1]),
    ("FP32", "fp32_contents", [0.5, -1]),
    ("FP64", "fp64_contents", [0.1, -1]),
    ("BYTES", "bytes_contents", ["ü".encode(), b""]),
]


def infer(datatype: str, field: str, values: list[Any], **more: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m", **more)
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(tensor.contents, field).extend(values)
    return request


@pytest.mark.parametrize(("datatype", "field", "values"), TYPED)
def test_typed_contents_there_and_back(datatype: str, field: str, values: list[Any]) -> None:
    """Through the worker's own decoder and encoder."""
    spec = TensorSpec("x", datatype, (-1,))
    signature = Signature((spec,), (spec,))
    body, size = request_body(infer(datatype, field, values, id="mine"))
    decoded = RequestDecoder(signature).decode(body, b"%d" % size)
    assert (decoded.id, decoded.raw) == ("mine", {0})
    made, head = AnswerEncoder(signature, "1.0.0").encode_mixed(
        "m", "mine", decoded.inputs, None, decoded.raw
    )
    answer = response(made, head, raw=False)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1.0.0", "mine")
    assert list(getattr(answer.outputs[0].contents, field)) == values
    assert list(answer.outputs[0].shape) == [2]


def test_raw_contents_of_half_floats() -> None:
    values = np.array([1.5, -2], dtype=DTYPES["FP16"])
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[values.tobytes()])
    request.inputs.add(name="x", datatype="FP16", shape=[2])
    request.outputs.add(name="x")
    body, size = request_body(request)
    spec = TensorSpec("x", "FP16", (-1,))
    decoded = RequestDecoder(Signature((spec,), (spec,))).decode(body, b"%d" % size)
    assert decoded.inputs[0].tolist() == [1.5, -2]
    assert (decoded.outputs, decoded.raw) == ([0], {0})


def test_parameters_are_passed_on() -> None:
    request = infer("FP32", "fp32_contents", [1, 2])
    request.parameters["seed"].int64_param = 7
    request.inputs[0].parameters["content_type"].string_param = "np"
    body, size = request_body(request)
    head = json.loads(body[:size])
    assert head["parameters"] == {"seed": 7, "binary_data_output": True}
    assert head["inputs"][0]["parameters"] == {"content_type": "np", "binary_data_size": 8}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (infer("FP64", "fp32_contents", [1]), "its contents are fp32_contents"),
        (infer("FP16", "fp32_contents", [1]), "raw_input_contents"),
        (infer("WHAT", "fp32_contents", [1]), "no typed contents"),
        (infer("INT8", "int_contents", [300]), "out of bounds"),
        (infer("FP32", "fp32_contents", [1], raw_input_contents=[b"", b""]), "1 inputs, but 2"),
        (infer("FP32", "fp32_contents", [1], raw_input_contents=[b"1234"]), "exclude each other"),
    ],
)
def test_what_does_not_fit_is_named(request_: pb.ModelInferRequest, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        request_body(request_)
