"""Credentials and bad listings: against a small server that notes what it is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from modelfleet.client.errors import ClientError
from modelfleet.importing.mlflow_api import MlflowApi, artifact_root


class Noting(BaseHTTPRequestHandler):
    seen: ClassVar[list[str | None]] = []
    answers: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("authorization"))
        body = json.dumps(self.answers.pop(0) if self.answers else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    Noting.seen.clear()
    Noting.answers.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Noting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"token": "secret"}, "Bearer secret"),
        ({"user": "ann", "password": "pw"}, "Basic YW5uOnB3"),
        ({"user": "ann", "password": "pw", "token": "secret"}, "Basic YW5uOnB3"),
        ({}, ""),
    ],
)
def test_credentials(address: str, given: dict[str, str], sent: str) -> None:
    api = MlflowApi(address, **given)  # type: ignore[arg-type]
    api.get("experiments/search")
    api.close()
    assert [one or "" for one in Noting.seen] == [sent]


def test_pages(address: str) -> None:
    Noting.answers += [{"runs": [{"a": 1}], "next_page_token": "x"}, {"runs": [{"a": 2}]}]
    assert list(MlflowApi(address).pages("runs", "runs")) == [{"a": 1}, {"a": 2}]


def test_a_listing_that_leads_out(address: str) -> None:
    Noting.answers += [{"files": [{"path": "..", "is_dir": False}]}]
    with pytest.raises(ClientError, match="called"):
        list(MlflowApi(address).list_files("1/models"))
    Noting.answers += [{"files": [{"path": "../../evil", "is_dir": False}]}]
    with pytest.raises(ClientError, match="called"):
        list(MlflowApi(address).list_of_run("r"))


def test_where_the_proxy_finds_it() -> None:
    assert artifact_root("mlflow-artifacts:/1/models/m/artifacts") == "1/models/m/artifacts"
    assert artifact_root("mlflow-artifacts://host:5000/1/a") == "1/a"
    assert artifact_root("s3://bucket/1/a") is None


def test_no_server(tmp_path: Path) -> None:
    from modelfleet.client.errors import Unreachable

    with pytest.raises(Unreachable):
        MlflowApi("http://127.0.0.1:1").get("experiments/search")
