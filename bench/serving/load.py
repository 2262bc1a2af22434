"""Load by wrk, and the CPU and memory that a side's processes used meanwhile."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from wrk import Wrk


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
        ours = "wrk" in words[0] or "-m serving" in line
        if not ours and any(mark in line for mark in marks):
            found |= {process, *process.children(recursive=True)}
    return list(found)


def measure(target: Target, model: str, connections: int, seconds: float) -> Result:
    measured = processes(target.marks)
    before = [cpu_seconds(one) for one in measured]
    load = Wrk(
        target.url, target.body, dict(target.headers), connections=connections, seconds=seconds
    )
    outcome = load.wait()
    after = [cpu_seconds(one) for one in measured]
    cpu = sum(max(late - early, 0.0) for early, late in zip(before, after, strict=True))
    return Result(
        side=target.side,
        model=model,
        connections=connections,
        requests_per_second=outcome.good_per_second,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        failed=outcome.failed,
        cpu_us=1e6 * cpu / max(outcome.requests, 1),
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
