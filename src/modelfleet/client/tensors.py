"""Python values as Open Inference Protocol tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NUMPY = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


def encode(inputs: object, datatypes: Mapping[str, str] | None = None) -> dict[str, object]:
    """The body of an inference request.

    inputs: a matrix (numpy or nested lists; sent as the tensor `x`), or a mapping of tensor name
    to values, or a frame (its columns). Lists of whole numbers in a mapping go as INT64, other
    numbers as FP64; `datatypes` by tensor name say otherwise.
    """
    tensors = _tensors(inputs)
    for tensor in tensors:
        tensor["datatype"] = (datatypes or {}).get(str(tensor["name"]), tensor["datatype"])
    return {"inputs": tensors}


def _tensors(inputs: object) -> list[dict[str, object]]:
    if isinstance(inputs, Mapping):
        return [_tensor(str(name), values) for name, values in inputs.items()]
    columns = getattr(inputs, "columns", None)
    if columns is not None:  # a polars or pandas frame
        frame: Any = inputs
        return [_tensor(str(name), frame[name].to_numpy()) for name in columns]
    return [_tensor("x", inputs, matrix=True)]


def _tensor(name: str, values: Any, matrix: bool = False) -> dict[str, object]:
    dtype = getattr(values, "dtype", None)
    if dtype is not None:
        datatype = _NUMPY.get(str(dtype), "BYTES")
        flat = values.reshape(-1).tolist()
        if datatype == "BYTES":  # frames write NaN where a text is missing
            flat = [None if value != value else value for value in flat]
        return _described(name, datatype, list(values.shape), flat)
    shape, flat = _flatten(values)
    datatype = "FP64" if matrix else _guess(flat)
    return _described(name, datatype, shape, flat)


def _described(
    name: str, datatype: str, shape: Sequence[int], data: list[Any]
) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def _flatten(values: Any) -> tuple[list[int], list[Any]]:
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        return [], [values.item() if hasattr(values, "item") else values]
    shape: list[int] = []
    flat: list[Any] = []
    for one in values:
        shape, part = _flatten(one)
        flat += part
    return [len(values), *shape], flat


def _guess(flat: list[Any]) -> str:
    if all(isinstance(value, bool) for value in flat):
        return "BOOL"
    if all(isinstance(value, int) for value in flat):
        return "INT64"
    if all(isinstance(value, (int, float)) for value in flat):
        return "FP64"
    return "BYTES"
