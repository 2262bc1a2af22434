"""Pickles in files: plain, compressed, with joblib's arrays between, in PyTorch's archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from modelfleet.core.scan.vm import Damaged, Seen, Stub, follow

MAX_BYTES = 2 << 30
MAX_DEPTH = 4
_WRAPPERS = {("joblib.numpy_pickle", "NumpyArrayWrapper")}
_OLD_WRAPPERS = {
    ("joblib.numpy_pickle_compat", "NDArrayWrapper"),
    ("joblib.numpy_pickle_compat", "ZNDArrayWrapper"),
    ("joblib.numpy_pickle", "NDArrayWrapper"),
    ("joblib.numpy_pickle", "ZNDArrayWrapper"),
}
_DTYPE = re.compile(r"[<>|=]?([?bBhHiIuUlLqQefdgcFDGSVOmMa]?)(\d*)(\[\w+\])?")
_SIZES = {"U": 4}
_HAS_OBJECTS = 1
_CHUNK = 1 << 20


def _zlib(stream: BinaryIO) -> BinaryIO:
    return io.BytesIO(_inflate(stream))


def _inflate(stream: BinaryIO) -> bytes:
    machine = zlib.decompressobj()
    found = bytearray()
    while chunk := stream.read(_CHUNK):
        found += machine.decompress(chunk, MAX_BYTES + 1 - len(found))
        if len(found) > MAX_BYTES or machine.unconsumed_tail:
            raise Damaged("it unpacks to more than 2 GiB")
        if machine.unused_data:
            raise Damaged("something follows its compressed content")
    return bytes(found + machine.flush())


_COMPRESSED: tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", lambda stream: gzip.GzipFile(fileobj=stream)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"\x5d\x00", lzma.LZMAFile),
    (b"\x78", _zlib),
)


def read(path: Path, seen: Seen) -> None:
    """Every pickle of a file. Raises `Damaged` for anything that is not accounted for."""
    with path.open("rb") as stream:
        _read(stream, seen, 0)


def _read(stream: BinaryIO, seen: Seen, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Damaged("it is packed into itself too often")
    head = stream.read(8)
    stream.seek(0)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        _archive(stream, seen)
        return
    for magic, opened in _COMPRESSED:
        if head.startswith(magic):
            try:
                content = opened(stream).read(MAX_BYTES + 1)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
                raise Damaged(f"it can't be unpacked: {error}") from error
            if len(content) > MAX_BYTES:
                raise Damaged("it unpacks to more than 2 GiB")
            _read(io.BytesIO(content), seen, depth + 1)
            return
    if head.startswith((b"ZF", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd", b"\x80\x02\x8a\x0a")):
        raise Damaged("it is packed in a way that is not read here")
    follow(stream, seen, arrays)
    if stream.read(1):
        raise Damaged("something follows its end")


def arrays(target: Stub, stream: BinaryIO, seen: Seen) -> bool:
    """Skip the array that joblib wrote behind this object; exactly the bytes that it would read."""
    if target.name in _OLD_WRAPPERS:
        raise Damaged("it was written by a joblib before 0.10: save it again")
    if target.name not in _WRAPPERS:
        return False
    state = target.state
    if not isinstance(state, dict):
        raise Damaged("joblib's array has no description")
    size = _item_size(state.get("dtype"))
    if size is None:
        follow(stream, seen, arrays)
        return True
    count = 1
    shape = state.get("shape")
    for one in shape if isinstance(shape, tuple) else (-1,):
        if type(one) is not int or one < 0:
            raise Damaged("joblib's array has no shape")
        count *= one
    if state.get("numpy_array_alignment_bytes") is not None:
        padding = stream.read(1)
        _skip(stream, padding[0] if padding else 0)
    _skip(stream, count * size)
    return True


def _item_size(given: object, depth: int = 0) -> int | None:
    """Bytes of one element; None for objects, which are a pickle of their own.

    What NumPy makes of a dtype depends on its state, too: any that says something else than its
    name is refused, or bytes that are skipped here could be read as a pickle there.
    """
    arguments = given.arguments if isinstance(given, Stub) else None
    text = arguments[0] if isinstance(arguments, tuple) and arguments else None
    match = _DTYPE.fullmatch(text) if isinstance(text, str) else None
    plain = isinstance(given, Stub) and given.name == ("numpy", "dtype")
    if match is None or not plain or not match[2] or depth > MAX_DEPTH:
        raise Damaged(f"joblib's array has the dtype {str(text)[:20]!r}")
    assert isinstance(given, Stub)
    kind, size = match[1], int(match[2]) * _SIZES.get(match[1], 1)
    inner, fields, told, flags = _dtype_state(given.state)
    if kind == "O":
        return None
    if flags & _HAS_OBJECTS or told not in (-1, size):
        raise Damaged("joblib's array has a dtype that contradicts itself")
    if kind == "V":
        parts = [one[0] if isinstance(one, tuple) and one else None for one in fields.values()]
        parts += [] if inner is None else [inner[0] if isinstance(inner, tuple) else None]
        if any(_item_size(part, depth + 1) is None for part in parts):
            raise Damaged("joblib's array has objects within records")
    elif fields or inner is not None:
        raise Damaged("joblib's array has a dtype that contradicts itself")
    return size


def _dtype_state(state: object) -> tuple[object, dict[Any, Any], int, int]:
    """Inner dtype, fields, item size (-1: not told) and flags of a dtype's state."""
    if state is None:
        return None, {}, -1, 0
    if not isinstance(state, tuple) or len(state) < 8 or state[0] not in (3, 4):
        raise Damaged("joblib's array has a dtype that is not understood")
    _, _, inner, _, fields, told, _, flags = state[:8]
    known = {} if fields is None else fields
    if not isinstance(known, dict) or type(told) is not int or type(flags) is not int:
        raise Damaged("joblib's array has a dtype that is not understood")
    return inner, known, told, flags


def _skip(stream: BinaryIO, count: int) -> None:
    while count > 0:
        chunk = stream.read(min(count, _CHUNK))
        if not chunk:
            raise Damaged("it ends within an array")
        count -= len(chunk)


def _archive(stream: BinaryIO, seen: Seen) -> None:
    """PyTorch's: one pickle, and storages of plain bytes."""
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if not members or min(member.header_offset for member in members) != 0:
                raise Damaged("its archive begins somewhere else")
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise Damaged("it unpacks to more than 2 GiB")
            pickles = [member for member in members if member.filename.endswith(".pkl")]
            if not pickles:
                raise Damaged("it is an archive without a pickle")
            if any("/code/" in member.filename for member in members):
                raise Damaged("it is TorchScript, which is code of its own")
            for member in pickles:
                content = io.BytesIO(archive.read(member))
                follow(content, seen)
                if content.read(1):
                    raise Damaged(f"something follows the end of {member.filename}")
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
        raise Damaged(f"its archive can't be read: {error}") from error
