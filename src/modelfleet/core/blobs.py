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
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from modelfleet.core.errors import Conflict, InvalidInput, NotFound, TooLarge, Unavailable


class BlobStore(Protocol):
    def put(self, chunks: Iterable[bytes], expected: str | None = None) -> tuple[str, int]:
        """Store the bytes; return (sha256, size). Refuse if they are not `expected`."""

    def held(self, sha256: str) -> int: ...

    def append(self, sha256: str, offset: int, size: int, chunks: Iterable[bytes]) -> int: ...

    def path(self, sha256: str) -> Path:
        """A local file with the content. Raises `NotFound`."""

    def has(self, sha256: str) -> bool: ...

    def delete(self, sha256: str) -> None: ...

    def touch(self, sha256: str) -> None: ...


def _full(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable("The disk is full.", hint="Free some space, then go on.")
    return error


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
            raise _full(error) from error
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return found, size

    def held(self, sha256: str) -> int:
        """Bytes of an upload that has begun; 0 if none has."""
        self._place(sha256)
        partial = self._partial(sha256)
        return partial.stat().st_size if partial.exists() else 0

    def append(self, sha256: str, offset: int, size: int, chunks: Iterable[bytes]) -> int:
        """Go on with an upload of `size` bytes; the bytes held then, `size` once it is whole.

        What arrived stays, whatever happens, so that the next call goes on behind it. Raises
        `Conflict` if `offset` is not where the upload stands, `InvalidInput` (and forgets the
        upload) if the whole content is not `sha256`.
        """
        place, partial = self._place(sha256), self._partial(sha256)
        if place.exists():
            return size
        partial.parent.mkdir(exist_ok=True)
        with partial.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Conflict("Somebody else is uploading this content right now.") from error
            held = stream.tell()
            if held != offset:
                raise Conflict(f"The upload stands at {held} bytes, not at {offset}.", offset=held)
            try:
                for chunk in chunks:
                    held += len(chunk)
                    if held > size:
                        raise TooLarge(f"The upload was announced with {size} bytes.")
                    stream.write(chunk)
            except OSError as error:
                raise _full(error) from error
            except TooLarge:
                partial.unlink(missing_ok=True)
                raise
            if held < size:
                return held
            stream.flush()
            os.fsync(stream.fileno())
            with partial.open("rb") as whole:
                found = hashlib.file_digest(whole, "sha256").hexdigest()
            if found != sha256:
                partial.unlink(missing_ok=True)
                raise InvalidInput(f"The content has digest {found}, not {sha256}.")
            place.parent.mkdir(exist_ok=True)
            partial.chmod(0o644)
            os.replace(partial, place)
        return size

    def _partial(self, sha256: str) -> Path:
        return self._folder / ".partial" / sha256

    def path(self, sha256: str) -> Path:
        place = self._place(sha256)
        if not place.exists():
            raise NotFound(f"There is no blob {sha256}.")
        return place

    def has(self, sha256: str) -> bool:
        return self._place(sha256).exists()

    def delete(self, sha256: str) -> None:
        """Raises `Conflict` while a backup is being made."""
        with self.clearing() as remove:
            remove(sha256)

    @contextmanager
    def clearing(self) -> Iterator[Callable[[str], None]]:
        """How to delete, while no backup is being made. Raises `Conflict` if one is."""
        with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield lambda sha256: self._place(sha256).unlink(missing_ok=True)

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

    def every(self) -> Iterator[tuple[str, int]]:
        """Digests and sizes of all that is here."""
        for folder in sorted(self._folder.glob("[0-9a-f][0-9a-f]")):
            for path in folder.iterdir():
                yield path.name, path.stat().st_size

    def written_at(self, sha256: str) -> float:
        """Seconds since 1970; of the last time that somebody brought it."""
        return self._place(sha256).stat().st_mtime

    def touch(self, sha256: str) -> None:
        """Somebody is about to use it: let it count as just written."""
        self._place(sha256).touch()

    def sweep_uploads(self, age_seconds: float) -> None:
        """Forget uploads that nobody went on with for so long."""
        for path in (*self._folder.glob(".partial/*"), *self._folder.glob(".upload-*")):
            if path.stat().st_mtime < time.time() - age_seconds:
                path.unlink(missing_ok=True)
