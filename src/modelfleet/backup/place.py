"""Where backups lie: a folder with contents by digest, shared by all its snapshots.

    place.json            format, and how it is encrypted
    objects/ab/abcd...    contents: blobs, files, rows of the database
    snapshots/ID.json     what belongs together; the last thing that is written

Whoever is stopped at any moment leaves no snapshot, and contents that the next run finds.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from modelfleet.backup.manifest import FORMAT, Manifest, Object
from modelfleet.backup.sealing import CHUNK, Seal, sealed_size
from modelfleet.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from modelfleet.core.files import write_atomically

MakeSeal = Callable[[bytes], Seal]
"""From the place's salt to its seal."""
_CHECK = "modelfleet backup"


class Place:
    """An opened place. make_seal: None if it is not encrypted.

    Raises `NotFound` if there is none and `create` is false, `InvalidInput` if the secret is
    missing, wrong or not wanted.
    """

    def __init__(
        self, folder: Path, make_seal: MakeSeal | None = None, *, create: bool = False
    ) -> None:
        self.folder = folder
        self._objects = folder / "objects"
        self._snapshots = folder / "snapshots"
        self._about = folder / "place.json"
        if not self._about.exists():
            if not create:
                raise NotFound(f"There is no backup in {folder}.")
            self._make(make_seal)
        self._seal = self._opened(make_seal)

    @property
    def encrypted(self) -> bool:
        return self._seal is not None

    def _make(self, make_seal: MakeSeal | None) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            raise Conflict(f"{self.folder} is no place of backups, and not empty.")
        for folder in (self.folder, self._objects, self._snapshots):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about: dict[str, object] = {"format": FORMAT, "encrypted": make_seal is not None}
        if make_seal is not None:
            salt = secrets.token_bytes(16)
            check = b"".join(make_seal(salt).seal([_CHECK.encode()], "place"))
            about |= {"salt": salt.hex(), "check": check.hex()}
        write_atomically(self._about, json.dumps(about).encode(), 0o600)

    def _opened(self, make_seal: MakeSeal | None) -> Seal | None:
        try:
            about = json.loads(self._about.read_bytes())
            found, encrypted = about["format"], about["encrypted"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{self._about} is damaged.") from error
        if found != FORMAT:
            raise InvalidInput(
                f"{self.folder} has the format {found}; this release knows {FORMAT}.",
                hint="Use the release that wrote it, or a newer one.",
            )
        if not encrypted:
            if make_seal is not None:
                raise InvalidInput(
                    f"{self.folder} is not encrypted.", hint="Encrypt into another folder."
                )
            return None
        if make_seal is None:
            raise InvalidInput(f"{self.folder} is encrypted.", hint="Give its key or passphrase.")
        import io

        seal = make_seal(bytes.fromhex(about["salt"]))
        try:
            said = b"".join(seal.open(io.BytesIO(bytes.fromhex(about["check"])), "place"))
        except InvalidInput:
            said = b""
        if said != _CHECK.encode():
            raise InvalidInput("The key or passphrase is another one than this backup's.")
        return seal

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else writes here meanwhile. Raises `Conflict`."""
        handle = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"Another backup into {self.folder} is running.") from None
            for left in self._objects.glob(".part-*"):
                left.unlink()
            yield
        finally:
            os.close(handle)

    # Contents -----------------------------------------------------------------------------------

    def has(self, sha256: str, size: int) -> bool:
        """Whether the content is here, by its size; `verify` reads it."""
        try:
            found = self._path(sha256).stat().st_size
        except FileNotFoundError:
            return False
        return found == (sealed_size(size) if self._seal else size)

    def put(self, chunks: Iterable[bytes], expected: str | None = None) -> Object:
        """Keep a content. Raises `InvalidInput` if it is not `expected`, `Unavailable` if full."""
        hasher, size = hashlib.sha256(), 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for chunk in chunks:
                hasher.update(chunk)
                size += len(chunk)
                yield chunk

        if self._seal is not None and expected is None:
            raise ValueError("an encrypted content is named before it is written")
        stored = self._seal.seal(counted(), expected or "") if self._seal else counted()
        handle, name = tempfile.mkstemp(dir=self._objects, prefix=".part-")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                for chunk in stored:
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            found = hasher.hexdigest()
            if expected is not None and found != expected:
                raise InvalidInput(f"The content has digest {found}, not {expected}.")
            place = self._path(found)
            place.parent.mkdir(exist_ok=True, mode=0o700)
            os.replace(part, place)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Unavailable(f"The disk of {self.folder} is full.") from error
            raise
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return Object(found, size)

    def read(self, wanted: Object) -> Iterator[bytes]:
        """The content, proven to be the right one when it is at its end. Raises `InvalidInput`."""
        hasher, size = hashlib.sha256(), 0
        try:
            stream = self._path(wanted.sha256).open("rb")
        except FileNotFoundError:
            raise InvalidInput(f"The content {wanted.sha256} is missing.") from None
        with stream:
            chunks = (
                self._seal.open(stream, wanted.sha256)
                if self._seal
                else iter(lambda: stream.read(CHUNK), b"")
            )
            for chunk in chunks:
                hasher.update(chunk)
                size += len(chunk)
                yield chunk
        if hasher.hexdigest() != wanted.sha256 or size != wanted.size:
            raise InvalidInput(f"The content {wanted.sha256} is damaged.")

    def _path(self, sha256: str) -> Path:
        name = self._seal.name(sha256) if self._seal else sha256
        return self._objects / name[:2] / name

    # Snapshots ----------------------------------------------------------------------------------

    def snapshots(self) -> list[str]:
        """Ids, oldest first."""
        return sorted(path.stem for path in self._snapshots.glob("*.json"))

    def write(self, manifest: Manifest) -> None:
        content = msgspec.json.encode(manifest)
        digest = hashlib.sha256(content).hexdigest()
        whole = msgspec.json.encode({"manifest": msgspec.Raw(content), "sha256": digest})
        if self._seal is not None:
            whole = b"".join(self._seal.seal([whole], f"snapshot {manifest.id}"))
        write_atomically(self._snapshots / f"{manifest.id}.json", whole, 0o600)

    def manifest(self, snapshot: str | None = None) -> Manifest:
        """Of a snapshot, or of the newest. Raises `NotFound` and `InvalidInput`."""
        known = self.snapshots()
        if snapshot is None and not known:
            raise NotFound(
                f"There is no finished backup in {self.folder}.",
                hint="The last one was interrupted: run it again, it goes on where it was.",
            )
        name = snapshot or known[-1]
        if name not in known:
            raise NotFound(f"There is no snapshot {name}.", hint=f"There are: {', '.join(known)}")
        path = self._snapshots / f"{name}.json"
        try:
            content = path.read_bytes()
            if self._seal is not None:
                with path.open("rb") as stream:
                    content = b"".join(self._seal.open(stream, f"snapshot {name}"))
            whole = msgspec.json.decode(content, type=_Whole)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"The snapshot {name} is damaged: {error}") from error
        if hashlib.sha256(whole.manifest).hexdigest() != whole.sha256:
            raise InvalidInput(f"The snapshot {name} is damaged.")
        found = msgspec.json.decode(whole.manifest, type=_Format).format
        if found != FORMAT:
            raise InvalidInput(
                f"The snapshot {name} has the format {found}; this release knows {FORMAT}.",
                hint="Use the release that wrote it, or a newer one.",
            )
        return msgspec.json.decode(whole.manifest, type=Manifest)

    def prune(self, keep: int) -> Pruned:
        """Remove all snapshots but the newest `keep`, and the contents that only they name.

        Raises `Conflict` while a backup is being made, `InvalidInput` if a snapshot that stays
        can't be read: then nothing is removed.
        """
        if keep < 1:
            raise InvalidInput("One snapshot stays at least.")
        with self.alone():
            known = self.snapshots()
            staying, going = known[-keep:], known[:-keep]
            needed = {
                self._path(sha256) for one in staying for sha256 in self.manifest(one).objects()
            }
            for one in going:  # first: a snapshot never lacks contents
                (self._snapshots / f"{one}.json").unlink()
            freed = count = 0
            for path in self._objects.glob("??/*"):
                if path not in needed:
                    freed += path.stat().st_size
                    count += 1
                    path.unlink()
        return Pruned(tuple(going), count, freed)


class Pruned(msgspec.Struct, frozen=True):
    """What was removed: snapshots, contents, and their bytes."""

    snapshots: tuple[str, ...]
    objects: int
    bytes: int


class _Whole(msgspec.Struct):
    manifest: msgspec.Raw
    sha256: str


class _Format(msgspec.Struct):
    format: int
