"""HTTP over a Unix socket, to a real listener, to one that says nothing, and to none."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from modelfleet.core import unix_http
from modelfleet.core.unix_http import Answer


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mfu-") as folder:  # paths of sockets are short
        yield Path(folder) / "a.sock"


class Told(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"asked for {self.path}".encode()
        self.send_response(404 if "missing" in self.path else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_an_answer_tells_who_gave_it(place: Path) -> None:
    with ThreadingUnixStreamServer(str(place), Told) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert unix_http.get(place, "/x?y=1") == Answer(200, "asked for /x?y=1", os.getpid())
        assert unix_http.get(place, "/missing") == Answer(404, "asked for /missing", os.getpid())
        server.shutdown()
        thread.join()


def test_who_says_nothing_is_not_waited_for(place: Path) -> None:
    assert unix_http.get(place, "/") is None
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(place))
        assert unix_http.get(place, "/") is None  # nobody listens
        deaf.listen()
        began = time.monotonic()
        assert unix_http.get(place, "/", 0.1) is None
        assert time.monotonic() - began < 5.0
