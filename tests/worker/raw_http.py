"""HTTP by hand."""

from __future__ import annotations

import json
import socket
from typing import Any


class Wire:
    """Raw bytes over the worker's socket."""

    def __init__(self, fleet: Any) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(fleet.socket()))
        self.file = self.sock.makefile("rb")

    def send(self, content: bytes) -> None:
        self.sock.sendall(content)

    def answer(self) -> tuple[int, dict[bytes, bytes], Any]:
        status = int(self.file.readline().split()[1])
        headers: dict[bytes, bytes] = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.partition(b": ")
            headers[name] = value
        content = self.file.read(int(headers[b"content-length"]))
        return status, headers, json.loads(content)

    def closed(self) -> bool:
        return self.file.read() == b""

    def close(self) -> None:
        self.file.close()
        self.sock.close()


def value(answer: tuple[int, Any, Any]) -> float:
    status, _, content = answer
    assert status == 200, content
    return float(content["outputs"][0]["data"][0])
