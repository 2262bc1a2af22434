"""Compiling versions to ONNX, outside the control plane and the workers.

One warm converter process per environment: its imports cost seconds, a conversion much less. It
runs in the model's own environment and speaks one line of JSON for each request and answer.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from modelfleet.core.errors import InvalidInput, Unavailable
from modelfleet.serving.progress import Progress, Report, nobody

log = structlog.get_logger(__name__)
_IDLE_SECONDS = 60.0
_ANSWER_SECONDS = 300.0
_PHASE = b'{"phase":'


class Parity(msgspec.Struct, frozen=True):
    """How far the compiled outputs lie from the source's on the example rows, or on those of the
    `probed` rows beside them `where` they differ (modelfleet_worker.compile.probes)."""

    rows: int
    max_abs_diff: float
    label_flips: int
    passed: bool
    probed: int = 0
    where: str = ""


class Speed(msgspec.Struct, frozen=True):
    """Microseconds per call, for one row and for a batch of 64."""

    source_1_us: float
    source_64_us: float
    compiled_1_us: float | None = None
    compiled_64_us: float | None = None


class Conversion(msgspec.Struct, frozen=True):
    """What the converter says of one version. `loads` and `answers` are about the source."""

    converted: bool
    loads: bool = True
    answers: bool = True
    digest: str = ""
    parity: Parity | None = None
    speed: Speed | None = None
    chosen: str = "source"
    reason: str = ""
    sandbox: dict[str, object] | None = None
    """what was denied to the model meanwhile (`modelfleet_worker.sandbox.Report`); None: nothing"""

    @classmethod
    def of(cls, evidence: Mapping[str, object]) -> Conversion | None:
        """What stands in the evidence of a variant; None if that was made otherwise."""
        try:
            return msgspec.convert(evidence, cls)
        except msgspec.ValidationError:
            return None


@dataclass
class _Process:
    popen: subprocess.Popen[bytes]
    used: float


class Converters:
    """The warm processes, by interpreter. Calls for one environment wait for each other."""

    def __init__(
        self,
        worker_package: Path,
        confined: Callable[[Sequence[str]], Sequence[str]],
        sandboxed: bool = True,
    ) -> None:
        """`confined` turns a command line into one that runs it where it can do no harm.
        sandboxed: and each model reaches its own files only."""
        self._worker_package = worker_package
        self._sandboxed = sandboxed
        self._confined = confined
        self._processes: dict[str, _Process] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def convert(self, python: Path, bundle: Path, out: Path, report: Report = nobody) -> Conversion:
        """Check `bundle` in that environment, convert it into a folder at `out`, measure both.

        report: hears when converting begins. Raises `InvalidInput` if the model takes its
        process down or hangs.
        """
        environment = str(python)
        with self._guard:
            lock = self._locks.setdefault(environment, threading.Lock())
        with lock:
            process = self._process(environment, python)
            request = {
                "bundle": str(bundle),
                "digest": bundle.name,
                "out": str(out),
                "sandboxed": self._sandboxed,
            }
            report(Progress("checking"))
            answer = self._ask(process, request, report)
            if answer is None:
                self._end(environment)
                raise InvalidInput(
                    "The model took its process down or hung while it was being checked."
                )
            process.used = time.monotonic()
        try:
            found = msgspec.json.decode(answer, type=Conversion)
        except msgspec.DecodeError as error:
            raise Unavailable(f"The converter answered {answer[:200]!r}.") from error
        if self._sandboxed and found.sandbox is not None and found.sandbox.get("missing"):
            log.warning("THE SANDBOX OF MODEL CODE IS WEAKER THAN IT SHOULD BE", **found.sandbox)
        return found

    def _process(self, environment: str, python: Path) -> _Process:
        known = self._processes.get(environment)
        if known is not None and known.popen.poll() is None:
            return known
        popen = subprocess.Popen(
            self._confined([str(python), "-m", "modelfleet_worker.convert"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={
                "PATH": os.environ.get("PATH", ""),
                "PYTHONPATH": str(self._worker_package),
                "PYTHONSAFEPATH": "1",  # nothing that lies in the working folder is a module
                "OMP_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
            }
            | {k: v for k, v in os.environ.items() if k.startswith("OPENBLAS_")},
        )
        self._processes[environment] = _Process(popen, time.monotonic())
        return self._processes[environment]

    def _ask(self, process: _Process, request: dict[str, object], report: Report) -> bytes | None:
        popen = process.popen
        assert popen.stdin is not None
        assert popen.stdout is not None
        watchdog = threading.Timer(_ANSWER_SECONDS, popen.kill)
        watchdog.start()
        try:
            popen.stdin.write(msgspec.json.encode(request) + b"\n")
            popen.stdin.flush()
            while (line := popen.stdout.readline()).startswith(_PHASE):
                report(Progress("compiling"))
            return line or None
        except BrokenPipeError:
            return None
        finally:
            watchdog.cancel()

    def _end(self, environment: str) -> None:
        process = self._processes.pop(environment, None)
        if process is not None:
            process.popen.kill()
            process.popen.wait()
            for stream in (process.popen.stdin, process.popen.stdout):
                if stream is not None:
                    stream.close()

    def end_idle(self, now: float | None = None) -> None:
        """End the processes that nobody asked for a minute."""
        moment = time.monotonic() if now is None else now
        for environment, process in list(self._processes.items()):
            lock = self._locks[environment]
            if moment - process.used > _IDLE_SECONDS and lock.acquire(blocking=False):
                try:
                    self._end(environment)
                finally:
                    lock.release()

    def close(self) -> None:
        for environment in list(self._processes):
            self._end(environment)
