"""The drill: a backup while the platform works, the home is gone, another one takes its place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import SETTINGS, Platform, eventually, processes_of, say
from zoo import EXAMPLE, Linear

from modelfleet.client.errors import ClientError
from postgres_server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-restore")]
TENSOR = {"name": "x", "datatype": "FP64", "shape": [5, 3], "data": EXAMPLE[:5].ravel().tolist()}
BODY = {"inputs": [TENSOR]}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mf"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def before(folder: Path) -> dict[str, Any]:
    """What the platform knew and answered; its backups are in `folder`."""
    platform = Platform()
    try:
        platform.up()
        platform.serve("first", Linear(), EXAMPLE, reference=EXAMPLE)
        platform.serve("first", Linear(0.25), EXAMPLE, reference=EXAMPLE)
        platform.serve("own", Linear(0.5), EXAMPLE, compile=False)
        _back_up(platform, folder)
        found = {
            "answers": {name: _answer(platform, name) for name in ("first", "own")},
            "rollouts": {one.id for one in platform.client.rollouts()},
            "versions": {one.version for one in platform.client.versions("first")},
            "key": platform.key,
        }
        for pid in processes_of(platform.home):  # the machine is gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not processes_of(platform.home))
    finally:
        platform.end()
    assert not platform.home.exists()
    return found


def _back_up(platform: Platform, folder: Path) -> None:
    """Twice, while versions are being registered without a pause."""
    (folder / "key").write_bytes(os.urandom(40).hex().encode())
    stop, registered = threading.Event(), []

    def register() -> None:
        from modelfleet.client import Client

        with Client(home=platform.home, timeout=60) as client:
            number = 0
            while not stop.is_set():
                number += 1
                model = Linear(float(number))
                registered.append(client.register(model, EXAMPLE, name="busy", team="e2e"))

    thread = threading.Thread(target=register)
    thread.start()
    try:
        eventually(lambda: len(registered) > 2)
        seals = ["--key-file", str(folder / "key"), "--with-evidence", "--json"]
        first = platform.run("backup", str(folder / "backup"), "--encrypt", *seals)
        assert first.returncode == 0, first.stderr
        seen = len(registered)
        eventually(lambda: len(registered) > seen)
        second = platform.run("backup", str(folder / "backup"), *seals)
        assert second.returncode == 0, second.stderr
    finally:
        stop.set()
        thread.join(60)
    one, two = json.loads(first.stdout), json.loads(second.stdout)
    say(f"first {one['new_bytes']} of {one['all_bytes']} bytes, then {two['new_bytes']}")
    assert one["missing"] == two["missing"] == []
    assert two["new_objects"] < two["blobs"]


def _answer(platform: Platform, name: str) -> object:
    found = platform.ask(name, BODY)
    assert found.status == 200, found
    return [one["data"] for one in found.body["outputs"]]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_drill(before: dict[str, Any], folder: Path, server: Server, kind: str) -> None:
    platform = Platform(SETTINGS)
    with server.database() as name:
        try:
            shutil.rmtree(platform.home)
            place = str(folder / "backup")
            seal = ["--key-file", str(folder / "key")]
            # `run` names the home; verify needs none.
            target = ["--database-url", server.address(name)] if kind == "postgres" else []
            done = platform.run("restore", place, *seal, *target, "--json")
            assert done.returncode == 0, done.stderr
            assert (platform.home / "fleet.db").exists() == (kind == "sqlite")
            again = platform.run("restore", place, *seal)
            assert again.returncode == 5
            platform.up()
            assert platform.key == before["key"]
            for name_, expected in before["answers"].items():
                found = eventually(lambda n=name_: _answered(platform, n), 120)
                assert found == expected
            client = platform.client
            assert {one.id for one in client.rollouts()} >= before["rollouts"]
            assert {one.version for one in client.versions("first")} == before["versions"]
            assert platform.run("audit", "verify").returncode == 0
            actions = json.loads(platform.run("audit", "list", "--json").stdout)
            assert "restore-backup" in json.dumps(actions)
            for one in client.versions("busy"):  # those that were being prepared are finished
                with contextlib.suppress(ClientError):
                    client.wait_until_ready("busy", one.version, 120)
            assert {one.status for one in client.versions("busy")} == {"ready"}
            doctor = json.loads(platform.run("doctor", "--json", "--deep").stdout)
            failed = {one["check"] for one in doctor["findings"] if one["status"] == "fail"}
            assert failed <= {"heartbeat"}  # it tells of its last beat, which was at the start
        finally:
            platform.end()


def _answered(platform: Platform, name: str) -> object:
    with contextlib.suppress(AssertionError, OSError, ValueError):
        return _answer(platform, name)
    return None
