"""Arrays to answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

import msgspec

from modelfleet_worker import binary
from modelfleet_worker.wire.signature import Array, Signature

_encode_json = msgspec.json.Encoder().encode


class _OutTensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class _RawSize(msgspec.Struct):
    binary_data_size: int


class _RawTensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _RawSize


class _Answer(msgspec.Struct):
    model_name: str
    model_version: str
    id: str
    outputs: Sequence[Union[_OutTensor, _RawTensor]]


class AnswerEncoder:
    """Writes the answers of one version."""

    def __init__(self, signature: Signature, version: str) -> None:
        self._version = version
        self._outputs = [(spec.name, spec.datatype) for spec in signature.outputs]

    def encode(
        self, name: str, answer_id: str, outputs: Sequence[Array], chosen: Optional[list[int]]
    ) -> bytes:
        """The JSON body. name: of the endpoint that was called."""
        tensors: list[_OutTensor] = []
        for position in range(len(outputs)) if chosen is None else chosen:
            tensors.append(self._plain(position, outputs[position]))
        return _encode_json(_Answer(name, self._version, answer_id, tensors))

    def encode_mixed(
        self,
        name: str,
        answer_id: str,
        outputs: Sequence[Array],
        chosen: Optional[list[int]],
        raw: frozenset[int],
    ) -> tuple[bytes, int]:
        """JSON with the raw tensors behind it, and the size of the JSON."""
        tensors: list[Union[_OutTensor, _RawTensor]] = []
        tail: list[bytes] = []
        for position in range(len(outputs)) if chosen is None else chosen:
            if position not in raw:
                tensors.append(self._plain(position, outputs[position]))
                continue
            output, datatype = self._outputs[position]
            tail.append(binary.write(outputs[position], datatype))
            size = _RawSize(len(tail[-1]))
            tensors.append(_RawTensor(output, datatype, outputs[position].shape, size))
        head = _encode_json(_Answer(name, self._version, answer_id, tensors))
        return b"".join((head, *tail)), len(head)

    def _plain(self, position: int, array: Array) -> _OutTensor:
        output, datatype = self._outputs[position]
        flat = array.ravel().tolist()
        if datatype == "BYTES":
            flat = [readable(value) for value in flat]
        return _OutTensor(output, datatype, array.shape, flat)


def readable(value: Any) -> Optional[str]:
    """An element of a BYTES tensor as JSON has it; what is missing is null."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and value != value):
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
