"""Load by wrk, and the CPU and memory that a side's processes used meanwhile."""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Target:
    """Where to send what, and to whom the CPU time belongs.

    marks: parts of command lines; the processes that carry one of them, and their children.
    """

    side: str
    url: str
    body: str
    headers: tuple[tuple[str, str], ...]
    marks: tuple[str, ...]


@dataclass
class Result:
    side: str
    model: str
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_us: float
    """of all its processes, per request"""
    memory_mb: float
    """of all its processes: resident, shared pages counted once for each"""


def processes(marks: Sequence[str]) -> list[psutil.Process]:
    found: set[psutil.Process] = set()
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        line = " ".join(words)
        ours = "wrk" in words[0] or "bench/serving" in line
        if not ours and any(mark in line for mark in marks):
            found |= {process, *process.children(recursive=True)}
    return list(found)


def measure(target: Target, model: str, connections: int, seconds: float, work: Path) -> Result:
    lines = [f"wrk.method = 'POST'\nwrk.body = '{target.body}'"]
    lines += [f"wrk.headers['{name}'] = '{value}'" for name, value in target.headers]
    script = work / "post.lua"
    script.write_text("\n".join(lines))
    measured = processes(target.marks)
    before = sum(cpu_seconds(one) for one in measured)
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s", "--latency"]
        + ["-s", str(script), target.url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    cpu = sum(cpu_seconds(one) for one in measured) - before
    total = int(_found(r"(\d+) requests in", done))
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    lost = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done)
    return Result(
        side=target.side,
        model=model,
        connections=connections,
        requests_per_second=float(_found(r"Requests/sec:\s+([\d.]+)", done)),
        p50_ms=_latency(done, "50%"),
        p99_ms=_latency(done, "99%"),
        failed=(int(bad[1]) if bad else 0) + (sum(map(int, lost.groups())) if lost else 0),
        cpu_us=1e6 * cpu / max(total, 1),
        memory_mb=sum(memory(one) for one in measured) / 2**20,
    )


def merge(rounds: Sequence[Result]) -> Result:
    """The median of each figure; failures add up."""
    figures = {
        name: statistics.median(getattr(one, name) for one in rounds)
        for name in ("requests_per_second", "p50_ms", "p99_ms", "cpu_us", "memory_mb")
    }
    first, failed = rounds[0], sum(one.failed for one in rounds)
    return Result(first.side, first.model, first.connections, failed=failed, **figures)


def cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def memory(process: psutil.Process) -> float:
    """Resident bytes."""
    try:
        return float(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0.0


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"wrk did not say {pattern!r}: {text[-500:]}")
    return match[1]


def _latency(text: str, name: str) -> float:
    match = re.search(rf"{name}\s+([\d.]+)(us|ms|s)", text)
    if match is None:
        return float("nan")
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]]
