"""`OUTPUT/_manifest.json`: what was asked for, and which chunks are done.

It is replaced after each chunk, when the chunk's rows are on disk. Whoever comes later with the
same wish goes on behind the last chunk that is done.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from modelfleet.batch.types import Format, Order
from modelfleet.core.errors import Conflict, InvalidInput
from modelfleet.core.files import write_atomically
from modelfleet.core.ids import new_id

FILE, LOCK = "_manifest.json", "_lock"
_LOCK_SECONDS = 10.0


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What must be the same for the output to be one whole."""

    model: str
    version: str
    bundle_digest: str
    input: str
    fingerprint: str
    format: Format
    chunk_rows: int
    key: tuple[str, ...]
    keep: bool
    columns: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`chunks` are done; chunk number `chunks` was begun at `begun_ns` (Unix nanoseconds)."""

    run: str
    identity: Identity
    begun_ns: int
    chunks: int = 0
    input_rows: int = 0
    rows: int = 0
    rejected: int = 0
    seconds: float = 0.0
    complete: bool = False
    jobs: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        write_atomically(folder / FILE, msgspec.json.format(msgspec.json.encode(self), indent=1))


def identity(order: Order, fingerprint: str) -> Identity:
    wish = order.wish
    return Identity(
        model=wish.model,
        version=order.spec.version,
        bundle_digest=order.spec.digest,
        input=wish.input,
        fingerprint=fingerprint,
        format=wish.format,
        chunk_rows=wish.chunk_rows,
        key=wish.key,
        keep=wish.keep,
        columns=wish.columns,
    )


def open_manifest(folder: Path, wanted: Identity, job: str) -> Manifest:
    """The manifest in `folder`, or a new one. Raises `Conflict` if something else is there."""
    try:
        known = msgspec.json.decode((folder / FILE).read_bytes(), type=Manifest)
    except FileNotFoundError:
        others = [path.name for path in folder.iterdir() if path.name != LOCK]
        if others and not (wanted.format == "delta" and "_delta_log" in others):
            raise Conflict(
                f"{folder} is not empty, and no batch has written it.",
                hint="Choose another --output.",
            ) from None
        return Manifest(run=new_id(), identity=wanted, begun_ns=time.time_ns(), jobs=(job,))
    except (msgspec.DecodeError, OSError) as error:
        raise InvalidInput(f"{folder / FILE} can't be read: {error}") from error
    differing = [
        name
        for name in Identity.__struct_fields__
        if getattr(known.identity, name) != getattr(wanted, name)
    ]
    if differing:
        told = ", ".join(_difference(name, known.identity, wanted) for name in differing)
        raise Conflict(
            f"{folder} holds another batch: {told}.",
            hint="Choose another --output, or remove that folder.",
        )
    return msgspec.structs.replace(known, jobs=(*[j for j in known.jobs if j != job], job))


def _difference(name: str, known: Identity, wanted: Identity) -> str:
    if name == "fingerprint":
        return "the input's files have changed since"
    if name == "bundle_digest":
        return "the version's files have changed"
    return f"its {name} is {getattr(known, name)!r}, not {getattr(wanted, name)!r}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The only one who writes to `folder`. A dying predecessor gets a moment to be gone.

    Raises `Conflict`, and `InvalidInput` if the folder can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InvalidInput(f"{folder} can't be written: {error.strerror}.") from error
    try:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Conflict(f"Another batch writes to {folder}.") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(handle)
