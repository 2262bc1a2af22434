"""Bodies of calls and answers: tensors go raw between steps, and to clients as they wish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from modelfleet.serving.pipelines.executor.values import Unusable, like
from modelfleet_worker import binary
from modelfleet_worker.wire.signature import Array, TensorSpec

_encode = msgspec.json.Encoder().encode


class _Size(msgspec.Struct):
    binary_data_size: int | None = None


class _Tensor(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: list[int]
    parameters: _Size | None = None
    data: list[Any] | None = None


class _Answer(msgspec.Struct):
    outputs: list[_Tensor]


class _Error(msgspec.Struct):
    error: str = ""


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_error = msgspec.json.Decoder(_Error).decode


def call_body(
    specs: Sequence[TensorSpec], arrays: Sequence[Array], outputs: Sequence[TensorSpec]
) -> tuple[bytes, int]:
    """The request of a step, all raw, and the size of its JSON."""
    tensors, tail = [], []
    for spec, array in zip(specs, arrays, strict=True):
        raw = binary.write(array, spec.datatype)
        tail.append(raw)
        tensors.append(_Tensor(spec.name, spec.datatype, list(array.shape), _Size(len(raw))))
    wanted = [{"name": spec.name, "parameters": {"binary_data": True}} for spec in outputs]
    head = _encode({"inputs": tensors, "outputs": wanted})
    return b"".join((head, *tail)), len(head)


def read_answer(
    body: bytes, json_size: bytes | None, outputs: Sequence[TensorSpec], rows: int
) -> list[Array]:
    """The outputs of a step, in their order. Raises `Unusable`."""
    try:
        head, tail = binary.split(body, json_size or b"%d" % len(body))
        answer = _decode_answer(head)
        wanted = {spec.name: spec for spec in outputs}
        found: dict[str, Array] = {}
        for tensor in answer.outputs:
            spec = wanted.get(tensor.name)
            size = tensor.parameters.binary_data_size if tensor.parameters else None
            raw = tail.take(size) if size is not None else None
            if spec is None:
                continue
            if tensor.datatype != spec.datatype:
                raise Unusable(
                    f"the output {spec.name!r} is {tensor.datatype} now, no longer {spec.datatype}"
                )
            found[spec.name] = _array(spec, tensor, raw)
    except (ValueError, OverflowError, TypeError, RecursionError) as error:  # of msgspec, numpy
        raise Unusable(f"the answer can't be read: {error}") from error
    for spec in outputs:
        if spec.name not in found:
            raise Unusable(f"the answer lacks the output {spec.name!r}")
        like(spec, found[spec.name], rows)
    return [found[spec.name] for spec in outputs]


def _array(spec: TensorSpec, tensor: _Tensor, raw: memoryview | None) -> Array:
    if raw is not None:
        return binary.read(spec, tuple(tensor.shape), raw)
    return np.array(tensor.data, dtype=spec.dtype).reshape(tensor.shape)


def error_of(body: bytes) -> str:
    """What an answer that is no good one says."""
    try:
        return _decode_error(body).error[:300]
    except (ValueError, RecursionError):
        return body[:100].decode(errors="replace")


def answer_body(
    name: str,
    revision: int,
    answer_id: str,
    outputs: Mapping[TensorSpec, Array],
    raw: frozenset[str],
    parameters: Mapping[str, object],
) -> tuple[bytes, int | None]:
    """The answer of a pipeline; and the size of its JSON, if outputs (`raw`) follow it."""
    tensors, tail = [], []
    for spec, array in outputs.items():
        shape = list(array.shape)
        if spec.name in raw:
            tail.append(binary.write(array, spec.datatype))
            tensors.append(_Tensor(spec.name, spec.datatype, shape, _Size(len(tail[-1]))))
            continue
        flat = array.ravel().tolist()
        if spec.datatype == "BYTES":
            flat = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in flat]
        tensors.append(_Tensor(spec.name, spec.datatype, shape, data=flat))
    body: dict[str, object] = {"model_name": name, "model_version": str(revision), "id": answer_id}
    if parameters:
        body["parameters"] = parameters
    head = _encode({**body, "outputs": tensors})
    return b"".join((head, *tail)), len(head) if tail else None
