"""Encryption of files: AES-256-GCM in chunks of 1 MiB, so that files may be larger than memory.

A file is `MFB1`, 16 random bytes, and its chunks. From these bytes and the file's name a key of
its own is derived: no nonce can come twice, and no file can stand in for another. The nonce counts
chunks, and its last byte marks the last one: a chunk that is changed, missing, moved or cut off is
detected.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from modelfleet.core.errors import InvalidInput

CHUNK = 1 << 20
_MAGIC = b"MFB1"
_SALT, _TAG = 16, 16
_SHORTEST_PASSPHRASE = 8
_SHORTEST_KEY = 32


class Seal:
    """One secret of one place."""

    def __init__(self, secret: bytes) -> None:
        self._files = _derive(secret, b"", b"modelfleet backup: files")
        self._names = _derive(secret, b"", b"modelfleet backup: names")

    def name(self, sha256: str) -> str:
        """How an object is called: who has no key can't tell which content it is."""
        return hmac.digest(self._names, sha256.encode(), "sha256").hex()

    def seal(self, chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
        salt = os.urandom(_SALT)
        cipher = self._cipher(salt, name)
        yield _MAGIC + salt
        number = 0
        pieces = _sized(chunks)
        piece = next(pieces, b"")
        for following in pieces:
            yield cipher.encrypt(_nonce(number, False), piece, None)
            number, piece = number + 1, following
        yield cipher.encrypt(_nonce(number, True), piece, None)

    def open(self, stream: BinaryIO, name: str) -> Iterator[bytes]:
        """The content. Raises `InvalidInput` if it was changed or cut off, or the key is wrong."""
        head = stream.read(len(_MAGIC) + _SALT)
        if len(head) != len(_MAGIC) + _SALT or head[: len(_MAGIC)] != _MAGIC:
            raise InvalidInput(f"{name} is no encrypted file of a backup.")
        cipher = self._cipher(head[len(_MAGIC) :], name)
        number, piece = 0, stream.read(CHUNK + _TAG)
        while True:
            following = stream.read(CHUNK + _TAG)
            try:
                yield cipher.decrypt(_nonce(number, not following), piece, None)
            except InvalidTag:
                raise InvalidInput(
                    f"{name} was changed or cut off, or the key is another one."
                ) from None
            if not following:
                return
            number, piece = number + 1, following

    def _cipher(self, salt: bytes, name: str) -> AESGCM:
        return AESGCM(_derive(self._files, salt, name.encode()))


def sealed_size(size: int) -> int:
    """Bytes that `size` bytes take when they are encrypted."""
    return len(_MAGIC) + _SALT + size + _TAG * max(1, -(-size // CHUNK))


def seal_from_passphrase(passphrase: str, salt: bytes) -> Seal:
    if len(passphrase) < _SHORTEST_PASSPHRASE:
        raise InvalidInput(f"A passphrase has {_SHORTEST_PASSPHRASE} characters or more.")
    scrypt = Scrypt(salt=salt, length=32, n=1 << 16, r=8, p=1)
    return Seal(scrypt.derive(passphrase.encode()))


def seal_from_key_file(path: Path, salt: bytes) -> Seal:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise InvalidInput(f"The key file can't be read: {error}") from error
    if len(secret) < _SHORTEST_KEY:
        raise InvalidInput(
            f"A key file has {_SHORTEST_KEY} bytes or more.",
            hint="Make one: openssl rand -base64 48 > backup.key",
        )
    return Seal(_derive(secret, salt, b"modelfleet backup: key file"))


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(secret)


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _sized(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `CHUNK`; only the last may be shorter, and never is empty."""
    waiting = bytearray()
    for chunk in chunks:
        waiting += chunk
        while len(waiting) >= CHUNK:
            yield bytes(waiting[:CHUNK])
            del waiting[:CHUNK]
    if waiting:
        yield bytes(waiting)
