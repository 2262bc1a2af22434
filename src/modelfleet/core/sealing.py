"""Secrets in the database: AES-256-GCM under a key that only this home has."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from modelfleet.core.errors import FleetError
from modelfleet.core.files import write_atomically

_NONCE = 12
"""bytes"""


class Sealer:
    def __init__(self, key_file: Path) -> None:
        self._file = key_file

    def _key(self) -> bytes:
        if not self._file.exists():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, secrets.token_bytes(32), mode=0o600)
        return self._file.read_bytes()

    def token(self, purpose: str) -> str:
        """A secret that only this home can tell, always the same for a purpose."""
        made = hmac.new(self._key(), f"token {purpose}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(made[:24]).decode()

    def seal(self, text: str) -> str:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE)
        sealed = AESGCM(self._key()).encrypt(nonce, text.encode(), None)
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str) -> str:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        raw = base64.b64decode(sealed)
        try:
            return AESGCM(self._key()).decrypt(raw[:_NONCE], raw[_NONCE:], None).decode()
        except InvalidTag as error:
            raise FleetError("A secret was sealed with the key of another home.") from error
