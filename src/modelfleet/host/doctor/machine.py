"""The machine: interpreter, kernel, programs, disk, clock, limits."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelfleet.core.errors import FleetError
from modelfleet.host.doctor.findings import (
    Examined,
    Finding,
    duration,
    fail,
    megabytes,
    not_examined,
    ok,
    warn,
)
from modelfleet.serving.gateway import envoy_binary
from modelfleet.serving.pools import read_pools

_CONNECTIONS = 10_000
"""Clients that one gateway should bear; each takes a descriptor, and its request another one."""
_LEAST_FILES = 2_048
_CLOCK_ERROR = 5
_RUN_SECONDS = 20.0


def python(_: Examined) -> Iterator[Finding]:
    said = f"{platform.python_implementation()} {platform.python_version()} on {sys.platform}"
    if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
        yield fail(f"{said}; CPython 3.11 or newer is needed", "Install a newer CPython.")
    else:
        yield ok(said)


def kernel(examined: Examined) -> Iterator[Finding]:
    release = platform.release()
    if sys.platform != "linux":
        yield fail(f"{sys.platform} is not Linux", "modelfleet up runs on Linux.")
        return
    missing = [name for name in ("pidfd_open", "posix_fallocate") if not hasattr(os, name)]
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        missing.append("a working pidfd_open")
    if not Path("/proc/self/stat").exists():
        missing.append("/proc")
    if missing:
        yield fail(f"Linux {release} lacks {', '.join(missing)}", "Use Linux 5.4 or newer.")
    where = examined.layout.segments
    if where.is_dir() and os.access(where, os.W_OK):
        try:
            with tempfile.NamedTemporaryFile(dir=where, suffix=".doctor") as probe:
                os.posix_fallocate(probe.fileno(), 0, 4096)
        except OSError as error:
            yield fail(f"{where} can't reserve disk: {error.strerror}", "Use a local file system.")
    if not missing:
        yield ok(f"Linux {release}")


def uv(_: Examined) -> Iterator[Finding]:
    try:
        from uv import find_uv_bin

        path = find_uv_bin()
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
        if found is None:
            remedy = "Install it: pip install 'modelfleet[standard]'."
            yield fail("uv is not installed: no environment can be built", remedy)
            return
        path = found
    yield _runs("uv", [str(path), "--version"])


def envoy(_: Examined) -> Iterator[Finding]:
    try:
        yield _runs("Envoy", [str(envoy_binary()), "--version"])
    except FleetError as error:
        yield fail(error.message, error.hint)


def _runs(name: str, argv: Sequence[str]) -> Finding:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_RUN_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return fail(f"{name} does not run: {error}", "Reinstall modelfleet[standard].")
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        return fail(f"{name} does not run: {''.join(said)}", "Reinstall modelfleet[standard].")
    return ok(
        f"{name} {done.stdout.strip().rpartition('version:')[2].removeprefix(name).strip()[:120]}"
    )


def disk(examined: Examined) -> Iterator[Finding]:
    home = examined.layout.home
    if not home.exists():
        yield not_examined(f"{home} does not exist")
        return
    found = os.statvfs(home)
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    said = f"{megabytes(free)} of {megabytes(size)} are free"
    remedy = f"Free some space on the disk of {home}."
    if free < 1 << 30 or free < 0.02 * size:
        yield fail(said, remedy)
    elif free < 5 << 30 or free < 0.1 * size:
        yield warn(said, remedy)
    else:
        yield ok(said)
    if found.f_files:  # some file systems make them as they go
        share = found.f_favail / found.f_files
        said = f"{found.f_favail} of {found.f_files} inodes are free"
        if share < 0.01:
            yield fail(said, "Remove small files, or use a file system with more inodes.")
        elif share < 0.05:
            yield warn(said, "Remove small files, or use a file system with more inodes.")
        else:
            yield ok(said)


def clock(examined: Examined) -> Iterator[Finding]:
    """Keys expire and evidence is ordered by it."""
    ahead = _newest(examined.layout.home) - time.time()
    remedy = "Set the clock, and keep it so (chrony, systemd-timesyncd)."
    if ahead > 5:
        yield fail(f"it is {duration(ahead)} behind what this home has seen before", remedy)
    elif _unsynchronised():
        yield warn("nothing keeps it in step with others", remedy)
    else:
        yield ok("synchronised")


def _newest(home: Path) -> float:
    found = [path.stat().st_mtime for path in (*home.glob("*.db*"), *home.glob("run/*.json"))]
    return max(found, default=0.0)


def _unsynchronised() -> bool:
    """What the kernel knows; no answer counts as no complaint."""
    held = ctypes.create_string_buffer(512)  # struct timex with modes = 0: only read
    return bool(ctypes.CDLL(None).adjtimex(held) == _CLOCK_ERROR)


def open_files(examined: Examined) -> Iterator[Finding]:
    gateway = examined.status.observed.processes.get("gateway")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    whose = "this shell"
    if examined.status.running and gateway is not None and gateway.pid:
        limit, whose = _limit_of(gateway.pid, limit), "the gateway"
    if limit in (resource.RLIM_INFINITY, -1):
        yield ok(f"{whose} may open any number of files")
        return
    connections = min(_CONNECTIONS, examined.settings.serving.max_connections)
    needed = 2 * connections + 1_000
    said = f"{whose} may open {limit} files; {connections} connections need {needed}"
    remedy = "Raise it: ulimit -n 65536, or LimitNOFILE=65536 of the service; then start anew."
    if limit < min(_LEAST_FILES, needed):
        yield fail(said, remedy)
    elif limit < needed:
        yield warn(said, remedy)
    else:
        yield ok(said)


def _limit_of(pid: int, otherwise: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return otherwise
    words = next(line.split() for line in lines if line.startswith("Max open files"))
    return -1 if words[3] == "unlimited" else int(words[3])


def memory(examined: Examined) -> Iterator[Finding]:
    found = {
        line.partition(":")[0]: int(line.split()[1]) << 10
        for line in Path("/proc/meminfo").read_text().splitlines()
        if len(line.split()) > 1
    }
    total = min(found["MemTotal"], _group_limit() or found["MemTotal"])
    free = min(found.get("MemAvailable", total), total)
    pools = read_pools(examined.layout).values() if examined.layout.desired.is_dir() else ()
    asked = sum(pool.memory_mb * pool.replicas for pool in pools) << 20
    said = f"{megabytes(free)} of {megabytes(total)} are free; workers may take {megabytes(asked)}"
    if free < 0.03 * total:
        yield fail(said, "Stop something, add memory, or serve fewer models.")
    elif asked > total:
        remedy = "Lower serving.memory_mb or serving.replicas, or add memory: all at once won't fit"
        yield warn(said, remedy)
    else:
        yield ok(said)


def _group_limit() -> int | None:
    """Bytes that the control group allows; None without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = Path("/sys/fs/cgroup", name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None
