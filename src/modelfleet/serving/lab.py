"""Where versions are tried beside serving: rows are scored in the version's own environment,
confined. What is tried may be registered, or a folder that nobody registered yet.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelfleet.core.errors import FleetError, InvalidInput
from modelfleet.registry.signature import BundleInfo
from modelfleet.serving.beside import Confined, environment
from modelfleet_worker.score import Answered, Asked, Column, Group, Scored
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.spec import read_example, read_spec

Table = Mapping[str, NDArray[Any]]
"""columns by name: of features, or whole input tensors; None is a missing text"""
_LARGEST = 2**31
"""bytes of an answer"""
_OWN = 512
"""characters of a model's last words"""


class TimedOut(FleetError):
    """It took longer than it was given."""

    status = 503
    slug = "timed-out"
    exit_code = 3


@dataclass(frozen=True)
class Subject:
    """A version in the form that is tried."""

    model: str
    version: str
    digest: str
    """of the bundle"""
    folder: Path
    """of the bundle: `manifest.json` and `files/`"""
    python: Path
    """of its environment; the platform's own for a compiled form"""
    info: BundleInfo
    variant: str = "source"
    environment: str = ""
    """digest of the lock"""
    lock: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True)
class Answers:
    """What a model says of a table: outputs by name, or why it refuses."""

    outputs: Mapping[str, NDArray[Any]]
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Deadline:
    """A moment of the monotonic clock."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds. Raises `TimedOut` when there are none."""
        found = self.at - time.monotonic()
        if found <= 0:
            raise TimedOut
        return found


class Lab:
    """confined: turns a command line into one that runs where it can do no harm. owner: user and
    group that model code becomes, None if it stays who we are."""

    def __init__(
        self,
        worker_package: Path,
        confined: Confined,
        memory_mb: int,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self.worker_package = worker_package
        self.confined = confined
        self.memory_mb = memory_mb
        self.owner = owner

    def score(self, subject: Subject, tables: Sequence[Table], deadline: Deadline) -> list[Answers]:
        """The answers to each table. Raises `InvalidInput` if the model can't be loaded."""
        groups: list[Group] = []
        arrays: dict[str, NDArray[Any]] = {}
        for table in tables:
            columns = []
            for name, values in table.items():
                key = f"a{len(arrays)}"
                plain, gaps = _plain(values)
                arrays[key] = plain
                if gaps is not None:
                    arrays[f"{key}m"] = gaps
                columns.append(Column(name, key, None if gaps is None else f"{key}m"))
            rows = len(next(iter(table.values()))) if table else 0
            groups.append(Group(tuple(columns), rows))
        stream = io.BytesIO()
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        asked = msgspec.json.encode(Asked(tuple(groups))) + b"\n" + stream.getvalue()
        line, rest = self.run(subject, "modelfleet_worker.score", deadline, asked)
        told = _decoded(line, Scored)
        if told.error:
            raise InvalidInput(f"{subject.name} can't be loaded: {told.error}")
        with np.load(io.BytesIO(rest), allow_pickle=False) as file:
            return [_answers(one, file) for one in told.groups]

    def run(
        self, subject: Subject, module: str, deadline: Deadline, asked: bytes = b""
    ) -> tuple[bytes, bytes]:
        """What a module of the worker package says of a version: a line, and what follows.

        Raises `InvalidInput` with the model's last words if it says nothing, `TimedOut`.
        """
        told = msgspec.json.encode(spec_of(subject)).decode()
        argv = [str(subject.python), "-m", module, told, str(self.memory_mb)]
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as answered,
            tempfile.TemporaryFile() as said,
        ):
            given.write(asked)
            given.seek(0)
            try:
                done = subprocess.run(
                    self.confined(argv),
                    stdin=given,
                    stdout=answered,
                    stderr=said,
                    timeout=deadline.left,
                    env=environment(self.worker_package),
                    cwd="/",
                )
            except subprocess.TimeoutExpired as error:
                raise TimedOut(f"{subject.name} took longer than it was given.") from error
            if answered.seek(0, 2) > _LARGEST:
                raise InvalidInput(f"The answer of {subject.name} is too large.")
            answered.seek(0)
            line, rest = answered.readline(), answered.read()
            if not line:
                raise InvalidInput(
                    f"{subject.name} gave no answer (exit code {done.returncode}): {tail(said)}"
                )
        return line, rest

    def golden(self, subject: Subject) -> tuple[dict[str, Any], dict[str, Any]]:
        """The example of its bundle: arrays of inputs and outputs."""
        return read_example(subject.folder).arrays(read_spec(subject.folder).signature)


def spec_of(subject: Subject) -> VersionSpec:
    return VersionSpec(
        index=1,
        model=subject.model,
        version=subject.version,
        sequence=1,
        digest=subject.digest,
        path=str(subject.folder),
        variant=subject.variant,
    )


def own_python() -> Path:
    """That of compiled forms."""
    return Path(sys.executable)


def tail(said: IO[bytes]) -> str:
    """The last words of a process on one line."""
    said.seek(max(0, said.seek(0, 2) - _OWN))
    return " ".join(said.read().decode("utf-8", "replace").split()) or "it said nothing"


def _decoded(line: bytes, kind: type[Scored]) -> Scored:
    try:
        return msgspec.json.decode(line, type=kind)
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidInput(f"The model's answer can't be read: {error}") from error


def _answers(one: Answered, file: Mapping[str, NDArray[Any]]) -> Answers:
    return Answers({name: file[key] for name, key in one.outputs.items()}, one.seconds, one.error)


def _plain(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Text without pickles, and where it is missing."""
    if values.dtype.kind != "O":
        return values, None
    gaps = np.array([one is None for one in values.ravel().tolist()]).reshape(values.shape)
    texts = np.array(["" if one is None else str(one) for one in values.ravel().tolist()])
    return texts.reshape(values.shape), gaps if gaps.any() else None
