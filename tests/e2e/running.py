"""A real modelfleet in a short temporary folder, and what tests do to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from load import Body, Load

import environments
from modelfleet.client import Client
from modelfleet.core.layout import Layout
from modelfleet.host import status

_T = TypeVar("_T")
SETTINGS = """
[serving]
segment_mb = 8
memory_mb = 600

[evidence]
tick_seconds = 0.5
window_seconds = 5
rotate_seconds = 5

[monitoring]
drift_window_seconds = 20
"""


def say(text: str) -> None:
    """A measured number, for whoever runs the tests with `-s`."""
    sys.stdout.write(f"{text}\n")


def eventually(what: Callable[[], _T | None], seconds: float = 30.0, every: float = 0.05) -> _T:
    """The first true answer of `what`."""
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, f"it did not happen within {seconds:g} s"
        time.sleep(every)


def processes_of(home: Path) -> dict[int, str]:
    """Living processes with that folder in their command line."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"{home}" in line:
                found[int(entry.name)] = line
    return found


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]
    headers: dict[str, str]


class Platform:
    """`modelfleet up` on free ports. command: how to call the command line; shared: take
    environments that other platforms built, and leave ours to them."""

    def __init__(
        self, settings: str = SETTINGS, command: Sequence[str] = (), *, shared: bool = True
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mf"))
        self.home.chmod(0o755)  # workers run as another user
        (self.home / "settings.toml").write_text(settings)
        self._shared = shared
        if shared:
            environments.lend(self.layout().environments)
        self.command = list(command) or [sys.executable, "-m", "modelfleet.cli.main"]
        hidden = ("PYTHONDONTWRITEBYTECODE", "MODELFLEET_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        self._up: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        with (self.home / "up.log").open("wb") as log:
            ports = ["--port", "0", "--gateway-port", "0"]
            self._up = subprocess.Popen(
                [*self.command, "up", "--home", str(self.home), *ports],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        eventually(self._announced, 120)
        self.client = Client(home=self.home, timeout=60)
        self.key = (self.home / "admin.key").read_text().strip()

    def _announced(self) -> bool:
        said = (self.home / "up.log").read_text()
        assert self._up is not None
        assert self._up.poll() is None, f"modelfleet did not start: {said}"
        return "Metrics" in said

    def end(self) -> None:
        """Stop everything, by force what does not stop by itself."""
        if self._up is not None:
            self._up.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._up.wait(30)
            self.client.close()
        for pid in processes_of(self.home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._up is not None:
            self._up.wait(10)
        if self._shared:
            environments.keep(self.layout().environments)
        shutil.rmtree(self.home, ignore_errors=True)

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A command of the command line, for this home. timeout: in seconds."""
        return subprocess.run(
            [*self.command, *arguments, "--home", str(self.home)],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=timeout,
        )

    def ports(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.home / "run" / "ports.json").read_text())
        return found

    def observed(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "run" / "observed.json").read_text())
        return found

    def pid_of(self, process: str) -> int:
        if process == "agent":
            found: int = json.loads((self.home / "run" / "agent.json").read_text())["pid"]
            return found
        pid: int | None = self.observed()["processes"][process]["pid"]
        return pid or 0

    def kill(self, process: str) -> int:
        """End it the hard way; the pid it had."""
        pid = eventually(lambda: self.pid_of(process))
        os.kill(pid, signal.SIGKILL)
        return pid

    def until_back(self, process: str, before: int, seconds: float = 30.0) -> None:
        """Until another process of that name is ready."""

        def back() -> bool:
            pid = self.pid_of(process)
            if process == "agent":
                return pid not in (0, before) and status(self.layout()).ready
            state = self.observed()["processes"][process]["state"]
            return pid not in (0, before) and state == "ready"

        eventually(back, seconds)

    def workers(self) -> list[int]:
        """Pids of the workers that are ready."""
        pools = self.observed()["pools"].values()
        replicas = [replica for pool in pools for replica in pool["replicas"]]
        return [r["pid"] for r in replicas if r["pid"] and r["state"] == "ready"]

    def until_gateway_has(self, pool: str, healthy: int) -> None:
        """Until the gateway itself knows that many workers of the pool to be well."""

        def counted() -> bool:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(str(self.layout().gateway_admin_socket))
                connection = http.client.HTTPConnection("gateway")
                connection.sock = asking
                connection.request("GET", "/clusters")
                said = connection.getresponse().read().decode()
            well = [
                sum(
                    line.endswith("::health_flags::healthy")
                    for line in said.splitlines()
                    if start in line
                )
                for start in (f"pool-{pool}::", f"pool-{pool}-near::")
                if start in said
            ]
            return bool(well) and all(count == healthy for count in well)

        eventually(counted)

    def layout(self) -> Layout:
        return Layout(self.home)

    def ask(
        self,
        endpoint: str,
        body: object,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        verb: str = "infer",
    ) -> Answer:
        """One prediction through the gateway. body: JSON, or bytes as they are; key: "" sends
        none; verb: or `invocations`."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **(headers or {})}
        token = self.key if key is None else key
        if token:
            sent["authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.ports()["gateway"], timeout=60)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused early
                connection.request("POST", f"/v2/models/{endpoint}/{verb}", content, sent)
            found = connection.getresponse()
            text = found.read()
            named = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, json.loads(text), named)
        finally:
            connection.close()

    def load(self, endpoint: str, body: Body, **options: Any) -> Load:
        return Load(self.ports()["gateway"], self.key, endpoint, body, **options)

    def serve(self, name: str, model: object, example: object, **options: Any) -> None:
        """Register, check, deploy."""
        made = self.client.register(model, example, name=name, team="e2e", wait=True, **options)
        ended = self.client.deploy(name, made.version, wait=True)
        assert ended.state == "succeeded", ended
