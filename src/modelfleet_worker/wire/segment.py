"""Prediction records in preallocated, memory-mapped files: written before the answer leaves.

A record that was appended survives the death of the process (the pages belong to the kernel).
`segments/<pool>-<replica>-<incarnation>-<k>.seg`: 4096 bytes of header (magic, u32 length, JSON),
then records at 8-aligned offsets: `<IIQ` length, crc32 of the payload, sequence; then the payload.
The writer copies the payload first and the header second; a reader stops at a length of zero or
at a wrong checksum. `posix_fallocate` reserves the disk, for a sparse file on a full disk would
kill the worker with SIGBUS.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Optional, Protocol

import msgspec

MAGIC = b"MFSEG1\0\0"
FIRST = 4096
SHADOW = 1
CRASHED = 599
BATCH_PREFIX = "batch:"
"""begins the `endpoint` of records that a batch wrote; no endpoint's name holds a colon"""
_HEADER = struct.Struct("<IIQ")
_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 20
_RETRY_SECONDS = 1.0


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One inference. Tensors are raw bytes in signature order (see `tensors`), only if 200.

    trace_id: 16 bytes or none; time_ns: Unix; latency_ns: decode to encode in the worker;
    flags: SHADOW; status 599 (CRASHED) is written by the collector alone; key: by which the
    request sticks to a version, if it does.
    """

    version: int
    prediction_id: bytes
    request_id: str
    trace_id: bytes
    time_ns: int
    latency_ns: int
    status: int
    attempt: int
    flags: int
    rows: int
    inputs: list[bytes]
    outputs: list[bytes]
    caller: str
    client_request_id: str
    endpoint: str
    error: str
    key: str = ""


def is_batch(record: Record) -> bool:
    """Did a batch write it, rather than a worker?"""
    return record.endpoint.startswith(BATCH_PREFIX)


class Account(Protocol):
    """Where a writer says that it could not keep a record: a worker's control block."""

    def add_dropped(self) -> None: ...

    def set_error(self, text: str) -> None: ...


class SegmentHeader(msgspec.Struct, frozen=True):
    """Who wrote a segment. `k` counts the segments of one incarnation from 0."""

    pool: str
    replica: int
    incarnation: int
    pid: int
    k: int
    created_ns: int


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Record).decode


class SegmentWriter:
    """Appends records; a full segment is followed by the next one.

    A record that can't be kept (full disk, larger than a segment) is counted in the control
    block: serving goes on.
    """

    def __init__(
        self,
        folder: Path,
        pool: str,
        replica: int,
        incarnation: int,
        megabytes: int,
        control: Account,
    ) -> None:
        self._folder = folder
        self._stem = f"{pool}-{replica}-{incarnation}"
        self._identity = (pool, replica, incarnation)
        self._size = megabytes << 20
        self._control = control
        self._k = 0
        self._sequence = 0
        self._offset = FIRST
        self._map: Optional[mmap.mmap] = None
        self._retry_at = 0.0

    def append(self, payload: bytes) -> None:
        """Keep one encoded record; about a microsecond."""
        offset = self._offset
        end = offset + 16 + len(payload)
        area = self._map
        if area is None or end > self._size:
            area = self._next(len(payload))
            if area is None:
                self._control.add_dropped()
                return
            offset = FIRST
            end = FIRST + 16 + len(payload)
        self._sequence += 1
        area[offset + 16 : end] = payload
        _HEADER.pack_into(area, offset, len(payload), zlib.crc32(payload), self._sequence)
        self._offset = (end + 7) & ~7

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def _next(self, length: int) -> Optional[mmap.mmap]:
        """Open the next segment; None if the record can't fit or the disk is full."""
        now = time.monotonic()
        if FIRST + 16 + length > self._size or now < self._retry_at:
            return None
        self.close()
        path = self._folder / f"{self._stem}-{self._k}.seg"
        try:
            self._map = self._allocate(path)
        except OSError as error:
            self._control.set_error(f"prediction log: {path.name}: {error.strerror}")
            self._retry_at = now + _RETRY_SECONDS
            return None
        self._k += 1
        self._offset = FIRST
        return self._map

    def _allocate(self, path: Path) -> mmap.mmap:
        """A segment appears under its name only when its header is whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.posix_fallocate(handle, 0, self._size)
            area = mmap.mmap(handle, self._size)
            pool, replica, incarnation = self._identity
            header = msgspec.json.encode(
                SegmentHeader(pool, replica, incarnation, os.getpid(), self._k, time.time_ns())
            )
            area[: 12 + len(header)] = MAGIC + _LENGTH.pack(len(header)) + header
            os.replace(temporary, path)
            return area
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


class SegmentReader:
    """Reads a segment while it is being written. Offsets can be kept and used again later.

    skipped: records whose checksum was right but whose content was not a record.
    """

    def __init__(self, path: Path) -> None:
        """ValueError if the file is no segment."""
        self.path = path
        self.skipped = 0
        self._handle = os.open(path, os.O_RDONLY)
        try:
            self.size = os.fstat(self._handle).st_size
            self._buffer = bytearray(min(_READ_BYTES, self.size))
            self.header = self._read_header()
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._handle)

    def read(
        self, offset: int = FIRST, limit: int = 10_000
    ) -> tuple[list[tuple[int, Record]], int]:
        """Up to `limit` records from `offset` on, each with its own offset; and where to go on."""
        found: list[tuple[int, Record]] = []
        base, block = offset, memoryview(b"")
        while len(found) < limit:
            payload, end = self._payload(block, offset - base)
            if payload is None:
                base, block = offset, self._block(offset)
                payload, end = self._payload(block, 0)
                if payload is None:
                    break
            try:
                found.append((offset, decode(payload)))
            except ValueError:  # of msgspec, or of text that is no UTF-8
                self.skipped += 1
            offset = (base + end + 7) & ~7
        return found, offset

    def _block(self, offset: int) -> memoryview:
        """Bytes from `offset` on: a megabyte, or more if the first record is longer. They count
        until the next call."""
        read = os.preadv(self._handle, [self._buffer], offset)
        block = memoryview(self._buffer)[:read]
        if read >= 16:
            (length,) = _LENGTH.unpack_from(block)
            if read < 16 + length <= self.size - offset:
                block = memoryview(os.pread(self._handle, 16 + length, offset))
        return block

    @staticmethod
    def _payload(block: memoryview, at: int) -> tuple[Optional[memoryview], int]:
        """The record at `at` and its end; None if it isn't (wholly) there, or not (yet) right."""
        if at + 16 > len(block):
            return None, at
        length, checksum, _ = _HEADER.unpack_from(block, at)
        end = at + 16 + length
        if length == 0 or end > len(block):
            return None, at
        payload = block[at + 16 : end]
        return (payload, end) if zlib.crc32(payload) == checksum else (None, at)

    def _read_header(self) -> SegmentHeader:
        raw = os.pread(self._handle, FIRST, 0)
        if raw[:8] != MAGIC or len(raw) < 12:
            raise ValueError(f"{self.path} is not a segment")
        (length,) = _LENGTH.unpack_from(raw, 8)
        return msgspec.json.decode(raw[12 : 12 + length], type=SegmentHeader)
