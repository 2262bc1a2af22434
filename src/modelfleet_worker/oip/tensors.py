"""One tensor of a request as an array: from JSON, flat or nested, or from the bytes behind it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Optional, Union

import msgspec
import numpy as np

from modelfleet_worker import binary
from modelfleet_worker.oip.envelopes import NO_SHARED_MEMORY, Loose, Tensor
from modelfleet_worker.wire.signature import DTYPES, Array, TensorSpec
from modelfleet_worker.wishes import BadRequest

_MAX_DEPTH = 8
_UNEQUAL = "its rows are not equally long"


def _element(datatype: str) -> Any:
    """The JSON type of one element."""
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        return float
    if dtype.kind == "O":
        return str
    if dtype.kind == "b":
        return bool
    if dtype == np.uint64:
        return Annotated[int, msgspec.Meta(ge=0)]  # above 2^64 numpy refuses
    info = np.iinfo(dtype)
    return Annotated[int, msgspec.Meta(ge=int(info.min), le=int(info.max))]


class _Reader:
    """Typed decoders for the data of one datatype at one depth of nesting."""

    def __init__(self, datatype: str, depth: int) -> None:
        element = _element(datatype)
        self.nullable = DTYPES[datatype].kind in "fO"
        self._strict_type = _nested(element, depth)
        self._null_type = _nested(Optional[element], depth) if self.nullable else None
        self._strict = msgspec.json.Decoder(self._strict_type).decode
        self._null = msgspec.json.Decoder(self._null_type).decode if self.nullable else None

    def read(self, data: Union[msgspec.Raw, list[Any]]) -> tuple[list[Any], bool]:
        """The values, and whether there may be null or NaN among them."""
        if isinstance(data, list):
            return msgspec.convert(data, type=self._null_type or self._strict_type), True
        try:
            return self._strict(data), False
        except msgspec.ValidationError:
            if self._null is None or b"null" not in bytes(data):
                raise
            return self._null(data), True


def _nested(element: Any, depth: int) -> Any:
    for _ in range(depth):
        element = list[element]
    return element


_readers = {
    datatype: [_Reader(datatype, depth) for depth in range(1, _MAX_DEPTH + 1)]
    for datatype in DTYPES
}


def read_array(
    spec: TensorSpec,
    tensor: Union[Tensor, Loose],
    tail: Optional[binary.Tail],
    refuse_missing: bool,
) -> Array:
    if tensor.datatype != spec.datatype:
        raise BadRequest(
            f"tensor {spec.name!r} has the datatype {tensor.datatype!r}, "
            f"the model takes {spec.datatype!r}"
        )
    shape = tuple(tensor.shape)
    if shape[1:] != spec.shape[1:] or not shape or shape[0] < 1 or spec.shape[0] != -1:
        _check_shape(spec, shape)
    size = None
    if tensor.parameters is not None:
        size = tensor.parameters.binary_data_size
        if tensor.parameters.shared_memory_region is not None:
            raise BadRequest(f"tensor {spec.name!r}: {NO_SHARED_MEMORY}")
    if size is None:
        array, doubtful = _from_json(spec, shape, tensor.data)
    else:
        array, doubtful = _from_tail(spec, shape, tensor.data, size, tail), True
    if doubtful and refuse_missing and not spec.optional and _has_gaps(array):
        raise BadRequest(f"tensor {spec.name!r} holds null, NaN or infinity, which is refused")
    return array.reshape(len(array)) if array.ndim > len(spec.shape) else array


def _from_json(
    spec: TensorSpec, shape: tuple[int, ...], data: Union[msgspec.Raw, list[Any], None]
) -> tuple[Array, bool]:
    """The array, and whether there may be null or NaN in it."""
    depth = depth_of(data)
    if data is None or (depth != 1 and depth != len(shape)) or depth > _MAX_DEPTH:
        raise BadRequest(
            f"tensor {spec.name!r}: data must be a flat array, or nested as deep as its shape "
            f"{list(shape)}" + ("" if depth else "; there is none")
        )
    try:
        values, doubtful = _readers[spec.datatype][depth - 1].read(data)
        array: Array = np.array(values, dtype=spec.dtype)
    except (msgspec.ValidationError, ValueError, OverflowError, TypeError) as error:
        raise BadRequest(f"tensor {spec.name!r}: {_reason(error)}") from error
    if array.ndim < depth:  # numpy keeps texts in rows of different lengths as lists
        raise BadRequest(f"tensor {spec.name!r}: {_UNEQUAL}")
    if array.shape != shape:
        array = _reshaped(spec, array, shape)
    return array, doubtful


def _from_tail(
    spec: TensorSpec,
    shape: tuple[int, ...],
    data: Union[msgspec.Raw, list[Any], None],
    size: int,
    tail: Optional[binary.Tail],
) -> Array:
    if data:
        raise BadRequest(f"tensor {spec.name!r} has both data and binary_data_size")
    if tail is None:
        raise BadRequest(
            f"tensor {spec.name!r} has binary_data_size, but the request has no header "
            "Inference-Header-Content-Length"
        )
    try:
        return binary.read(spec, shape, tail.take(size))
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"tensor {spec.name!r}: {error}") from error


def _check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    wanted = spec.shape
    if len(wanted) == 1 and len(shape) == 2 and shape[1] == 1:
        shape = shape[:1]  # a column as [N, 1], as data-frame codecs of other servers send it
    fits = len(shape) == len(wanted) and shape[0] > 0
    for size, limit in zip(shape, wanted):
        fits = fits and size > 0 and limit in (-1, size)
    if not fits:
        raise BadRequest(
            f"tensor {spec.name!r} has the shape {list(shape)}, the model takes {list(wanted)}"
            + (" with at least one row" if shape[:1] == (0,) else "")
        )


def _reshaped(spec: TensorSpec, array: Array, shape: tuple[int, ...]) -> Array:
    needed = math.prod(shape)
    if array.ndim != 1:
        raise BadRequest(
            f"tensor {spec.name!r}: its data is nested as {list(array.shape)}, "
            f"its shape says {list(shape)}"
        )
    if array.size != needed:
        few = "few" if array.size < needed else "many"
        raise BadRequest(
            f"tensor {spec.name!r}: too {few} elements: {array.size} where the shape "
            f"{list(shape)} needs {needed}"
        )
    return array.reshape(shape)


def depth_of(data: Union[msgspec.Raw, list[Any], None]) -> int:
    """How many arrays deep the data begins; 0 if it is no array."""
    depth = 0
    if isinstance(data, msgspec.Raw):
        for byte in bytes(memoryview(data)[:32]):
            if byte == 0x5B:  # [
                depth += 1
            elif byte not in b" \t\r\n":
                break
        return depth
    inner: Any = data
    while isinstance(inner, list):
        depth += 1
        inner = inner[0] if inner else None
    return depth


def _has_gaps(array: Array) -> bool:
    if array.dtype.kind == "f":
        return not bool(np.isfinite(array).all())
    return array.dtype.kind == "O" and any(value is None for value in array.ravel().tolist())


def _reason(error: Exception) -> str:
    text = str(error)
    if "inhomogeneous" in text or "setting an array element" in text:
        return _UNEQUAL
    return text
