"""What workers can reach, and what not."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from engine_support import wait_until

from modelfleet.core.errors import InvalidInput
from modelfleet.engines.local import Confinement, Files, ProcessSpec, confine
from modelfleet.engines.local.launch import LaunchFailed, launch

NOBODY = (65534, 65534)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
may_mount = pytest.mark.skipif(not confine.may_mount(), reason="no mount namespaces here")

LOOK = """
import json, os, resource, sys
home, out = sys.argv[1:3]
def readable(path):
    try:
        open(path).read()
    except OSError as error:
        return type(error).__name__
    return "readable"
found = {
    "ids": [os.getuid(), os.getgid(), os.getgroups()],
    "home": sorted(os.listdir(home)),
    "secret": readable(home + "/keys/secret"),
    "bundle": readable(home + "/cache/bundle"),
    "no_new_privs": "NoNewPrivs:\\t1" in open("/proc/self/status").read(),
    "data": resource.getrlimit(resource.RLIMIT_DATA)[0],
}
open(out, "w").write(json.dumps(found))
"""


@pytest.fixture
def closed_home(tmp_path: Path) -> Path:
    """A home below a folder that only its owner may pass."""
    (tmp_path / "closed").mkdir(mode=0o700)
    home = tmp_path / "closed" / "home"
    for folder in ("keys", "cache", "out"):
        (home / folder).mkdir(parents=True)
    (home / "keys" / "secret").write_text("x")
    (home / "cache" / "bundle").write_text("x")
    (home / "out").chmod(0o777)
    return home


@as_root
@may_mount
def test_a_worker_is_nobody_and_sees_only_what_it_needs(closed_home: Path, tmp_path: Path) -> None:
    out = closed_home / "out" / "found.json"
    keep = (closed_home / "cache", closed_home / "out")
    spec = ProcessSpec(
        "look",
        (sys.executable, "-c", LOOK, str(closed_home), str(out)),
        confinement=Confinement("nobody", keep, (closed_home,), 1 << 30),
    )
    files = Files(tmp_path / "run", tmp_path / "logs")
    record = launch(spec, 1, files)
    os.waitpid(record.pid, 0)
    assert out.exists(), files.log("look").read_text()
    assert json.loads(out.read_text()) == {
        "ids": [*NOBODY, []],
        "home": ["cache", "out"],
        "secret": "FileNotFoundError",
        "bundle": "readable",
        "no_new_privs": True,
        "data": 1 << 30,
    }
    assert out.stat().st_uid == NOBODY[0]
    assert (closed_home / "keys" / "secret").exists(), "our own view is untouched"


def test_obstacles(closed_home: Path, tmp_path: Path) -> None:
    assert confine.obstacle(Path("/usr/bin"), NOBODY) is None
    found = confine.obstacle(closed_home / "cache", NOBODY)
    assert found is not None
    assert (tmp_path / "closed").is_relative_to(found)


def test_without_mounts_the_refusal_says_what_to_do(
    closed_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confine, "may_mount", lambda: False)
    with pytest.raises(InvalidInput) as caught:
        confine.plan(Confinement("nobody", (closed_home / "cache",)), "/usr/bin/env")
    assert "allow_root_workers" in caught.value.hint
    reachable = confine.plan(Confinement("nobody", (Path("/usr"),)), "/usr/bin/env")
    assert reachable.covers == ()


def test_an_unknown_user_is_refused() -> None:
    with pytest.raises(InvalidInput):
        confine.plan(Confinement("no-such-user"), "/usr/bin/env")


def test_an_ordinary_user_stays_itself() -> None:
    assert confine.plan(Confinement(None), "/usr/bin/env") == confine.Plan(None, (), None)


def test_links_of_an_interpreter_are_followed(tmp_path: Path) -> None:
    for name in ("base/bin", "venv/bin", "links"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "base/bin/python3").write_text("")
    (tmp_path / "links/python").symlink_to(tmp_path / "base/bin/python3")
    (tmp_path / "venv/bin/python").symlink_to("../../links/python")
    found = confine.interpreter_folders(str(tmp_path / "venv/bin/python"))
    assert found == [tmp_path / "venv", tmp_path / "links", tmp_path / "base"]


def test_what_can_not_be_executed_says_so(tmp_path: Path) -> None:
    files = Files(tmp_path / "run", tmp_path / "logs")
    with pytest.raises(LaunchFailed, match="FileNotFoundError"):
        launch(ProcessSpec("none", (str(tmp_path / "none"),)), 1, files)


def test_a_long_log_is_set_aside(tmp_path: Path) -> None:
    files = Files(tmp_path / "run", tmp_path / "logs")
    files.logs.mkdir()
    files.log("echo").write_bytes(bytes(10_000_001))
    record = launch(ProcessSpec("echo", (sys.executable, "-c", "print('hello')")), 1, files)
    os.waitpid(record.pid, 0)
    wait_until(lambda: files.log("echo").read_text() == "hello\n", "the log")
    assert (files.logs / "echo.log.1").stat().st_size == 10_000_001
