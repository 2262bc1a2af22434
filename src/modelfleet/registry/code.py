"""The code snapshot of a version: what its client said of the code that trained it.

`{"commit", "branch", "dirty", "files": [{"path", "sha256", "size"}]}`; all of it optional. The
files are blobs beside the bundle: the same model trained by other code is the same bundle.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from modelfleet.core.errors import InvalidInput
from modelfleet.registry.bundles import BundleStore, Entry

FILES_LIMIT = 10_000


def files_of(code: object) -> tuple[Entry, ...]:
    """The files of a snapshot. Raises `InvalidInput` for what is none."""
    found = code.get("files", []) if isinstance(code, Mapping) else None
    try:
        return msgspec.convert(found, tuple[Entry, ...])
    except msgspec.ValidationError as error:
        raise InvalidInput(f"The code snapshot can't be read: {error}") from error


def check_code(bundles: BundleStore, code: Mapping[str, object] | None) -> None:
    """Raises `InvalidInput` or `NotFound` unless all files of the snapshot are here."""
    files = files_of(code or {})
    if len(files) > FILES_LIMIT:
        raise InvalidInput(f"A code snapshot has at most {FILES_LIMIT} files.")
    if files:
        bundles.check(files)


def digests_of(code: object) -> set[str]:
    """The blobs that a snapshot names, however it was written."""
    files = code.get("files") if isinstance(code, Mapping) else None
    rows = files if isinstance(files, list) else []
    return {str(row["sha256"]) for row in rows if isinstance(row, Mapping) and "sha256" in row}
