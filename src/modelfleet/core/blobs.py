"""Content-addressed bytes: a blob's name is the sha256 of its content.

`BlobStore` is the seam; a folder is the default. A blob appears under its name only when it is
whole and its digest is right.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from modelfleet.core.errors import Conflict, InvalidInput, NotFound, Unavailable


class BlobStore(Protocol):
    def put(self, chunks: Iterable[bytes], expected: str | None = None) -> tuple[str, int]:
        """Store the bytes; return (sha256, size). Refuse if they are not `expected`."""

    def path(self, sha256: str) -> Path:
        """A local file with the content. Raises `NotFound`."""

    def has(self, sha256: str) -> bool: ...

    def delete(self, sha256: str) -> None: ...


class FolderBlobStore:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / "sha256"
        self._folder.mkdir(parents=True, exist_ok=True)

    def _place(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise InvalidInput(f"{sha256[:80]!r} is not a sha256 digest.")
        return self._folder / sha256[:2] / sha256

    def put(self, chunks: Iterable[bytes], expected: str | None = None) -> tuple[str, int]:
        hasher, size = hashlib.sha256(), 0
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".upload-")
        try:
            with os.fdopen(handle, "wb") as stream:
                for chunk in chunks:
                    hasher.update(chunk)
                    size += len(chunk)
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            found = hasher.hexdigest()
            if expected is not None and found != expected:
                raise InvalidInput(f"The content has digest {found}, not {expected}.")
            place = self._place(found)
            place.parent.mkdir(exist_ok=True)
            os.chmod(name, 0o644)
            os.replace(name, place)
        except OSError as error:
            Path(name).unlink(missing_ok=True)
            if error.errno == errno.ENOSPC:
                raise Unavailable("The disk is full.", hint="Free some space.") from error
            raise
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return found, size

    def path(self, sha256: str) -> Path:
        place = self._place(sha256)
        if not place.exists():
            raise NotFound(f"There is no blob {sha256}.")
        return place

    def has(self, sha256: str) -> bool:
        return self._place(sha256).exists()

    def delete(self, sha256: str) -> None:
        """Raises `Conflict` while a backup is being made."""
        with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._place(sha256).unlink(missing_ok=True)

    def kept(self) -> AbstractContextManager[None]:
        """Within the block nothing is deleted, by no process: for whoever copies what is here."""
        return self._locked(fcntl.LOCK_SH)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        handle = os.open(self._folder / ".kept", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, how)
            except BlockingIOError:
                raise Conflict(
                    "A backup is being made; nothing is deleted meanwhile.", hint="Try again."
                ) from None
            yield
        finally:
            os.close(handle)
