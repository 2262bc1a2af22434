"""The model process of a batch, as its platform process sees it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelfleet.core.errors import FleetError, InvalidInput
from modelfleet.serving.beside import environment
from modelfleet_worker.wire import frames
from modelfleet_worker.wire.signature import Array, Signature
from modelfleet_worker.wire.tensors import pack, unpack


class ModelRaised(Exception):
    """The model refused a call; its text is what the model raised."""


class ModelDied(Exception):
    """The process ended in the middle of a call."""


@dataclass(frozen=True)
class Predicted:
    outputs: list[Array]
    latency_ns: int
    """of the call, in the model process"""


class ModelProcess:
    """Started at the first call, and again after `close` or its death."""

    def __init__(self, argv: Sequence[str], worker_package: Path, signature: Signature) -> None:
        self._argv = list(argv)
        self._worker_package = worker_package
        self._signature = signature
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Load the model. Raises `InvalidInput` if it can't be loaded."""
        self.close()
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env=environment(self._worker_package),
        )
        try:
            hello, _ = frames.read(self._stdout, frames.Hello)
        except EOFError as error:
            raise InvalidInput(f"The model took its process down ({self._end()}).") from error
        if hello.error:
            raise InvalidInput(f"The model can't be loaded: {hello.error}")

    def predict(self, tensors: Sequence[Array], rows: int) -> Predicted:
        """Outputs in signature order. Raises `ModelRaised` and `ModelDied`."""
        if self._process is None:
            self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        parts = [pack(tensor) for tensor in tensors]
        try:
            ask = frames.Ask(rows, tuple(map(len, parts)))
            frames.write(self._process.stdin, ask, parts)
            told, tail = frames.read(self._stdout, frames.Told)
        except (EOFError, BrokenPipeError) as error:
            raise ModelDied(self._end()) from error
        if told.error:
            raise ModelRaised(told.error)
        specs = self._signature.outputs
        raws = frames.split(tail, told.sizes)
        if len(raws) != len(specs):
            raise FleetError("The model process answered with another number of outputs.")
        outputs = [unpack(spec, raw, rows) for spec, raw in zip(specs, raws, strict=True)]
        return Predicted(outputs, told.latency_ns)

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    def _end(self) -> str:
        """How the process ended."""
        process = self._process
        assert process is not None
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        continue  # unsent bytes of a call that nobody answers any more
