"""Mutual TLS for a worker that is reached over a network.

Whoever connects must present a certificate of the platform's authority that names the gateway;
nobody else gets a byte of an answer. The three files may be replaced at any time: new connections
are met with the new ones. A set that doesn't fit together is told once, and the one before stays.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Optional

import msgspec

from modelfleet_worker import log
from modelfleet_worker.http import Connection, Handler

GATEWAY = "spiffe://modelfleet/gateway"
"""the one name that a client's certificate may bear"""
HANDSHAKE_SECONDS = 10.0
RELOAD_SECONDS = 1.0
_BACKLOG = 1024


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM: our certificate and those between it and the authority; our key; whom we trust."""

    certificate: Path
    key: Path
    authority: Path

    def context(self) -> ssl.SSLContext:
        """OSError or ssl.SSLError (an OSError, too) if they can't be used."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_cert_chain(str(self.certificate), str(self.key))
        made.load_verify_locations(str(self.authority))
        # Whoever comes again proves anew who they are: else a replaced authority would count on.
        made.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        made.num_tickets = 0
        made.set_alpn_protocols(["http/1.1"])
        return made

    def state(self) -> list[Optional[tuple[int, int, int]]]:
        """Changes when a file is replaced or rewritten, also behind a symbolic link."""
        return [_state(path) for path in (self.certificate, self.key, self.authority)]


class GatewayConnection(Connection):
    """A connection that is closed before its first byte is read unless the gateway made it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        names = _names(transport.get_extra_info("peercert"))
        if GATEWAY not in names:
            self._deaf = True
            where = str(transport.get_extra_info("peername"))
            log.event("warning", "refused: not the gateway", peer=where, names=", ".join(names))
            transport.abort()  # type: ignore[attr-defined]
            return
        super().connection_made(transport)


class TlsListener:
    """Listens with the newest files that can be used. `open` it once, `close` it to end."""

    def __init__(self, handler: Handler, address: str, files: TlsFiles) -> None:
        """address: HOST:PORT; an IPv6 host stands in brackets. ValueError if it is none."""
        self._make: Callable[[], Connection] = lambda: GatewayConnection(handler)
        self._address = host_and_port(address)
        self._files = files
        self._seen: object = None
        self._socket: Optional[socket.socket] = None
        self._server: Optional[asyncio.AbstractServer] = None
        self._timer: Optional[asyncio.TimerHandle] = None

    async def open(self) -> None:
        """OSError if the address is taken or the files can't be used."""
        self._seen = self._files.state()
        context = self._files.context()
        self._socket = _listen(*self._address)
        await self._serve(context)
        self._later()

    def close(self) -> None:
        """No new connections; those that are open go on."""
        if self._timer is not None:
            self._timer.cancel()
        for one in (self._server, self._socket):
            if one is not None:
                one.close()
        self._server = self._socket = None

    async def _serve(self, context: ssl.SSLContext) -> None:
        """A server of its own for each set of files, all over the same socket."""
        assert self._socket is not None
        before = self._server
        self._server = await asyncio.get_running_loop().create_server(
            self._make,
            sock=self._socket.dup(),
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            backlog=_BACKLOG,
        )
        if before is not None:
            before.close()

    def _later(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(
            RELOAD_SECONDS, lambda: asyncio.ensure_future(self._look_for_new())
        )

    async def _look_for_new(self) -> None:
        seen = self._files.state()
        try:
            if seen != self._seen and self._socket is not None:
                self._seen = seen
                await self._serve(self._files.context())
                log.event("info", "took up new certificates")
        except OSError as error:
            log.failure("new certificates can't be used; the ones before stay", error)
        if self._socket is not None:
            self._later()


def host_and_port(address: str) -> tuple[str, int]:
    """Of HOST:PORT; ValueError if it is none."""
    host, _, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isdigit() or not int(port) < 65536:
        raise ValueError(f"{address[:120]!r} is not HOST:PORT")
    return host, int(port)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listener.setblocking(False)
    return listener


def _names(certificate: Optional[dict[str, object]]) -> list[str]:
    """The URIs that a verified certificate is for."""
    found = (certificate or {}).get("subjectAltName", ())
    return [value for kind, value in found if kind == "URI"]  # type: ignore[attr-defined]


def _state(path: Path) -> Optional[tuple[int, int, int]]:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
