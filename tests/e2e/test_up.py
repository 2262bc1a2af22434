"""Starting and ending: homes, ports, settings, signals, and what is said when it can't be."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping

import pytest
from running import Platform, eventually, processes_of, say

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-up")]
CONFLICT, INVALID = 5, 2


@pytest.fixture
def another() -> Iterator[Platform]:
    """A home in which nothing runs yet."""
    made = Platform()
    yield made
    made.end()


def up(
    platform: Platform, *arguments: str, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*platform.command, "up", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**platform.environment, **(variables or {})},
        start_new_session=True,
    )


def gives_up(platform: Platform, *arguments: str) -> tuple[int, str]:
    """Exit code and last words of an `up` that can't work."""
    process = up(platform, "--home", str(platform.home), *arguments)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What it printed up to and including the line with that word."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if word in line:
            return said
    raise AssertionError(f"it ended and never said {word!r}: {said}")


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def test_an_empty_home_gets_ready_and_control_c_ends_it(another: Platform) -> None:
    began = time.monotonic()
    home = ["--home", str(another.home), "--port", "0", "--gateway-port", "0"]
    process = up(another, *home)
    said = read_until(process, "Key")
    say(f"ready on an empty home after {time.monotonic() - began:.2f} s")
    assert another.run("status").returncode == 0
    assert len(processes_of(another.home)) >= 5
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert processes_of(another.home) == {}
    assert f"{another.home / 'admin.key'}" in said


def test_settings_of_the_file_and_a_home_of_the_environment(another: Platform) -> None:
    api, gateway, metrics = free_ports(3)
    settings = another.home / "settings.toml"
    settings.write_text(f"port = {api}\ngateway_port = {gateway}\n" + settings.read_text())
    variables = {"MODELFLEET_HOME": str(another.home), "MODELFLEET_METRICS_PORT": str(metrics)}
    process = up(another, variables=variables)
    said = read_until(process, "Metrics")
    assert f"http://127.0.0.1:{api}/v1" in said
    assert another.ports() == {"api": api, "gateway": gateway, "metrics": metrics}
    done = another.run("down")
    assert done.returncode == 0, done.stderr
    assert process.wait(30) == 0
    assert processes_of(another.home) == {}


def test_two_homes_side_by_side(platform: Platform, another: Platform) -> None:
    another.up()
    assert not {*platform.ports().values()} & {*another.ports().values()}
    another.client.create_model("mine", team="e2e")
    assert [one.name for one in another.client.models()] == ["mine"]
    assert platform.client.models() == []
    assert another.run("down").returncode == 0
    assert platform.run("status").returncode == 0
    assert another.run("status").returncode == 1
    assert another.run("down").returncode == 1  # nothing is left to stop


def test_a_home_is_served_once(platform: Platform) -> None:
    before = processes_of(platform.home)
    code, said = gives_up(platform, "--port", "0", "--gateway-port", "0")
    assert code == CONFLICT, said
    assert "already runs" in said
    assert "modelfleet status" in said
    assert processes_of(platform.home) == before


def test_a_port_that_is_taken(platform: Platform, another: Platform) -> None:
    taken = platform.ports()["gateway"]
    code, said = gives_up(another, "--port", "0", "--gateway-port", str(taken))
    assert code == CONFLICT, said
    assert f"Port {taken} is taken" in said
    assert processes_of(another.home) == {}


def test_settings_that_make_no_sense(another: Platform) -> None:
    (another.home / "settings.toml").write_text("[serving]\nreplicsa = 3\n")
    code, said = gives_up(another)
    assert code == INVALID, said
    assert "replicsa" in said
    assert "Traceback" not in said


def test_status_tells_of_every_process(platform: Platform) -> None:
    found = json.loads(platform.run("status", "--json").stdout)
    assert found["ready"] is True
    assert found["ports"] == platform.ports()
    processes = found["observed"]["processes"]
    executors = {"pipelines-0", "pipelines-1"}
    others = {"grpc", "heartbeat"}
    assert set(processes) == {"gateway", "control-plane", "collector"} | executors | others
    for process in processes.values():
        assert process["state"] == "ready"
        os.kill(process["pid"], 0)


def test_logs_are_named_and_shown(platform: Platform) -> None:
    names = platform.run("logs").stdout.split()
    assert {"agent", "control-plane", "collector", "gateway"} <= set(names)
    assert platform.run("logs", "collector").returncode == 0
    unknown = platform.run("logs", "no-such-process")
    assert unknown.returncode == CONFLICT
    assert "control-plane" in unknown.stderr


def test_the_foreground_process_is_killed_and_down_still_ends_all(another: Platform) -> None:
    home = ["--home", str(another.home), "--port", "0", "--gateway-port", "0"]
    process = up(another, *home)
    read_until(process, "Metrics")
    process.kill()
    process.wait()
    # The host agent serves on; the gateway ends with its parent and is started again.
    eventually(lambda: another.run("status").returncode == 0)
    done = another.run("down")
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: not processes_of(another.home))
