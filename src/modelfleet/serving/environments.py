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
from collections.abc import Sequence
from pathlib import Path

from modelfleet.core.errors import InvalidInput, Unavailable
from modelfleet.core.ids import digest
from modelfleet.core.layout import Layout
from modelfleet.registry import Environment

WORKER_REQUIREMENTS = ("httptools>=0.6", "msgspec>=0.18", "numpy>=1.21", "uvloop>=0.19")
CONVERTER_REQUIREMENTS = ("onnx>=1.17", "onnxruntime>=1.20", "skl2onnx>=1.18", "onnxmltools>=1.13")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?\s*([<>=!~].*)?(;.*)?")
_PYTHON = re.compile(r"3\.[0-9]{1,2}(\.[0-9]{1,2})?")
_TIMEOUT_SECONDS = 900


class EnvironmentBuilder:
    """Resolves and builds; each environment once, whoever asks and however often."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._resolved: dict[tuple[str, tuple[str, ...]], Environment] = {}
        self._lock = threading.Lock()
        self._building: dict[str, threading.Lock] = {}

    def resolve(self, requirements: Sequence[str], python: str) -> Environment:
        """The lock of these requirements. Raises `InvalidInput` if there is none."""
        for one in requirements:
            if not _REQUIREMENT.fullmatch(one.strip()) or not one.isprintable():
                raise InvalidInput(f"{one[:120]!r} is not a requirement that can be locked.")
        if not _PYTHON.fullmatch(python):
            raise InvalidInput(f"{python[:20]!r} is no Python version.", hint="Write it like 3.12.")
        wanted = (python, tuple(sorted({*requirements, *WORKER_REQUIREMENTS})))
        with self._lock:
            if wanted not in self._resolved:
                self._resolved[wanted] = self._compile(*wanted)
            return self._resolved[wanted]

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

    def python(self, environment: Environment) -> Path:
        """The interpreter of the built environment."""
        return self._build(environment, "", environment.lock, bytecode=True)

    def converter_python(self, environment: Environment) -> Path:
        """The interpreter of the environment with the converters to ONNX beside the model's own."""
        pinned = [line for line in environment.lock.splitlines() if line[:1].isalnum()]
        pins = [line.split(" \\")[0].strip() for line in pinned]
        place = self._layout.environment(f"{environment.digest}-convert")
        if (place / "bin" / "python").exists():
            return place / "bin" / "python"
        lock = self._lock_of(environment.python, [*pins, *CONVERTER_REQUIREMENTS])
        return self._build(environment, "-convert", lock, bytecode=False)

    def _build(self, environment: Environment, suffix: str, lock: str, bytecode: bool) -> Path:
        name = environment.digest + suffix
        place = self._layout.environment(name)
        with self._lock:
            gate = self._building.setdefault(name, threading.Lock())
        with gate:
            if not place.exists():
                self._install(place, environment.python, lock, bytecode)
        return place / "bin" / "python"

    def _install(self, place: Path, python: str, lock: str, bytecode: bool) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=place.parent, prefix=".building-"))
        try:
            interpreter = sys.executable if python == own_python() else python
            self._uv(["venv", "--quiet", "--relocatable", "--python", interpreter, str(building)])
            file = building / "requirements.lock"
            file.write_text(lock)
            options = ["--quiet", "--require-hashes", "--python", str(building / "bin" / "python")]
            if bytecode:
                options.append("--compile-bytecode")
            self._uv(["pip", "install", *options, "-r", str(file)])
            building.chmod(0o755)
            os.rename(building, place)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _uv(self, arguments: Sequence[str], text: str = "") -> str:
        try:
            done = subprocess.run(
                [_uv_binary(), *arguments],
                input=text,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"uv {arguments[0]} took over {_TIMEOUT_SECONDS} s.") from error
        if done.returncode != 0:
            reason = " ".join(done.stderr.split())[-1500:]
            raise InvalidInput(
                f"The environment can't be made: {reason}",
                hint="Check the requirements and that the package index can be reached.",
            )
        return done.stdout


def own_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _uv_binary() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise Unavailable("uv is not installed.", hint="pip install 'modelfleet[standard]'")
    return found
