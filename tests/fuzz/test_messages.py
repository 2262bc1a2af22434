"""gRPC messages, definitions of pipelines, and what their steps answer."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from inputs import anything, binary_bodies, fuzz, integers, json_bodies, mangled
from target import SIGNATURES, Target, check

from modelfleet.compat.grpc import open_inference_pb2 as pb
from modelfleet.compat.grpc.messages import Malformed, request_body
from modelfleet.core.errors import InvalidInput
from modelfleet.serving.pipelines.definition import Definition, parse_condition, read
from modelfleet.serving.pipelines.executor.messages import error_of, read_answer
from modelfleet.serving.pipelines.executor.values import Unusable
from modelfleet_worker.wire.signature import DTYPES

_FIELDS = [f.name for f in pb.InferTensorContents.DESCRIPTOR.fields]
_INT64 = st.integers(-(2**63), 2**63 - 1)
_CLEAN = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def contents(draw: st.DrawFn) -> pb.InferTensorContents:
    made = pb.InferTensorContents()
    for name in draw(st.lists(st.sampled_from(_FIELDS), max_size=2)):
        values: Any = {
            "bool_contents": st.booleans(),
            "int_contents": st.integers(-(2**31), 2**31 - 1),
            "int64_contents": _INT64,
            "uint_contents": st.integers(0, 2**32 - 1),
            "uint64_contents": st.integers(0, 2**64 - 1),
            "fp32_contents": st.floats(width=32),
            "fp64_contents": st.floats(),
            "bytes_contents": st.binary(max_size=6),
        }[name]
        getattr(made, name).extend(draw(st.lists(values, max_size=4)))
    return made


@st.composite
def grpc_requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="m2", id=draw(_CLEAN))
    names = [spec.name for spec in SIGNATURES[2].inputs]
    for name in draw(st.lists(st.sampled_from(names) | _CLEAN, max_size=14)):
        tensor = made.inputs.add(name=name)
        tensor.datatype = draw(st.just(name.upper()) | st.sampled_from(list(DTYPES)) | _CLEAN)
        tensor.shape.extend(draw(st.just([1]) | st.lists(_INT64, max_size=3)))
        if draw(st.integers(0, 4)):
            tensor.contents.CopyFrom(draw(contents()))
        for key in draw(st.lists(st.sampled_from(["binary_data_size", "data", "x"]), max_size=1)):
            tensor.parameters[key].double_param = draw(st.floats())
    made.raw_input_contents.extend(draw(st.lists(st.binary(max_size=9), max_size=3)))
    for key in draw(st.lists(st.sampled_from(["binary_data_output", "sequence_id"]), max_size=2)):
        made.parameters[key].int64_param = draw(_INT64)
    for name in draw(st.lists(st.sampled_from(["fp64_back", "bytes_back"]) | _CLEAN, max_size=2)):
        made.outputs.add(name=name)
    return made


def _through(target: Target, request: pb.ModelInferRequest) -> None:
    try:
        body, size = request_body(request)
    except Malformed:
        return
    check(target.infer(2, body, {"inference-header-content-length": str(size)}))


@fuzz
@given(request=grpc_requests())
def test_grpc_messages(target: Target, request: pb.ModelInferRequest) -> None:
    _through(target, request)


@fuzz
@given(data=st.data())
def test_grpc_bytes(target: Target, data: st.DataObject) -> None:
    content = data.draw(mangled(data.draw(grpc_requests()).SerializeToString()))
    try:
        request = pb.ModelInferRequest.FromString(content)
    except DecodeError:
        return  # grpc answers these by itself
    _through(target, request)


_PIPELINE: dict[str, Any] = {
    "name": "p",
    "team": "t",
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}],
    "steps": [{"name": "s", "model": "m", "inputs": {"x": "input.x"}, "when": "input.x[0] > 1"}],
    "outputs": {"y": {"concat": ["s.y", {"cast": "s.y", "to": "FP32"}]}},
}


@fuzz
@given(data=st.data())
@example(data=None)
def test_definitions(data: st.DataObject | None) -> None:
    document: Any = json.loads(json.dumps(_PIPELINE))
    if data is None:
        deep: Any = "input.x"
        for _ in range(5000):
            deep = {"concat": [deep]}
        document["outputs"]["y"] = deep
    else:
        for _ in range(data.draw(st.integers(0, 3))):
            holder = data.draw(st.sampled_from(_holders(document)))
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if keys:
                holder[data.draw(st.sampled_from(keys))] = data.draw(anything)
    with contextlib.suppress(InvalidInput):
        assert isinstance(read(document), Definition)


def _holders(plain: Any) -> list[Any]:
    inner = plain.values() if isinstance(plain, dict) else plain
    found = [plain]
    for value in inner:
        if isinstance(value, (dict, list)):
            found += _holders(value)
    return found


@fuzz
@given(text=st.text(st.characters() | st.sampled_from('<>=! ."[]0'), max_size=40))
@example(text="a >" + " " * 20_000 + "\n" + " " * 20_000 + "\nx")
@example(text="a" * 50_000)
@example(text="a[" * 20_000)
@example(text='a > "\ud800"')
def test_conditions(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_condition(text)


@pytest.mark.parametrize("index", sorted(SIGNATURES))
@fuzz
@given(data=st.data())
def test_answers_of_steps(index: int, data: st.DataObject) -> None:
    """What a step answers comes from a model: it may be anything."""
    outputs = SIGNATURES[index].inputs  # requests and answers have the same form
    if data.draw(st.booleans()):
        body, size = data.draw(binary_bodies(index))
    else:
        body, size = data.draw(json_bodies(index)), ""
    body = body.replace(b'"inputs"', b'"outputs"')
    with contextlib.suppress(Unusable):
        read_answer(body, size.encode() or None, outputs, data.draw(st.integers(1, 3)))
    assert isinstance(error_of(body), str)


@fuzz
@given(tensor=st.dictionaries(st.sampled_from(["shape", "data"]), anything | integers))
def test_an_answer_without_a_tail(tensor: dict[str, Any]) -> None:
    (spec,) = SIGNATURES[5].inputs
    body = json.dumps({"outputs": [{"name": "x", "datatype": "INT64", "shape": [], **tensor}]})
    with contextlib.suppress(Unusable):
        read_answer(body.encode("utf-8", "surrogatepass"), None, [spec], 1)
