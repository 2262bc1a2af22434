"""Load by `wrk` (Debian: apt-get install wrk): closed loop, or about as many requests as wanted."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PACE = """
local ffi = require("ffi")
ffi.cdef "typedef struct { long s, ns; } instant; int clock_gettime(int, instant *);"
local clock, due, behind = ffi.new("instant"), 0, 100
function delay()  -- each request has its place in one timetable of all connections
  ffi.C.clock_gettime(1, clock)
  local now = tonumber(clock.s) * 1e3 + tonumber(clock.ns) / 1e6
  due = math.max(due + %(pause)f, now - behind)
  return math.max(0, math.floor(due - now + 0.5))
end
"""
_SCRIPT = """
wrk.method = "POST"
wrk.body = '%(body)s'
%(headers)s
%(delay)s
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args) counts = {} end
function response(status, headers, body) counts[status] = (counts[status] or 0) + 1 end
function done(summary, latency, requests)
  local all = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("counts")) do all[status] = (all[status] or 0) + count end
  end
  for status, count in pairs(all) do io.write(string.format("status %%d %%d\\n", status, count)) end
  local e = summary.errors
  io.write(string.format("lost %%d\\n", e.connect + e.read + e.write + e.timeout))
  io.write(string.format("took %%.6f\\n", summary.duration / 1e6))
  io.write(string.format("p50 %%.3f\\n", latency:percentile(50) / 1e3))
  io.write(string.format("p99 %%.3f\\n", latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True)
class Outcome:
    """Latencies in milliseconds. lost: connections that failed, and answers that never came."""

    seconds: float
    p50_ms: float
    p99_ms: float
    statuses: Mapping[int, int]
    lost: int

    @property
    def good(self) -> int:
        return self.statuses.get(200, 0)

    @property
    def requests(self) -> int:
        return sum(self.statuses.values()) + self.lost

    @property
    def failed(self) -> int:
        return self.requests - self.good

    @property
    def good_per_second(self) -> float:
        return self.good / self.seconds


class Wrk:
    """A running load; `wait` for its end."""

    def __init__(
        self,
        url: str,
        body: str,
        headers: Mapping[str, str],
        *,
        connections: int,
        seconds: float,
        per_second: float = 0.0,
    ) -> None:
        """per_second: so many requests, if that many connections can have them answered (what they
        missed for more than 100 ms is not made up for); 0 for as many as it takes."""
        lines = "\n".join(f"wrk.headers['{name}'] = '{text}'" for name, text in headers.items())
        delay = _PACE % {"pause": 1000 / per_second} if per_second else ""
        self._folder = tempfile.TemporaryDirectory()
        script = Path(self._folder.name) / "post.lua"
        script.write_text(_SCRIPT % {"body": body, "headers": lines, "delay": delay})
        self._process = subprocess.Popen(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s"]
            + ["-s", str(script), url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End it early."""
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> Outcome:
        text, _ = self._process.communicate()
        self._folder.cleanup()
        if self._process.returncode:
            raise SystemExit(f"wrk: {text[-500:]}")
        return Outcome(
            seconds=float(_found(r"^took ([\d.]+)", text)),
            p50_ms=float(_found(r"^p50 ([\d.]+)", text)),
            p99_ms=float(_found(r"^p99 ([\d.]+)", text)),
            statuses={
                int(s): int(n) for s, n in re.findall(r"^status (\d+) (\d+)", text, re.MULTILINE)
            },
            lost=int(_found(r"^lost (\d+)", text)),
        )


def require() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise SystemExit(f"wrk did not say {pattern!r}: {text[-500:]}")
    return match[1]
