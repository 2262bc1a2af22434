"""What the platform and the model process of a batch say to each other over two pipes.

A frame is `<II`: length of a msgpack header, length of the tensors; then both. Tensors are as in
prediction records (see `tensors`), one after the other; the header says how long each is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import IO, TypeVar

import msgspec

_LENGTHS = struct.Struct("<II")
_Header = TypeVar("_Header", bound=msgspec.Struct)


class Hello(msgspec.Struct, frozen=True):
    """The model is warm, or can't be loaded (`error`)."""

    load_s: float = 0.0
    error: str = ""


class Ask(msgspec.Struct, frozen=True):
    """Predict these rows. sizes: bytes of each input tensor in signature order."""

    rows: int
    sizes: tuple[int, ...]


class Told(msgspec.Struct, frozen=True):
    """The outputs in signature order, or what the model raised (`error`)."""

    latency_ns: int
    sizes: tuple[int, ...] = ()
    error: str = ""


def write(stream: IO[bytes], header: msgspec.Struct, parts: Sequence[bytes] = ()) -> None:
    """Send one frame and flush it."""
    head = msgspec.msgpack.encode(header)
    stream.write(_LENGTHS.pack(len(head), sum(map(len, parts))) + head)
    for part in parts:
        stream.write(part)
    stream.flush()


def read(stream: IO[bytes], kind: type[_Header]) -> tuple[_Header, bytes]:
    """The next frame: header and tensors. EOFError if the other side is gone."""
    head, tail = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    header = msgspec.msgpack.decode(_exactly(stream, head), type=kind)
    return header, _exactly(stream, tail)


def split(tail: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The tensors of a frame. ValueError if the sizes don't add up."""
    if sum(sizes) != len(tail):
        raise ValueError(f"{len(tail)} bytes of tensors where the frame says {sum(sizes)}")
    found, start = [], 0
    for size in sizes:
        found.append(tail[start : start + size])
        start += size
    return found


def _exactly(stream: IO[bytes], size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise EOFError
    return found
