"""The same raw requests to MLflow's own server and to ours: the same answers."""

from __future__ import annotations

import difflib
import http.client
import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_raw import script
from running import Platform, eventually, say

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("e2e-mlflow-same"),
]
RELEASE = "3.17.2"
_HIDDEN = {"workspace", "sqlstate", "error_class"}
_NORMAL = (
    (re.compile(r"m-[0-9a-f]{32}"), "MODEL"),
    (re.compile(r"[0-9a-f]{32}"), "RUN"),
    (re.compile(r"\b1[6-9]\d{11}\b"), "NOW"),
    (re.compile(r'"[a-z]+-[a-z]+-\d+"'), '"NAME"'),
    (re.compile(r'"next_page_token": "[^"]+"'), '"next_page_token": "TOKEN"'),
)


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory, stock: Callable[[str], Path]
) -> Iterator[int]:
    """The port of MLflow's own server."""
    python, folder = stock(f"mlflow=={RELEASE}"), tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [python.with_name("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/m.db"]
    stores += ["--artifacts-destination", str(folder / "files"), "--workers", "1"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, *stores], stdout=log, stderr=log, cwd=folder)
    try:
        eventually(lambda: _answers(port), 120)
        yield port
    finally:
        server.terminate()
        server.wait(30)


def _answers(port: int) -> bool:
    try:
        return Asking(port).ask("GET", "/health")[0] == 200
    except OSError:
        return False


class Asking:
    """Asks one server and keeps what it answered."""

    def __init__(self, port: int, key: str = "") -> None:
        self.port = port
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        self.kept: list[tuple[str, str]] = []

    def ask(
        self, method: str, path: str, body: Any = None, content: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        place = path if path.startswith("/") else f"/api/2.0/mlflow/{path}"
        headers = dict(self.headers)
        if body is not None:
            content = json.dumps(body).encode()
            headers["content-type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, place, content, headers)
        found = connection.getresponse()
        named = {name.lower(): value for name, value in found.getheaders()}
        answer = (found.status, named, found.read())
        connection.close()
        return answer

    def same(self, method: str, path: str, body: Any = None, content: bytes | None = None) -> Any:
        status, headers, text = self.ask(method, path, body, content)
        what = f"{method} {path} {json.dumps(body)[:200]}"
        shown = headers.get("content-disposition", "")
        decoded = _decoded(headers, text)
        self.kept.append((_normal(what), f"{status} {shown} {_normal(_canonical(decoded))}"))
        return decoded

    def code(self, method: str, path: str, body: Any = None, content: bytes | None = None) -> Any:
        status, headers, text = self.ask(method, path, body, content)
        decoded = _decoded(headers, text)
        code = decoded.get("error_code", "") if isinstance(decoded, dict) else ""
        self.kept.append((_normal(f"{method} {path} {json.dumps(body)[:200]}"), f"{status} {code}"))
        return decoded


def _decoded(headers: dict[str, str], text: bytes) -> Any:
    if headers.get("content-type", "").startswith("application/json"):
        return json.loads(text)
    return text.decode("utf-8", "replace")


def _canonical(found: Any) -> str:
    return json.dumps(_sorted(found), sort_keys=True, indent=1)


def _sorted(found: Any) -> Any:
    """Without what is not compared; pairs by key, as their order is nobody's promise."""
    if isinstance(found, dict):
        return {k: _sorted(v) for k, v in found.items() if k not in _HIDDEN}
    if isinstance(found, list):
        inner = [_sorted(one) for one in found]
        if all(isinstance(one, dict) and "key" in one for one in inner):
            inner.sort(key=lambda one: (one["key"], one.get("timestamp", 0), one.get("step", 0)))
        if all(isinstance(one, dict) and "dataset" in one for one in inner):
            inner.sort(key=lambda one: str(one["dataset"]))
        return inner
    return found


def _normal(text: str) -> str:
    for pattern, instead in _NORMAL:
        text = pattern.sub(instead, text)
    return text


def test_every_answer_is_the_same(platform: Platform, original: int) -> None:
    theirs, ours = Asking(original), Asking(platform.ports()["api"], platform.key)
    for asking in (theirs, ours):
        script(asking.same, asking.code)
    assert len(theirs.kept) == len(ours.kept)
    different = [
        "\n".join([what, *difflib.ndiff(expected.splitlines(), found.splitlines())])
        for (what, expected), (_, found) in zip(theirs.kept, ours.kept, strict=True)
        if expected != found
    ]
    say(f"{len(ours.kept)} answers compared")
    assert not different, "\n".join(["", *different])
