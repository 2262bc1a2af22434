"""The built wheel in an empty environment, run by an ordinary user: what the README promises."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Platform, eventually, processes_of
from zoo import EXAMPLE, Linear

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(420),
    pytest.mark.xdist_group("e2e-wheel"),
]
ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"
SYSTEM_PYTHON = Path("/usr/bin/python3")
SOMEBODY = 65533
"""a user id that nobody has"""


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def system_python_will_do() -> bool:
    if not SYSTEM_PYTHON.exists():
        return False
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([SYSTEM_PYTHON, "-c", check]).returncode == 0


def can_become_somebody() -> bool:
    """Are we root, with a Python that any user can reach?"""
    return os.geteuid() == 0 and system_python_will_do() and shutil.which("setpriv") is not None


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mfw"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def installed(work: Path) -> Path:
    """The command, in an environment that holds nothing but the wheel."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    run(*build, "--outdir", work, ROOT)
    wheel = next(work.glob("*.whl"))
    base = SYSTEM_PYTHON if system_python_will_do() else sys.executable
    run(UV, "venv", "--quiet", "--python", base, work / "venv")
    python = work / "venv" / "bin" / "python"
    run(UV, "pip", "install", "--quiet", "--python", python, f"{wheel}[standard]")
    return work / "venv" / "bin" / "modelfleet"


@pytest.fixture(scope="module")
def platform(installed: Path, work: Path) -> Iterator[Platform]:
    user = ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups", "--"]
    command = [*(user if can_become_somebody() else []), str(installed)]
    made = Platform(command=command, shared=False)
    hidden = ("PYTHON", "VIRTUAL_ENV", "UV_", "XDG_")
    kept = {name: v for name, v in made.environment.items() if not name.startswith(hidden)}
    path = f"{installed.parent}{os.pathsep}{os.defpath}"
    made.environment = {**kept, "PATH": path, "HOME": str(work / "user")}
    (work / "user").mkdir()
    if can_become_somebody():
        for place in (work / "user", made.home, made.home / "settings.toml"):
            os.chown(place, SOMEBODY, SOMEBODY)
    try:
        made.up()
        yield made
    finally:
        made.end()


def test_the_wheel_runs_in_an_empty_environment(platform: Platform) -> None:
    status = platform.run("status", "--json")
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["ready"] is True
    created = platform.run("models", "create", "first", "--team", "e2e", "--json")
    assert created.returncode == 0, created.stderr
    assert json.loads(created.stdout)["name"] == "first"
    fleet = platform.run("fleet", "--json")
    assert fleet.returncode == 0, fleet.stderr
    page = platform.client.api.call("GET", "/login")
    assert "<html" in page.text


def test_all_processes_are_the_users_and_keys_are_closed_to_others(platform: Platform) -> None:
    owner = platform.home.stat().st_uid
    assert owner == (SOMEBODY if can_become_somebody() else os.geteuid())
    for pid in processes_of(platform.home):
        assert Path(f"/proc/{pid}").stat().st_uid == owner
    for name in ("admin.key", "keys/signing.pem"):
        status = (platform.home / name).stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (owner, 0o600)


def test_a_model_of_another_environment_is_served(platform: Platform) -> None:
    platform.serve("linear", Linear(), EXAMPLE)
    answer = platform.client.predict("linear", EXAMPLE[:1].tolist())
    assert answer["model_name"] == "linear"
    assert len(platform.workers()) == 2


def test_it_ends_when_it_is_told_to(platform: Platform) -> None:
    done = platform.run("down")
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: not processes_of(platform.home), 15)
