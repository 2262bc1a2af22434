"""Domain types of batches, in the database, in files and in the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from modelfleet.core.errors import InvalidInput
from modelfleet_worker.wire.desired import VersionSpec

DEFAULT_CHUNK_ROWS, MAX_CHUNK_ROWS = 20_000, 1_000_000
Format = Literal["parquet", "csv", "delta"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to score, with what, and where to. Paths are absolute."""

    model: str
    version: str = "latest"
    input: str
    """a Parquet or CSV file, a folder of them, a glob, or a Delta table"""
    output: str
    """a folder, which is made"""
    output_format: Format | None = None
    """None: by the name of the output, else Parquet"""
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    key: tuple[str, ...] = ()
    """columns of the input that the output holds, too"""
    keep: bool = False
    """all columns of the input"""
    columns: tuple[str, ...] = ()
    """`feature=column` where names differ, or the columns in the order of the model's inputs"""
    on_error: Literal["fail", "skip"] = "fail"

    @property
    def format(self) -> Format:
        if self.output_format is not None:
            return self.output_format
        if self.output.endswith(".csv"):
            return "csv"
        return "delta" if self.output.endswith(".delta") else "parquet"

    def check(self) -> None:
        """Raises `InvalidInput`."""
        if not 1 <= self.chunk_rows <= MAX_CHUNK_ROWS:
            raise InvalidInput(f"A chunk has 1 to {MAX_CHUNK_ROWS} rows, not {self.chunk_rows}.")
        if self.keep and self.key:
            raise InvalidInput("Either some columns are kept (key) or all (keep).")
        for path in (self.input, self.output):
            if not path.startswith("/"):
                raise InvalidInput(f"{path[:200]!r} is not an absolute path.")


class Progress(msgspec.Struct, frozen=True):
    """How far a job is; its process writes it, anybody reads it."""

    state: Literal["starting", "running", "waiting", "succeeded", "failed"] = "starting"
    """waiting: for the collector, which has more to read than it should"""
    rows: int = 0
    """predicted and written, by this job and by those it goes on from"""
    rejected: int = 0
    total: int | None = None
    """rows of the input, None where that is not known; an estimate for CSV"""
    chunks: int = 0
    resumed_rows: int = 0
    """rows of the input that were done when this job began"""
    seconds: float = 0.0
    """of this job, without loading the model"""
    rows_per_second: float = 0.0
    error: str = ""
    hint: str = ""
    status: int = 0
    """of the error, as in HTTP"""


@dataclass(frozen=True)
class Batch:
    """A job."""

    id: str
    model: str
    version: str
    owner_team: str
    state: State
    wish: Wish
    progress: Progress
    created_by: str
    created_at: str
    finished_at: str | None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """All that the process of a job needs; it asks no database."""

    id: str
    wish: Wish
    spec: VersionSpec
    caller: str
    """id of the principal, for the prediction records"""
    model_argv: tuple[str, ...]
    """runs the model process, confined"""
    segment_mb: int
    nice: int
    cpus: int
