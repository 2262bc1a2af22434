"""Reads a segment by blocks: many records for one system call, and little work for each."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence

import msgspec
from msgspec.structs import astuple

from modelfleet.telemetry.batches import Row
from modelfleet_worker.wire.segment import SegmentReader, decode

BLOCK_BYTES = 1 << 17
"""What is read and counted at a time: little enough to stay in a core's cache, enough records to
make up for what a batch of them costs."""
_HEADER = struct.Struct("<II")
_HEADER_BYTES = 16
_decode = msgspec.msgpack.Decoder(Row).decode


class BlockReader(SegmentReader):
    """A segment that is read by blocks. What counts as a record, and where reading stops, is said
    by `SegmentReader.read`."""

    def read_block(self, offset: int) -> tuple[list[Row], int, bool]:
        """Records from `offset` on, where to go on, and whether these were the last ones."""
        block = self._block_at(offset)
        payloads, used, is_cut = _split(block)
        return self._rows(payloads), offset + used, not (is_cut and payloads)

    def _block_at(self, offset: int) -> bytes:
        """A block, or all of the first record if it is longer."""
        block = os.pread(self._handle, BLOCK_BYTES, offset)
        if len(block) >= _HEADER_BYTES:
            length, _ = _HEADER.unpack_from(block)
            whole = _HEADER_BYTES + length
            if len(block) < whole <= self.size - offset:
                return os.pread(self._handle, whole, offset)
        return block

    def _rows(self, payloads: Sequence[bytes]) -> list[Row]:
        try:
            return list(map(_decode, payloads))
        except ValueError:
            return [row for one in payloads for row in self._row(one)]

    def _row(self, payload: bytes) -> list[Row]:
        """One record, also with more or fewer fields than ours; none if it can't be read."""
        try:
            return [astuple(decode(payload))]
        except ValueError:  # of msgspec, or of text that is no UTF-8
            self.skipped += 1
            return []


def _split(block: bytes) -> tuple[list[bytes], int, bool]:
    """The records' bytes, the place behind them, and whether the block ends amidst the next."""
    payloads: list[bytes] = []
    at, size = 0, len(block)
    unpack, crc32, add = _HEADER.unpack_from, zlib.crc32, payloads.append
    while at + _HEADER_BYTES <= size:
        length, checksum = unpack(block, at)
        start = at + _HEADER_BYTES
        end = start + length
        payload = block[start:end]
        if not length or end > size or crc32(payload) != checksum:
            return payloads, at, end > size
        add(payload)
        at = (end + 7) & ~7
    return payloads, at, True
