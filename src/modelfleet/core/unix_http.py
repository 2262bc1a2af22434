"""HTTP over a Unix socket: how processes of one machine ask each other."""

from __future__ import annotations

import http.client
import socket
import struct
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    status: int
    body: str
    pid: int
    """of the process that listens; 0 if the system doesn't tell"""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self.pid = 0

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
        self.pid = _listener(self.sock)


def get(path: Path, target: str, seconds: float = 2.0) -> Answer | None:
    """None if nobody answers in time. path: of the socket. target: what to GET."""
    connection = _UnixConnection(path, seconds)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return Answer(answer.status, body, connection.pid)


def _listener(connected: socket.socket) -> int:
    option = getattr(socket, "SO_PEERCRED", None)  # Linux
    if option is None:
        return 0
    found = connected.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[0])
