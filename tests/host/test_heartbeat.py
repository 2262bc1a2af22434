"""What the heartbeat says, and when, to a real listener."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from modelfleet.core.layout import Layout
from modelfleet.core.settings import HeartbeatSettings, Settings
from modelfleet.host.health import Part, look
from modelfleet.host.heartbeat.beat import Heart
from modelfleet.host.heartbeat.shares import ABANDONED_SECONDS
from modelfleet.serving.gateway import FairShare, GatewayFiles

WELL = [Part("api", ""), Part("collector", "")]
ILL = [Part("api", ""), Part("collector", "no answer within 5 s")]


class Listener:
    """Notes who calls. status: what it answers."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.status = 200
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("content-length", "0"))
                listener.heard.append((self.path, self.rfile.read(size).decode()))
                self.send_response(listener.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


class Patient:
    """parts: what a look finds."""

    def __init__(self, home: Path, url: str, interval: float = 0.0) -> None:
        self.parts = WELL
        settings = Settings(home=home, heartbeat=HeartbeatSettings(url, interval))
        self.heart = Heart(settings, lambda: self.parts)
        self.noted = Layout(home).heartbeat

    def note(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.noted.read_bytes())
        return found


def test_while_all_is_well_it_says_so(listener: Listener, tmp_path: Path) -> None:
    patient = Patient(tmp_path, f"{listener.url}/ping/abc?rid=1")
    for _ in range(3):
        patient.heart.beat()
    assert listener.heard == [("/ping/abc?rid=1", "")] * 3
    assert patient.note()["trouble"] == ""


def test_trouble_is_told_with_its_reason_and_once_more_when_it_is_due(
    listener: Listener, tmp_path: Path
) -> None:
    patient = Patient(tmp_path, f"{listener.url}/ping/abc?rid=1", interval=1000)
    patient.heart.beat()
    good_at = patient.note()["good_at"]
    patient.parts = ILL
    patient.heart.beat()
    assert len(listener.heard) == 1  # it may be a moment only
    patient.heart.beat()
    said = "collector: no answer within 5 s"
    assert listener.heard[1:] == [("/ping/abc/fail?rid=1", said)]
    patient.heart.beat()
    assert len(listener.heard) == 2
    assert patient.note()["good_at"] == good_at
    assert patient.note()["trouble"] == said


def test_it_calls_no_more_often_than_it_is_told(listener: Listener, tmp_path: Path) -> None:
    patient = Patient(tmp_path, listener.url, interval=1000)
    for _ in range(3):
        assert 4 < patient.heart.beat() <= 5  # but it looks
    assert len(listener.heard) == 1


def test_nobody_listens(
    listener: Listener, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/secret-path"
    for url in (nobody, "http://[", "nonsense"):
        patient = Patient(tmp_path, url)
        for _ in range(3):
            patient.heart.beat()
    listener.status = 500
    Patient(tmp_path, listener.url).heart.beat()
    said = capfd.readouterr().err
    assert said.count("not heard") == 3  # once for each
    assert "answered with 500" in said
    assert "secret-path" not in said


def test_the_last_good_moment_outlives_the_process(tmp_path: Path) -> None:
    first = Patient(tmp_path, "")
    first.heart.beat()
    good_at = first.note()["good_at"]
    second = Patient(tmp_path, "")
    second.parts = ILL
    second.heart.beat()
    assert second.note()["good_at"] == good_at
    second.noted.write_text("{")
    third = Patient(tmp_path, "")
    third.parts = ILL
    third.heart.beat()
    assert third.note()["good_at"] == 0


def test_nothing_that_runs(tmp_path: Path) -> None:
    assert look(Layout(tmp_path), "127.0.0.1")[0].trouble == "it was never started"
    layout = Layout(tmp_path)
    layout.run.mkdir()
    layout.ports.write_text('{"api": 1, "gateway": 1, "metrics": 1}')
    found = {part.name: part.trouble for part in look(layout, "127.0.0.1")}
    assert set(found) == {"api", "gateway", "collector", "reconciler"}
    assert all(found.values())


def test_shares_that_nobody_follows_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path)
    layout.gateway.mkdir(parents=True)
    gateway, patient = GatewayFiles(layout), Patient(tmp_path, "")
    gateway.set_shares([FairShare("scarce", 9.0), FairShare("other", 8.0)])
    layout.reconciled.touch()
    patient.heart.beat()
    assert len(gateway.shares()) == 2
    long_ago = time.time() - ABANDONED_SECONDS - 1
    os.utime(layout.reconciled, (long_ago, long_ago))
    patient.heart.beat()
    assert gateway.shares() == []
    assert 'descriptors":[]' in (layout.gateway / "shed.json").read_text()
    patient.heart.beat()
    said = capfd.readouterr().err
    assert said.count("so the shares of scarce end") == 1
    assert said.count("so the shares of other end") == 1
