"""Tensors as bytes: raw little-endian and row-major, or a msgpack list for BYTES.

This is how prediction records keep inputs and outputs; `unpack` needs only the signature and the
number of rows to read them again.
"""

from __future__ import annotations

import sys

import msgspec
import numpy as np

from modelfleet_worker.wire.signature import Array, TensorSpec

_LITTLE = sys.byteorder == "little"
_encode_texts = msgspec.msgpack.Encoder().encode
_decode_texts = msgspec.msgpack.Decoder(list).decode


def pack(array: Array) -> bytes:
    """The bytes of a tensor; objects become a msgpack list of strings, bytes and nils."""
    if array.dtype.kind in "OUS":
        return _encode_texts(array.ravel().tolist())
    if not _LITTLE:
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


def unpack(spec: TensorSpec, raw: bytes, rows: int) -> Array:
    """The tensor of `rows` rows that `pack` wrote. ValueError if the bytes don't fit."""
    flat: Array
    if spec.datatype == "BYTES":
        flat = np.array(_decode_texts(raw), dtype=object)
    else:
        flat = np.frombuffer(raw, dtype=spec.dtype.newbyteorder("<"))
    shape = [rows, *spec.shape[1:]]
    if shape.count(-1) > 1:
        return flat.reshape(rows, -1)
    return flat.reshape(shape)
