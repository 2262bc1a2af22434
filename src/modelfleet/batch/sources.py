"""Tables to score, read in order and in chunks of rows, from any row on."""

from __future__ import annotations

import csv
import glob
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from modelfleet.batch import delta
from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.core.ids import digest

if TYPE_CHECKING:
    import pyarrow as pa


class Source(Protocol):
    """A table. Rows are numbered from 1, in an order that is the same at every reading."""

    names: list[str]
    is_text: bool
    """all values are text, as in CSV"""
    fingerprint: str
    """another one means other content"""

    def total(self, seen: int) -> int | None:
        """Rows of the whole; an estimate from `seen` rows read where nothing says."""

    def chunks(self, columns: Sequence[str], start: int, rows: int) -> Iterator[pa.Table]:
        """These columns in chunks of `rows` rows (the last has fewer), without the first `start`
        rows. Raises `InvalidInput` when it comes to what can't be read."""


def open_source(path: str) -> Source:
    """The table at `path`. Raises `NotFound` and `InvalidInput`."""
    if (Path(path) / "_delta_log").is_dir():
        return _Parquet(delta.dataset(path), delta.fingerprint(path))
    files = _files(path)
    if all(file.endswith(".csv") for file in files):
        return _Csv(files)
    return _Parquet(_dataset(files), _fingerprint(files))


def _files(path: str) -> list[str]:
    if os.path.isdir(path):
        found = glob.glob(f"{glob.escape(path)}/**/*.parquet", recursive=True)
        found += glob.glob(f"{glob.escape(path)}/**/*.csv", recursive=True)
        where = Path(path).parts
        found = [one for one in found if not _hidden(Path(one).parts[len(where) :])]
    elif os.path.isfile(path):
        found = [path]
    else:
        found = [one for one in glob.glob(path, recursive=True) if os.path.isfile(one)]
    if not found:
        raise NotFound(f"There is no Parquet file, CSV file or Delta table at {path}.")
    if len({one.endswith(".csv") for one in found}) > 1:
        raise InvalidInput(f"{path} holds Parquet and CSV files; name one kind: '{path}/*.csv'.")
    return sorted(found)


def _hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(("_", ".")) for part in parts)


def _fingerprint(files: Sequence[str]) -> str:
    """Of names, sizes and times: contents may be far too long to read."""
    found = [(file, (s := os.stat(file)).st_size, s.st_mtime_ns) for file in files]
    return digest(msgspec.json.encode(found))


def _dataset(files: Sequence[str]) -> Any:
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        return ds.dataset(list(files), format="parquet")
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInput(f"{files[0]} can't be read as Parquet: {error}") from error


class _Parquet:
    """A pyarrow dataset; what is skipped is skipped by row groups, without reading it."""

    is_text = False

    def __init__(self, dataset: Any, fingerprint: str) -> None:
        self.names = list(dataset.schema.names)
        self.fingerprint = fingerprint
        self._schema = dataset.schema
        self._fragments = sorted(dataset.get_fragments(), key=lambda one: str(one.path))
        self._total: int | None = None

    def total(self, seen: int) -> int | None:
        if self._total is None:
            self._total = sum(one.count_rows() for one in self._fragments)
        return self._total

    def chunks(self, columns: Sequence[str], start: int, rows: int) -> Iterator[pa.Table]:
        import pyarrow as pa

        try:
            yield from _regrouped(self._batches(list(columns), start, rows), rows)
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"The input can't be read: {error}") from error

    def _batches(self, columns: list[str], start: int, rows: int) -> Iterator[pa.RecordBatch]:
        for fragment in self._fragments:
            count = fragment.count_rows()
            if start >= count:
                start -= count
                continue
            for group in fragment.split_by_row_group():
                count = group.count_rows()
                if start >= count:
                    start -= count
                    continue
                scanned = group.to_batches(
                    schema=self._schema,
                    columns=columns,
                    batch_size=rows,
                    batch_readahead=2,
                    use_threads=False,
                )
                for batch in scanned:
                    dropped = min(start, batch.num_rows)
                    start -= dropped
                    if dropped < batch.num_rows:
                        yield batch.slice(dropped)


def _regrouped(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` rows, but for the last."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while count + batch.num_rows >= rows:
            held.append(batch.slice(0, rows - count))
            yield pa.Table.from_batches(held)
            batch = batch.slice(rows - count)
            held, count = [], 0
        if batch.num_rows:
            held.append(batch)
            count += batch.num_rows
    if held:
        yield pa.Table.from_batches(held)


class _Csv:
    """Text with a head line in each file; an empty field is a missing value."""

    is_text = True

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self._bytes = sum(os.path.getsize(file) for file in files)
        self._read = 0
        self.fingerprint = _fingerprint(files)
        self.names = self._head(files[0])
        for file in files[1:]:
            if self._head(file) != self.names:
                raise InvalidInput(f"{file} has other columns than {files[0]}.")

    @staticmethod
    def _head(file: str) -> list[str]:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            found = next(_rows(file, stream), None)
        if not found:
            raise InvalidInput(f"{file} has no head line with the names of its columns.")
        if len(set(found)) < len(found):
            raise InvalidInput(f"{file} names a column twice.")
        return found

    def total(self, seen: int) -> int | None:
        return round(seen * self._bytes / self._read) if seen and self._read else None

    def chunks(self, columns: Sequence[str], start: int, rows: int) -> Iterator[pa.Table]:
        held: list[list[str]] = []
        for number, fields in enumerate(self._records()):
            if number < start:
                continue
            held.append(fields)
            if len(held) == rows:
                yield self._table(columns, held)
                held = []
        if held:
            yield self._table(columns, held)

    def _records(self) -> Iterator[list[str]]:
        done = 0
        for file in self._files:
            with open(file, "rb") as raw:
                stream = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
                lines = _rows(file, stream)
                next(lines, None)
                for fields in lines:
                    if fields:  # not a blank line
                        self._read = done + raw.tell()
                        yield fields
                done += raw.tell()

    def _table(self, columns: Sequence[str], records: Sequence[list[str]]) -> pa.Table:
        """Chosen columns; a row with too few or too many fields is told in a column of its own."""
        import pyarrow as pa

        width = len(self.names)
        whole = [one if len(one) == width else [""] * width for one in records]
        places = {name: k for k, name in enumerate(self.names)}
        found: dict[str, Any] = {
            name: pa.array([one[places[name]] or None for one in whole], pa.string())
            for name in columns
        }
        odd = [len(one) if len(one) != width else None for one in records]
        if any(one is not None for one in odd):
            found[ODD] = pa.array(odd, pa.int64())
        return pa.table(found)


ODD = "\0fields"
"""column with the number of fields of rows that have another number than the head line"""


def _rows(file: str, stream: Any) -> Iterator[list[str]]:
    reader = csv.reader(stream, strict=True)
    try:
        yield from reader
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file}, line {reader.line_num}: {error}") from error
