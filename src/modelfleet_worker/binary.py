"""The protocol's binary tensor extension: raw tensors behind the JSON of a body.

The header says how many bytes the JSON has. Tensors follow without gaps, row-major and
little-endian; each element of a BYTES tensor has its length before it, in 4 bytes.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from modelfleet_worker.wire.signature import Array, TensorSpec

EXTENSION = "binary_tensor_data"
HEADER = b"inference-header-content-length"
_LENGTH = struct.Struct("<I")


class Tail:
    """The raw tensors of one request, taken in their order. ValueError if anything doesn't fit."""

    def __init__(self, body: bytes, start: int) -> None:
        self._body = body
        self._at = start

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        left = len(self._body) - self._at
        if not 0 <= size <= left:
            raise ValueError(f"binary_data_size is {size}, but {left} bytes of the body are left")
        self._at += size
        return memoryview(self._body)[self._at - size : self._at]

    def finish(self) -> None:
        """Nothing may be left."""
        left = len(self._body) - self._at
        if left:
            raise ValueError(f"{left} bytes follow the JSON that belong to no tensor")


def split(body: bytes, header: bytes) -> tuple[bytes, Tail]:
    """The JSON of a body and its tail. ValueError if the header does not fit."""
    name = "Inference-Header-Content-Length"
    if not header.isdigit() or len(header) > 15:
        raise ValueError(f"{name} must be a number of bytes")
    size = int(header)
    if size > len(body):
        raise ValueError(f"{name} is {size}, but the body has {len(body)} bytes")
    return body[:size], Tail(body, size)


def read(spec: TensorSpec, shape: tuple[int, ...], raw: memoryview) -> Array:
    """A tensor of that shape, writable. ValueError if the bytes don't fit."""
    count = math.prod(shape)
    if spec.datatype == "BYTES":
        return np.array(_elements(raw, count), dtype=object).reshape(shape)
    needed = count * spec.dtype.itemsize
    if len(raw) != needed:
        raise ValueError(
            f"binary_data_size is {len(raw)}, the shape {list(shape)} of "
            f"{spec.datatype} needs {needed}"
        )
    if spec.datatype == "BOOL":
        numbers = np.frombuffer(raw, dtype=np.uint8)
        if numbers.size and numbers.max() > 1:
            raise ValueError("a BOOL is a byte of 0 or 1")
        return numbers.astype(np.bool_).reshape(shape)
    little = np.frombuffer(raw, dtype=spec.dtype.newbyteorder("<"))
    return little.astype(spec.dtype).reshape(shape)


def write(array: Array, datatype: str) -> bytes:
    """The bytes of a tensor; what is missing among BYTES becomes an empty element."""
    if datatype != "BYTES":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts: list[bytes] = []
    for value in array.ravel().tolist():
        element = _bytes(value)
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def _elements(raw: memoryview, count: int) -> list[Any]:
    """Texts; an element that is no UTF-8 stays bytes."""
    if count * _LENGTH.size > len(raw):
        raise ValueError(f"too few bytes for {count} elements")
    found: list[Any] = []
    at = 0
    for k in range(count):
        start = at + _LENGTH.size
        if start > len(raw):
            raise ValueError(f"the bytes end before element {k} of {count}")
        at = start + _LENGTH.unpack_from(raw, start - _LENGTH.size)[0]
        if at > len(raw):
            raise ValueError(f"element {k} is longer than the bytes that are left")
        element = bytes(raw[start:at])
        try:
            found.append(element.decode())
        except UnicodeDecodeError:
            found.append(element)
    if at != len(raw):
        raise ValueError(f"{len(raw) - at} bytes follow the last of {count} elements")
    return found


def _bytes(value: Any) -> bytes:
    if value is None:
        return b""
    return value if isinstance(value, bytes) else str(value).encode()
