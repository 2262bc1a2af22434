"""Follows the segments of all workers, also of dead ones, and removes what was read for good.

Two cursors per segment, both in evidence.db: `counted` (into states) and `sealed` (into Parquet).
A segment is known by its name and the moment of its creation, should a name ever return.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import astuple

from modelfleet.telemetry.batches import Row
from modelfleet.telemetry.reading import BlockReader
from modelfleet_worker.wire.segment import FIRST


@dataclass
class Tail:
    """One segment and how far it was read."""

    id: str
    reader: BlockReader
    inode: int
    counted: int = FIRST
    sealed: int = FIRST
    complete: bool = False
    """Nothing will be appended any more: its writer is dead or went on to the next segment."""
    exhausted: bool = False
    """The last read came to the end."""

    @property
    def writer(self) -> str:
        header = self.reader.header
        return f"{header.pool}-{header.replica}-{header.incarnation}"


class Segments:
    """All segments of one folder. is_alive: whether a writer, by name, may still append."""

    def __init__(
        self,
        folder: Path,
        connection: sqlite3.Connection,
        is_alive: Callable[[str, int], bool],
    ) -> None:
        self._folder = folder
        self._is_alive = is_alive
        self._tails: dict[str, Tail] = {}
        self._cursors: dict[str, tuple[int, int]] = {
            name: (counted, sealed)
            for name, counted, sealed in connection.execute(
                "SELECT name, counted, sealed FROM segment"
            )
        }
        self._gone: list[str] = []
        self._moved: set[str] = set()

    @property
    def tails(self) -> list[Tail]:
        return list(self._tails.values())

    def scan(self) -> None:
        """Notice new segments, and which ones are complete. Comes before `read`: a segment that
        is complete by now is read to its true end."""
        seen = {tail.inode for tail in self._tails.values()}
        if self._folder.is_dir():
            with os.scandir(self._folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.endswith(".seg") and entry.inode() not in seen:
                        self._open(Path(entry.path))
        newest: dict[str, int] = {}
        for tail in self._tails.values():
            newest[tail.writer] = max(tail.reader.header.k, newest.get(tail.writer, 0))
        for tail in self._tails.values():
            header = tail.reader.header
            if not tail.complete and (
                header.k < newest[tail.writer] or not self._is_alive(tail.writer, header.pid)
            ):
                tail.complete = True
                tail.exhausted = False  # more may have come since the last read

    def _open(self, path: Path) -> None:
        try:
            reader = BlockReader(path)
        except (OSError, ValueError):
            return  # gone again, or not ours; a later scan looks once more
        name = f"{path.stem}.{reader.header.created_ns}"
        counted, sealed = self._cursors.pop(name, (FIRST, FIRST))
        inode = os.stat(path).st_ino
        self._tails[name] = Tail(name, reader, inode, counted, sealed)

    def read(self) -> Iterator[list[Row]]:
        """Records since the last read, a block of each segment at a time.

        The cursors move with it: whoever reads must count and save, or start anew.
        """
        tails = [one for one in self._tails.values() if not (one.complete and one.exhausted)]
        for tail in tails:
            tail.exhausted = False
        while tails:
            rows: list[Row] = []
            for tail in tails:
                found, end, tail.exhausted = tail.reader.read_block(tail.counted)
                rows += found
                if end != tail.counted:
                    tail.counted = end
                    self._moved.add(tail.id)
            yield rows
            tails = [tail for tail in tails if not tail.exhausted]

    @property
    def exhausted(self) -> bool:
        """Whether the last `read` came to the end of every segment."""
        return all(tail.exhausted for tail in self._tails.values())

    def unsealed(self) -> Iterator[list[Row]]:
        """Records that were counted but not sealed when the collector last stopped."""
        for tail in self._tails.values():
            offset = tail.sealed
            while offset < tail.counted:
                found, end = tail.reader.read(offset, 1000)
                yield [astuple(record) for at, record in found if at < tail.counted]
                if end == offset:
                    break
                offset = end

    def writer_request_ids(self, writer: str) -> set[str]:
        """Ids of all requests that this writer recorded, as far as its segments still exist."""
        found: set[str] = set()
        for tail in self._tails.values():
            offset = FIRST
            while tail.writer == writer:
                records, end = tail.reader.read(offset, 1000)
                found.update(record.request_id for _, record in records)
                if end == offset:
                    break
                offset = end
        return found

    def save(self, connection: sqlite3.Connection) -> None:
        """Write the cursors that moved; part of the collector's transaction."""
        moved = [self._tails[name] for name in self._moved]
        connection.executemany(
            "INSERT OR REPLACE INTO segment (name, counted, sealed) VALUES (?, ?, ?)",
            [(tail.id, tail.counted, tail.sealed) for tail in moved],
        )
        connection.executemany("DELETE FROM segment WHERE name = ?", [(one,) for one in self._gone])
        self._moved, self._gone = set(), []

    def mark_sealed(self, connection: sqlite3.Connection, batch: int) -> None:
        """Everything counted is sealed: write the manifest; part of the sealing transaction."""
        for tail in self._tails.values():
            if tail.sealed < tail.counted:
                connection.execute(
                    "INSERT INTO manifest (segment, from_offset, to_offset, batch) "
                    "VALUES (?, ?, ?, ?)",
                    (tail.id, tail.sealed, tail.counted, batch),
                )
                tail.sealed = tail.counted
                self._moved.add(tail.id)
        self.save(connection)

    def remove_finished(self) -> int:
        """Delete segments that are complete, read and committed; call it after a commit."""
        done = [
            tail
            for tail in self._tails.values()
            if tail.complete and tail.exhausted and tail.sealed == tail.counted
        ]
        for tail in done:
            self._unlink(tail)
            tail.reader.close()
            del self._tails[tail.id]
            self._gone.append(tail.id)
        return len(done)

    @staticmethod
    def _unlink(tail: Tail) -> None:
        """The file goes first, then its row: a file without a row would be read again."""
        try:
            if os.stat(tail.reader.path).st_ino == tail.inode:
                tail.reader.path.unlink()
        except FileNotFoundError:
            return

    def drop_missing(self) -> None:
        """Forget cursors of files that are gone. Call it once after the first scan."""
        self._gone += list(self._cursors)
        self._cursors = {}

    @property
    def unreadable(self) -> int:
        """Records whose bytes were whole but no record."""
        return sum(tail.reader.skipped for tail in self._tails.values())

    def close(self) -> None:
        for tail in self._tails.values():
            tail.reader.close()
