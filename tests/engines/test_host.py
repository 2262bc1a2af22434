"""A home as `modelfleet up` makes it: true gateway, true workers."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from engine_support import Home, wait_until

from modelfleet.core.errors import Conflict, NotFound
from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.core.settings import Settings, load_settings
from modelfleet.engines.local import Confinement, Files, ProcessSpec
from modelfleet.engines.local.confine import may_mount
from modelfleet.engines.local.launch import launch
from modelfleet.host import down, log_files, read_ports, restart, run, status, tail
from modelfleet.host.compose import overrides_as_environment, platform
from modelfleet.host.ports import Ports, choose_ports
from modelfleet.host.workers import confinement, install_worker_package
from modelfleet.serving.gateway import (
    EndpointRoutes,
    GatewayConfig,
    GatewayFiles,
    PoolAddress,
    Target,
)
from modelfleet_worker.wire.control import ControlBlock

HOST = Path(__file__).with_name("gateway_host.py")
MODEL = """
class Sum:
    def predict(self, inputs):
        return {"prediction": inputs["x"].sum(axis=1)}
"""
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}]}
).encode()


class Fleet(Home):
    """A home whose workers add two numbers."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.layout = Layout(path)

    def up(self) -> None:
        self.keeper = subprocess.Popen(
            [sys.executable, HOST, "up", str(self.path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "MODELFLEET_PORT": "0", "MODELFLEET_GATEWAY_PORT": "0"},
        )
        wait_until(lambda: status(self.layout).ready, "the gateway")
        assert self.keeper.stdout is not None
        assert self.keeper.stdout.readline() == b"ready True\n"

    def deploy(self) -> None:
        path, digest = write_bundle(self.layout)
        version = {"index": 7, "model": "m", "version": "1.0.0", "sequence": 1}
        held = [{**version, "digest": digest, "path": str(path), "variant": "source"}]
        pool = {"pool": "p", "revision": 1, "python": sys.executable, "replicas": 2}
        self.engine.place("p", json.dumps({**pool, "memory_mb": 2000, "versions": held}).encode())
        wait_until(lambda: self.ready(2), "two workers")
        sockets = tuple(str(self.layout.worker_socket("p", n)) for n in range(2))
        routes = EndpointRoutes("m", (Target(7, "1.0.0", 1, "p", 10_000),))
        files = GatewayFiles(self.layout)
        os.seteuid(self.path.stat().st_uid)
        try:
            files.write(GatewayConfig(1, (routes,), (PoolAddress("p", sockets),)))
            assert files.acknowledged() == 1
        finally:
            os.seteuid(os.getuid())

    def kill_between_requests(self, number: int) -> int:
        """Kill a worker while its model rests; the gateway's requests may be anywhere else.

        What a worker was computing when it died is refused by its peers, who can't know whether
        it was the reason (`modelfleet_worker.peers`).
        """
        victim = self.pids()[number]
        assert victim is not None
        with ControlBlock.open(self.layout.control_block("p", number)) as block:
            while True:
                os.kill(victim, signal.SIGSTOP)
                time.sleep(0.002)
                if not block.slots():
                    break
                os.kill(victim, signal.SIGCONT)
                time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        return victim

    def token(self) -> str:
        return SigningKey(self.layout).issue("c", "c", models=("m",), seconds=600)[0]


class Load(threading.Thread):
    """One client that asks without pause."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__()
        self._token = fleet.token()
        ports = read_ports(fleet.layout)
        assert ports is not None
        self._port = ports.gateway
        self._done = threading.Event()
        self.good = 0
        self.bad: list[str] = []

    def __enter__(self) -> Load:
        self.start()
        time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.3)
        self._done.set()
        self.join()

    def run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=10)
        headers = {"authorization": f"Bearer {self._token}"}
        while not self._done.is_set():
            try:
                connection.request("POST", "/v2/models/m/infer", BODY, headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, HTTPException) as error:
                self.bad.append(repr(error))
                connection.close()
                continue
            if answer.status == 200 and json.loads(body)["outputs"][0]["data"] == [3.0]:
                self.good += 1
            else:
                self.bad.append(f"{answer.status} {body!r}")
        connection.close()


def write_bundle(layout: Layout) -> tuple[Path, str]:
    tensor = {"datatype": "FP64"}
    signature = {
        "inputs": [{"name": "x", "shape": [-1, 2], "features": ["a", "b"], **tensor}],
        "outputs": [{"name": "prediction", "shape": [-1], **tensor}],
    }
    spec = {"format": 1, "runtime": "python", "artifact": "model.pkl", "method": "predict"}
    example = {"inputs": {"x": [[1.0, 2.0]]}, "outputs": {"prediction": [3.0]}}
    files = {
        "bundle.json": json.dumps({**spec, "signature": signature, "options": {}}).encode(),
        "example.json": json.dumps(example).encode(),
        "model.pkl": _pickled(),
    }
    entries = [
        {"mode": 420, "path": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in sorted(files.items())
    ]
    manifest = json.dumps({"entries": entries}, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    folder = layout.bundle(digest)
    (folder / "files").mkdir(parents=True)
    (folder / "manifest.json").write_bytes(manifest)
    for name, data in files.items():
        (folder / "files" / name).write_bytes(data)
    return folder, digest


def _pickled() -> bytes:
    import cloudpickle

    names: dict[str, type] = {"__name__": "__main__"}  # type: ignore[dict-item]
    exec(MODEL, names)
    content = cloudpickle.dumps(names["Sum"]())
    assert isinstance(content, bytes)
    assert pickle.loads(content)
    return content


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="mfh-") as folder:
        made = Fleet(Path(folder))
        try:
            yield made
        finally:
            made.kill_everything()


@pytest.mark.e2e
def test_nothing_that_dies_fails_a_request(fleet: Fleet) -> None:
    started = time.monotonic()
    fleet.up()
    assert time.monotonic() - started < 5.0
    fleet.deploy()
    with Load(fleet) as load:
        gateway = fleet.process("gateway")
        for number in (1, 0):
            victim = fleet.kill_between_requests(number)
            wait_until(lambda v=victim: fleet.ready(2) and v not in fleet.pids(), "it")  # type: ignore[misc]
            time.sleep(2.5)  # until its ejection is over
        restart(fleet.layout)
        agent = fleet.agent_pid()
        os.kill(agent, signal.SIGKILL)
        wait_until(lambda: (a := fleet.agent()) and a.pid != agent, "a new agent", 3.0)
        wait_until(lambda: status(fleet.layout).ready and fleet.ready(2), "everything")
        assert fleet.process("gateway") == gateway, "neither restart nor crash touched it"
    assert load.bad == []
    assert load.good > 200
    fleet.end(signal.SIGINT)
    assert fleet.alive() == []
    assert not status(fleet.layout).running


@pytest.mark.e2e
def test_a_killed_gateway_is_back_with_its_routes(fleet: Fleet) -> None:
    fleet.up()
    fleet.deploy()
    gateway = fleet.process("gateway")
    os.kill(gateway, signal.SIGKILL)
    started = time.monotonic()
    wait_until(lambda: GatewayFiles(fleet.layout).acknowledged() == 1, "routes", 3.0)
    assert time.monotonic() - started < 3.0
    with Load(fleet) as load:
        assert fleet.process("gateway") != gateway
    assert load.bad == []
    assert load.good > 10
    with pytest.raises(Conflict, match="already runs"):
        run(load_settings(fleet.path))
    assert "worker-p-0" in log_files(fleet.layout)
    assert any("ready" in line for line in tail(fleet.layout, "worker-p-0"))
    with pytest.raises(NotFound):
        tail(fleet.layout, "no-such-process")
    assert down(fleet.layout)
    assert not down(fleet.layout)
    with pytest.raises(NotFound):
        restart(fleet.layout)


def settings(home: Path, **ports: int) -> Settings:
    return load_settings(home, {"port": 0, "gateway_port": 0, **ports}, environment={})


def test_free_ports_stay_the_same_and_differ_between_homes(tmp_path: Path) -> None:
    first = choose_ports(settings(tmp_path / "a"))
    assert len({first.api, first.gateway, first.metrics}) == 3
    assert choose_ports(settings(tmp_path / "a")) == first == read_ports(Layout(tmp_path / "a"))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", first.gateway))
        taken.listen()
        assert choose_ports(settings(tmp_path / "a")).gateway != first.gateway
        with pytest.raises(Conflict, match=str(first.gateway)):
            choose_ports(settings(tmp_path / "b", gateway_port=first.gateway))
        ours = frozenset({first.gateway})
        again = choose_ports(settings(tmp_path / "b", gateway_port=first.gateway), ours)
        assert again.gateway == first.gateway


def test_what_the_command_line_changed_reaches_the_processes(tmp_path: Path) -> None:
    changed = load_settings(tmp_path, {"port": 5, "serving": {"allow_root_workers": True}})
    found = overrides_as_environment(changed)
    assert found == {
        "MODELFLEET_PORT": "5",
        "MODELFLEET_SERVING__ALLOW_ROOT_WORKERS": "true",
    }
    assert load_settings(tmp_path, environment=found) == changed


def test_the_processes_of_the_platform(tmp_path: Path) -> None:
    specs = {spec.name: spec for spec in platform(load_settings(tmp_path), Ports(1, 2, 3))}
    executors = {"pipelines-0", "pipelines-1"}
    assert set(specs) == {"gateway", "control-plane", "collector", "grpc", "heartbeat"} | executors
    plain = load_settings(tmp_path, {"serving": {"grpc": False}})
    assert "grpc" not in {spec.name for spec in platform(plain, Ports(1, 2, 3))}
    assert specs["gateway"].detached
    assert specs["collector"].last
    assert specs["control-plane"].argv[1:3] == ("-m", "modelfleet.app")


def test_workers_see_no_key_and_no_database(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    kept = confinement(load_settings(tmp_path), sys.executable).keep
    for secret in (layout.keys, layout.admin_key, layout.fleet_database, layout.gateway):
        assert not any(secret == path or path in secret.parents for path in kept)


def test_the_worker_package_is_copied_and_mended(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    install_worker_package(layout)
    copy = layout.worker_package / "modelfleet_worker"
    (copy / "process.py").write_text("broken")
    (copy / "old.py").write_text("old")
    install_worker_package(layout)
    assert "broken" not in (copy / "process.py").read_text()
    assert not (copy / "old.py").exists()
    assert list((copy / "__pycache__").glob("process.*.pyc"))


@pytest.mark.e2e
@pytest.mark.skipif(not may_mount(), reason="only root can become an ordinary user")
def test_it_works_as_an_ordinary_user(fleet: Fleet) -> None:
    os.chown(fleet.path, 65534, 65534)
    repository = Path(__file__).parents[2]
    keep = (repository / "src", repository / "tests", fleet.path)
    spec = ProcessSpec(
        "up",
        (sys.executable, str(HOST), "up", str(fleet.path)),
        env={"MODELFLEET_PORT": "0", "MODELFLEET_GATEWAY_PORT": "0", "HOME": str(fleet.path)},
        confinement=Confinement("nobody", keep),
    )
    with tempfile.TemporaryDirectory() as folder:
        outside = Files(Path(folder), Path(folder))
        foreground = launch(spec, 1, outside)
        try:
            wait_until(lambda: status(fleet.layout).ready, "the gateway")
            fleet.deploy()
            with Load(fleet) as load:
                pass
            assert load.bad == []
            assert load.good > 10
            owners = {os.stat(f"/proc/{record.pid}").st_uid for record in fleet.alive()}
            assert owners == {65534}
        finally:
            foreground.signal(signal.SIGTERM)
            os.waitpid(foreground.pid, 0)
    assert fleet.alive() == []
