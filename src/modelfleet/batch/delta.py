"""Delta tables, by the optional `deltalake` package."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfleet.core.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    import pyarrow as pa


def _package() -> Any:
    try:
        return importlib.import_module("deltalake")
    except ImportError as error:
        raise Unavailable(
            "Delta tables need the package deltalake, which is not installed.",
            hint="pip install 'modelfleet[delta]'",
        ) from error


def _table(path: str) -> Any:
    package = _package()
    try:
        return package.DeltaTable(path)
    except Exception as error:  # its own hierarchy, one case for us
        raise InvalidInput(f"{path} can't be read as a Delta table: {error}") from error


def dataset(path: str) -> Any:
    """The newest version of the table as a pyarrow dataset."""
    table = _table(path)
    try:
        return table.to_pyarrow_dataset()
    except Exception as error:
        raise InvalidInput(f"{path} uses a feature of Delta that can't be read: {error}") from error


def fingerprint(path: str) -> str:
    table = _table(path)
    return f"delta:{table.metadata().id}:{table.version()}"


def check() -> None:
    """Raises `Unavailable` if the package is not installed."""
    _package()


def last_chunk(path: Path, run: str) -> int:
    """How many chunks of that run the table holds: the commit of a chunk names them both."""
    if not (path / "_delta_log").is_dir():
        return 0
    found = _table(str(path)).transaction_version(run)
    return 0 if found is None else int(found)


def append(path: Path, run: str, chunk: int, rows: pa.Table) -> None:
    """Add the rows of chunk `chunk` (from 0) in one commit, once."""
    if last_chunk(path, run) > chunk:
        return
    package = _package()
    package.write_deltalake(
        str(path),
        rows,
        mode="append",
        commit_properties=package.CommitProperties(
            app_transactions=[package.Transaction(run, chunk + 1)]
        ),
    )
