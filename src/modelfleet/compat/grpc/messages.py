"""gRPC messages to bodies of HTTP requests with raw tensors, and answers back."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from modelfleet.compat.grpc import open_inference_pb2 as pb

_DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP32": "<f4",
    "FP64": "<f8",
}
_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_LENGTH = struct.Struct("<I")


class Malformed(Exception):
    """The request is none; the message is for the client."""


class _Size(msgspec.Struct):
    binary_data_size: int = 0


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: _Size


class _Answer(msgspec.Struct):
    model_name: str
    model_version: str
    id: str
    outputs: list[_Output]


_decode_answer = msgspec.json.Decoder(_Answer).decode


def request_body(request: pb.ModelInferRequest) -> tuple[bytes, int]:
    """The body, and the size of the JSON in front of the raw tensors. `Malformed` says why not."""
    raw = _raw_inputs(request)
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {**_plain(tensor.parameters), "binary_data_size": len(content)},
        }
        for tensor, content in zip(request.inputs, raw, strict=True)
    ]
    parameters = {**_plain(request.parameters), "binary_data_output": True}
    head: dict[str, object] = {"inputs": inputs, "parameters": parameters}
    if request.id:
        head["id"] = request.id
    if request.outputs:
        head["outputs"] = [
            {"name": o.name, "parameters": {**_plain(o.parameters), "binary_data": True}}
            for o in request.outputs
        ]
    encoded = msgspec.json.encode(head)
    return b"".join((encoded, *raw)), len(encoded)


def response(body: bytes, json_size: int, *, raw: bool) -> pb.ModelInferResponse:
    """The answer as a message. raw: tensors as bytes, as the request had them; else typed."""
    answer = _decode_answer(body[:json_size])
    found = pb.ModelInferResponse(
        model_name=answer.model_name, model_version=answer.model_version, id=answer.id
    )
    raw = raw or any(output.datatype not in _FIELDS for output in answer.outputs)
    at = json_size
    for output in answer.outputs:
        content = body[at : at + output.parameters.binary_data_size]
        at += len(content)
        tensor = found.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        if raw:
            found.raw_output_contents.append(content)
        else:
            values = getattr(tensor.contents, _FIELDS[output.datatype])
            values.extend(_values(output.datatype, content))
    return found


def _raw_inputs(request: pb.ModelInferRequest) -> Sequence[bytes]:
    if not request.raw_input_contents:
        return [_raw(tensor) for tensor in request.inputs]
    if len(request.raw_input_contents) != len(request.inputs):
        raise Malformed(
            f"there are {len(request.inputs)} inputs, but "
            f"{len(request.raw_input_contents)} raw_input_contents"
        )
    if any(tensor.HasField("contents") for tensor in request.inputs):
        raise Malformed("raw_input_contents and contents exclude each other")
    return list(request.raw_input_contents)


def _raw(tensor: pb.ModelInferRequest.InferInputTensor) -> bytes:
    field = _FIELDS.get(tensor.datatype)
    if field is None:
        raise Malformed(
            f"tensor {tensor.name!r}: {tensor.datatype[:20]!r} has no typed contents; "
            "send it as raw_input_contents"
        )
    for other, _ in tensor.contents.ListFields():
        if other.name != field:
            raise Malformed(
                f"tensor {tensor.name!r} is {tensor.datatype}, its contents are {other.name}"
            )
    values = getattr(tensor.contents, field)
    if field == "bytes_contents":
        return b"".join(_LENGTH.pack(len(value)) + value for value in values)
    try:
        return np.array(list(values), dtype=_DTYPES[tensor.datatype]).tobytes()
    except OverflowError as error:
        raise Malformed(f"tensor {tensor.name!r}: {error}") from error


def _values(datatype: str, content: bytes) -> Sequence[Any]:
    if datatype != "BYTES":
        values: list[Any] = np.frombuffer(content, dtype=_DTYPES[datatype]).tolist()
        return values
    found: list[bytes] = []
    at = 0
    while at < len(content):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(content, start - _LENGTH.size)[0]
        found.append(content[start:at])
    return found


def _plain(parameters: Mapping[str, pb.InferParameter]) -> dict[str, object]:
    found = {}
    for name, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(value, kind)
    return found
