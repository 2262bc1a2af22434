"""Keeps the gateway's certificates as they should be; to be called every now and then."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import structlog

from modelfleet.core.errors import InvalidInput
from modelfleet.core.files import write_atomically
from modelfleet.core.layout import Layout
from modelfleet.serving.authority import GATEWAY, Authority
from modelfleet.serving.gateway import tls

log = structlog.get_logger(__name__)
_RENEW_SECONDS = 86_400.0
"""A leaf counts for a week, so the control plane may be down for days."""

Pair = tuple[Path, Path]


class Certificates:
    def __init__(self, layout: Layout, server: Pair | None) -> None:
        """server: paths of certificate chain and key that clients are shown; None is no TLS."""
        self._folder = layout.gateway
        self._authority = Authority(layout)
        self._server = server
        self._seen: object = None

    @property
    def server(self) -> bool:
        return self._server is not None

    def publish_server(self) -> None:
        """Show clients the pair of the settings. `InvalidInput` if it is none; it is not taken."""
        if self._server is None:
            return
        seen = _state(self._server)
        chain, key = tls.read_pair(*self._server)
        self._put(tls.SERVER, tls.pair(tls.SERVER, chain, key))
        self._seen = seen

    def publish_client(self) -> None:
        """What mutual TLS needs; made anew when it is a day old."""
        path = tls.file_of(self._folder, tls.CLIENT)
        if path.exists() and time.time() - path.stat().st_mtime < _RENEW_SECONDS:
            return
        self._put(tls.TRUSTED, tls.authority(self._authority.certificate()))
        self._put(tls.CLIENT, tls.pair(tls.CLIENT, *self._authority.issue(GATEWAY)))

    def refresh(self) -> None:
        """Take up a pair that was replaced; a bad one is told once and the one before stays."""
        if tls.file_of(self._folder, tls.CLIENT).exists():
            self.publish_client()
        if self._server is None:
            return
        seen = _state(self._server)
        if seen == self._seen:
            return
        try:
            self.publish_server()
        except InvalidInput as error:
            self._seen = seen
            log.error("certificate not taken", reason=error.message)

    def _put(self, name: str, content: dict[str, object]) -> None:
        path = tls.file_of(self._folder, name)
        write_atomically(path, msgspec.json.encode(content), 0o600)


def _state(pair: Pair) -> object:
    """Changes when a file is replaced or rewritten, also behind a symbolic link."""
    found: list[tuple[int, int, int] | None] = []
    for path in pair:
        try:
            held = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((held.st_ino, held.st_mtime_ns, held.st_size))
    return found
