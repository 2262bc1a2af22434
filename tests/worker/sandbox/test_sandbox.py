"""Every attack is denied inside, and succeeds outside: so that these tests can fail."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import modelfleet_worker
from modelfleet.engines.local import confine, confined
from modelfleet.engines.local.confine import Confinement
from modelfleet_worker.sandbox import Policy, Report, landlock, policy, seccomp, syscalls, warning

PACKAGE = str(Path(modelfleet_worker.__file__).parent.parent)
pytestmark = [
    pytest.mark.skipif(landlock.abi() < 6, reason="the kernel lacks a part of Landlock"),
    pytest.mark.skipif(seccomp.machine() is None, reason="no filter for this machine"),
]
USERS = ["own"] + (["nobody"] if os.geteuid() == 0 and confine.may_mount() else [])


class Place(NamedTuple):
    """A folder with a secret, one of the policy's own, processes of each user."""

    secret: Path
    own: Path
    victims: dict[str, subprocess.Popen[bytes]]
    port: int
    abstract: str


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="mfbox"))
    folder.chmod(0o755)
    (folder / "code").mkdir(mode=0o755)
    shutil.copy(Path(__file__).with_name("attacks.py"), folder / "code" / "attacks.py")
    for name in ("secret", "own"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    (folder / "secret" / "file").write_text("secret")
    (folder / "own" / "file").write_text("own")
    if os.geteuid() == 0:
        for name in ("secret", "own"):
            os.chown(folder / name / "file", 65534, 65534)
    victims = {}
    for user in USERS:
        other = {"user": 65534, "group": 65534, "extra_groups": ()} if user == "nobody" else {}
        victims[user] = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True, **other)
    name = f"mf-{os.getpid()}-{folder.name}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + name)
        unix.listen()
        port = tcp.getsockname()[1]
        yield Place(folder / "secret", folder / "own", victims, port, name)
    for victim in victims.values():
        victim.kill()
        victim.wait()
    shutil.rmtree(folder)


def run(place: Place, user: str, box: Policy | None, *attack: str) -> str:
    """What the attack says of itself; by which user, in which sandbox (None: in none)."""
    home = place.own.parent
    argv = [sys.executable, "-m"]
    if box is not None:
        argv += ["modelfleet_worker.sandbox", json.dumps(json.loads(encoded(box)))]
    argv += ["attacks", *attack]
    if user == "nobody":
        keep = (Path(PACKAGE), home)
        argv = confined.command(Confinement("nobody", keep), argv)
    reader, writer = os.pipe()
    os.write(writer, b"x")
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            env={"PYTHONPATH": f"{home}/code:{PACKAGE}", "SECRET": "x"},
            pass_fds=[reader] if "inherited" in attack else [],
            start_new_session=True,
        )
    finally:
        os.close(reader)
        os.close(writer)
    lines = done.stdout.split()
    assert lines, done.stderr
    if box is not None:
        report = json.loads(lines[0])
        assert report["missing"] == [], report
    return lines[-1]


def encoded(box: Policy) -> bytes:
    import msgspec

    return msgspec.json.encode(box)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("attack", "denied"),
    [
        ("read {secret}/file", "EACCES"),
        ("write {secret}/new", "EACCES"),
        ("write {own}/file", "EACCES"),
        ("shorten {secret}/file", "EPERM"),
        ("remove {secret}/file", "EACCES"),
        ("permit {own}/file", "EPERM"),
        ("backdate {own}/file", "EPERM"),
        ("link {own}/link", "EPERM"),
        ("execute", "EPERM"),
        ("shell", "EPERM"),
        ("fork", "EPERM"),
        ("unix_socket", "EPERM"),
        ("connect {port}", "EPERM"),
        ("abstract {abstract}", "EPERM"),
        ("ptrace", "EPERM"),
        ("end {victim}", "EPERM"),
        ("end_group", "EPERM"),
        ("starve {victim}", "EPERM"),
        ("peek {victim}", "EPERM"),
        ("environment_of {victim}", "EACCES"),
        ("command_of {victim}", "EACCES"),
        ("uring", "EPERM"),
        ("memfd", "EPERM"),
        ("own_memory", "EACCES"),
        ("user_namespace", "EPERM"),
        ("clone3", "ENOSYS"),
        ("memory", "ENOMEM"),
        ("secret_variable", "ENOENT"),
        ("first_environment", "ENOENT"),
    ],
)
def test_attacks_fail_inside_and_succeed_outside(
    place: Place, user: str, attack: str, denied: str
) -> None:
    argv = attack.format(
        secret=place.secret,
        own=place.own,
        port=place.port,
        abstract=place.abstract,
        victim=place.victims[user].pid,
    ).split()
    inside = run(place, user, Policy(read=(str(place.own),)), *argv)
    assert inside == denied
    assert place.victims[user].poll() is None
    outside = run(place, user, None, *argv)
    if outside in ("EPERM", "ENOSYS") and argv[0] in ("uring", "user_namespace"):
        pytest.skip(f"this kernel refuses {argv[0]} to everybody")
    assert outside == "done"


@pytest.mark.parametrize("user", USERS)
def test_an_inherited_descriptor_is_closed(place: Place, user: str) -> None:
    """The attack reads every descriptor up to 20; outside, one of them is the test's pipe."""
    readable = [run(place, "own", box, "inherited", "3") for box in (None,)]
    assert readable in (["done"], ["EBADF"])
    for number in range(3, 12):
        assert run(place, user, Policy(), "inherited", str(number)) in ("EBADF", "EISDIR")


@pytest.mark.parametrize("user", USERS)
def test_what_a_policy_grants_works(place: Place, user: str) -> None:
    box = Policy(read=(str(place.secret),), write=(str(place.own),))
    assert run(place, user, box, "read", f"{place.secret}/file") == "done"
    assert run(place, user, box, "write", f"{place.own}/new") == "done"
    assert run(place, user, box, "remove", f"{place.own}/new") == "done"
    assert run(place, user, box, "thread") == "done"
    assert run(place, user, box, "write", f"{place.secret}/new") == "EACCES"


@pytest.mark.parametrize("user", USERS)
def test_landlock_alone_denies_tcp_sockets_and_signals(place: Place, user: str) -> None:
    """The second fence, should the first have a hole."""
    script = """
import sys
from modelfleet_worker.sandbox import Policy, begin
begin(Policy())
sys.argv = ["attacks", *sys.argv[1:]]
import runpy
runpy.run_module("attacks", run_name="__main__")
"""
    home = place.own.parent
    for attack, denied in (
        (["connect", str(place.port)], "EACCES"),
        (["abstract", place.abstract], "EPERM"),
        (["end", str(place.victims[user].pid)], "EPERM"),
        (["execute"], "EACCES"),
        (["read", f"{place.secret}/file"], "EACCES"),
    ):
        argv = [sys.executable, "-c", script, *attack]
        if user == "nobody":
            argv = confined.command(Confinement("nobody", (Path(PACKAGE), home)), argv)
        env = {"PYTHONPATH": f"{home}/code:{PACKAGE}"}
        done = subprocess.run(argv, capture_output=True, text=True, cwd="/", env=env, timeout=60)
        assert done.stdout.split() == [denied], (attack, done.stderr)


def test_the_filter_knows_both_machines() -> None:
    for machine in seccomp.MACHINES.values():
        steps = seccomp.program(machine, 1234)
        assert len(steps) < 4096
        for place, step in enumerate(steps):
            if step.code in (0x15, 0x35, 0x45):
                assert place + 1 + max(step.then, step.otherwise) < len(steps)
    for name, numbers in syscalls.DENIED.items():
        assert any(number is not None for number in numbers), name
    for column in (0, 1):
        used = [numbers[column] for numbers in syscalls.DENIED.values() if numbers[column]]
        assert len(used) == len(set(used)), "two calls with one number"


def test_the_mask_follows_the_abi() -> None:
    masks = [landlock.handled(version) for version in range(1, 8)]
    assert masks[0] == (1 << 13) - 1
    assert masks[1] == masks[0] | landlock.REFER
    assert masks[2] == masks[1] | landlock.TRUNCATE
    assert masks[3] == masks[2]
    assert masks[4] == masks[2] | landlock.IOCTL_DEV == masks[6]


OLDER = """
import msgspec, sys
from modelfleet_worker.sandbox import Policy, begin, landlock, seccomp
landlock.abi = lambda: int(sys.argv[1])
if sys.argv[2] == "none":
    seccomp.machine = lambda: None
print(msgspec.json.encode(begin(Policy()).seal()).decode())
"""


@pytest.mark.parametrize(
    ("abi", "filters", "complaints"),
    [
        ("0", "yes", ["no Landlock"]),
        ("2", "yes", ["truncation", "TCP", "signals"]),
        ("5", "yes", ["signals"]),
        ("6", "yes", []),
        ("6", "none", ["no seccomp"]),
        ("0", "none", ["no Landlock", "no seccomp"]),
    ],
)
def test_what_the_kernel_lacks_is_said_aloud(abi: str, filters: str, complaints: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OLDER, abi, filters],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": PACKAGE},
        check=True,
    )
    report = json.loads(done.stdout)
    assert len(report["missing"]) == len(complaints)
    for said, wanted in zip(report["missing"], complaints, strict=True):
        assert wanted in said
    found = Report(report["landlock_abi"], missing=tuple(report["missing"]))
    assert found.complete == (not complaints)
    assert warning(found).startswith("THE SANDBOX IS WEAKER") == bool(complaints)
    assert "WITHOUT A SANDBOX" in warning(None)
    assert policy.GIB == 1 << 30
