"""Environments: a dependency lock with hashes, resolved and built by uv, shared by its digest.

The lock holds what the model asked for and the few packages that the worker needs. Nothing of
the platform enters a user's environment.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from modelfleet.core.errors import InvalidInput, Unavailable
from modelfleet.core.files import locked
from modelfleet.core.ids import digest
from modelfleet.core.layout import Layout
from modelfleet.registry import Environment
from modelfleet.serving.progress import Progress, Reader, Report, nobody
from modelfleet_worker.wire.vocabulary import RUNTIMES

log = structlog.get_logger(__name__)
WORKER_REQUIREMENTS = ("httptools>=0.6", "msgspec>=0.18", "numpy>=1.21", "uvloop>=0.19")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?\s*([<>=!~].*)?(;.*)?")
_PYTHON = re.compile(r"3\.[0-9]{1,2}(\.[0-9]{1,2})?")
_TIMEOUT_SECONDS = 900


class EnvironmentBuilder:
    """Resolves and builds; each environment once, whoever asks and however often.

    Variables of uv (`UV_INDEX_URL`, `UV_FIND_LINKS`, `UV_TORCH_BACKEND`, ...) hold for all.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._resolved: dict[tuple[str, tuple[str, ...]], Environment] = {}
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}

    def resolve(
        self, requirements: Sequence[str], python: str, report: Report = nobody
    ) -> Environment:
        """The lock of these requirements. Raises `InvalidInput` if there is none."""
        for one in requirements:
            if not _REQUIREMENT.fullmatch(one.strip()) or not one.isprintable():
                raise InvalidInput(f"{one[:120]!r} is not a requirement that can be locked.")
        if not _PYTHON.fullmatch(python):
            raise InvalidInput(f"{python[:20]!r} is no Python version.", hint="Write it like 3.12.")
        python = ".".join(python.split(".")[:2])  # patches of one Python share environments
        wanted = (python, tuple(sorted({*requirements, *WORKER_REQUIREMENTS})))
        report(Progress("resolving", 0, len(wanted[1])))
        with self._alone(repr(wanted)):
            if wanted not in self._resolved:
                self._check_python(python)
                self._resolved[wanted] = self._compile(*wanted)
            return self._resolved[wanted]

    def _alone(self, name: str) -> threading.Lock:
        """A lock of its own for each thing that is done once."""
        with self._lock:
            return self._busy.setdefault(name, threading.Lock())

    def _check_python(self, python: str) -> None:
        if python == own_python():
            return
        try:
            self._uv(["python", "find", "--quiet", "--no-project", "--system", python])
        except InvalidInput as error:
            raise InvalidInput(
                f"Python {python} is not installed on this machine.",
                hint=f"Install it (uv python install {python}), or use {own_python()}.",
            ) from error

    def _compile(self, python: str, requirements: Sequence[str]) -> Environment:
        lock = self._lock_of(python, requirements)
        machine = f"{platform.system().lower()}-{platform.machine()}"
        return Environment(digest(f"{python}\n{machine}\n{lock}".encode()), python, machine, lock)

    def _lock_of(self, python: str, requirements: Sequence[str]) -> str:
        options = "--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet"
        return self._uv(
            ["pip", "compile", "-", *options.split(), "--python-version", python],
            "\n".join(requirements),
        )

    def python(self, environment: Environment, report: Report = nobody) -> Path:
        """The interpreter of the built environment."""
        return self._build(environment, "", environment.lock, True, report)

    def again(self, environment: Environment, place: Path, report: Report = nobody) -> Path:
        """The interpreter of the environment made anew from its lock in a place of its own."""
        report(Progress("installing", 0, len(pins(environment.lock))))
        self._install(place, environment.python, environment.lock, False, report)
        return place / "bin" / "python"

    def converter_python(
        self, environment: Environment, runtime: str, report: Report = nobody
    ) -> Path:
        """The interpreter in which models of that runtime are checked and converted to ONNX: the
        environment with the converters beside the model's own packages, or just the environment
        if there are none."""
        converters = RUNTIMES[runtime].converters
        if not converters:
            return self.python(environment, report)
        kind = digest(",".join(converters).encode())[:8]
        place = self._layout.environment(f"{environment.digest}-convert-{kind}")
        if (place / "bin" / "python").exists():
            return place / "bin" / "python"
        try:
            report(Progress("resolving", 0, len(pins(environment.lock))))
            lock = self._lock_of(environment.python, [*pins(environment.lock), *converters])
        except InvalidInput as error:
            # The converters don't go with the model's own packages: it serves from its source.
            log.info("no converters fit", environment=environment.digest, reason=error.message)
            return self.python(environment, report)
        return self._build(environment, f"-convert-{kind}", lock, False, report)

    def _build(
        self, environment: Environment, suffix: str, lock: str, bytecode: bool, report: Report
    ) -> Path:
        name = environment.digest + suffix
        place = self._layout.environment(name)
        if not place.exists():
            report(Progress("installing", 0, len(pins(lock))))  # or somebody else does
        # Several control planes may share a home.
        with self._alone(name), locked(self._layout.building(name)):
            if not place.exists():
                self._install(place, environment.python, lock, bytecode, report)
        return place / "bin" / "python"

    def _install(self, place: Path, python: str, lock: str, bytecode: bool, report: Report) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        building = place.parent / f".building-{place.name}"
        shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
        try:
            interpreter = sys.executable if python == own_python() else python
            self._uv(["venv", "--quiet", "--relocatable", "--python", interpreter, str(building)])
            file = building / "requirements.lock"
            file.write_text(lock)
            options = ["--require-hashes", "--python", str(building / "bin" / "python")]
            if bytecode:
                options.append("--compile-bytecode")
            reader = Reader(len(pins(lock)), report)
            self._uv(["pip", "install", *options, "-r", str(file)], heard=reader.line)
            building.chmod(0o755)
            os.rename(building, place)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _uv(
        self, arguments: Sequence[str], text: str = "", heard: Callable[[str], None] | None = None
    ) -> str:
        """What uv answers; `heard` gets each line of its talk. Raises `InvalidInput`."""
        said: list[str] = []
        with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as answered:
            given.write(text)
            given.seek(0)
            process = subprocess.Popen(
                [uv_binary(), *arguments],
                stdin=given,
                stdout=answered,
                stderr=subprocess.PIPE,
                text=True,
                # A package may run code of its own while it is built.
                env={k: v for k, v in os.environ.items() if not k.startswith("MODELFLEET_")},
            )
            watchdog = threading.Timer(_TIMEOUT_SECONDS, process.kill)
            watchdog.start()
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    said.append(line.rstrip())
                    if heard is not None:
                        heard(line.rstrip())
                code = process.wait()
            finally:
                watchdog.cancel()
                process.kill()
                process.wait()
            answered.seek(0)
            answer = answered.read()
        if code < 0:
            raise Unavailable(f"uv {arguments[0]} took over {_TIMEOUT_SECONDS} s, or was killed.")
        if code != 0:
            raise InvalidInput(
                f"The environment can't be made: {reason_of(said)}",
                hint="Check the requirements and that the package index can be reached.",
            )
        return answer


def pins(lock: str) -> list[str]:
    """The `name==version` of each package of a lock."""
    lines = [line for line in lock.splitlines() if line[:1].isalnum()]
    return [line.split(" \\")[0].strip() for line in lines]


def reason_of(said: Sequence[str]) -> str:
    """uv's own reason in one short line: its last cause, without what it only warns of."""
    lines = [line.strip(" \u00d7\u2570\u2500\u25b6\u2502\u251c\t") for line in said]
    lines = [line for line in lines if line and not line.startswith(("warning:", "Using "))]
    causes = [k for k, line in enumerate(lines) if line.startswith(("cause:", "Because", "error:"))]
    text = " ".join(lines[causes[-1] :] if causes else lines[-5:])
    for prefix in ("error: ", "cause: "):
        text = text.removeprefix(prefix)
    text = text.split(" And because")[0].split(", we can conclude")[0]
    return (text[:1].upper() + text[1:])[:500] or "uv gave no reason."


def own_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def uv_binary() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise Unavailable("uv is not installed.", hint="pip install 'modelfleet[standard]'")
    return found
