"""Envoy's admin interface: HTTP over a Unix socket that only we may open."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(admin_socket: Path, path: str, seconds: float = 2.0) -> str | None:
    """The body of a good answer; None if the gateway can't be asked right now."""
    connection = _UnixConnection(admin_socket, seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if answer.status == 200 else None


def statistics(admin_socket: Path, pattern: str) -> dict[str, str] | None:
    """Counters, gauges and texts whose name matches the regular expression, by name."""
    body = get(admin_socket, f"/stats?filter={pattern}")
    if body is None:
        return None
    pairs = (line.partition(": ") for line in body.splitlines())
    return {name: value.strip().strip('"') for name, _, value in pairs}
