"""What a pool should hold: `HOME/run/desired/<pool>.json`, replaced by rename.

Workers and control planes of different releases meet in this file. Fields that a reader does not
know are ignored, and each new one has a default; what an older reader would get wrong raises
`FORMAT`, and is refused by it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import msgspec

FORMAT = 1
PoolName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,40}$")]
Index = Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)]


class VersionSpec(msgspec.Struct, frozen=True):
    """One version to serve. `path` holds the bundle named by `digest`.

    pinned: it stays resident, whatever the budget says. quarantined: why it is not run any more.
    batch_rows: rows that queued requests may share a run for, 0 for the worker's own choice.
    inline: on the event loop or in a thread of its own; None for the worker's own choice.
    """

    index: Index
    model: str
    version: str
    sequence: int
    digest: str
    path: str
    variant: str = "source"
    pinned: bool = False
    quarantined: str = ""
    batch_rows: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    inline: Optional[bool] = None


class PoolSpec(msgspec.Struct, frozen=True):
    """A pool of identical workers. A new `python`, `memory_mb` or `cpus` needs new processes.

    budget_mb: what models may hold together in each worker, 0 for no limit. cpus: cores that a
    worker may use at a time, 0 for all. format: see above.
    """

    pool: PoolName
    revision: int
    python: str
    replicas: int = 2
    memory_mb: int = 2048
    versions: tuple[VersionSpec, ...] = ()
    budget_mb: int = 0
    cpus: int = 0
    format: int = FORMAT

    def __post_init__(self) -> None:
        indexes = [version.index for version in self.versions]
        if len(set(indexes)) != len(indexes):
            raise ValueError(f"pool {self.pool}: a version is named twice")


class _Format(msgspec.Struct, frozen=True):
    format: int = FORMAT


def decode(content: bytes) -> PoolSpec:
    """Read a pool's JSON; msgspec.DecodeError says what is wrong with it."""
    try:
        found = msgspec.json.decode(content, type=_Format).format
        if found > FORMAT:
            raise msgspec.DecodeError(
                f"it has the format {found} of a newer release; this one knows {FORMAT}"
            )
        return msgspec.json.decode(content, type=PoolSpec)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def load(path: Path) -> PoolSpec:
    """Read a pool's file. FileNotFoundError or msgspec.DecodeError if that fails."""
    return decode(path.read_bytes())


def dump(spec: PoolSpec, path: Path) -> None:
    """Replace the file by rename: readers see the old pool or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as stream:
        stream.write(msgspec.json.encode(spec))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
