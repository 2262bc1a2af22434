"""A real worker for one version beside serving, as a pool would start it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from modelfleet.core.errors import InvalidInput
from modelfleet.serving.beside import environment
from modelfleet.serving.lab import Deadline, Lab, Subject, TimedOut, spec_of, tail
from modelfleet.serving.pulse import create_control_block, read_pulse
from modelfleet_worker.wire import desired
from modelfleet_worker.wire.desired import PoolSpec
from modelfleet_worker.wire.signature import datatype_of

_POOL = "gate"
_POLL_SECONDS = 0.01
_STOP_SECONDS = 5.0


class Trial:
    """Use it as a context. Raises `InvalidInput` if the worker does not come up."""

    def __init__(
        self, lab: Lab, subject: Subject, deadline: Deadline, *, tcp: bool = False
    ) -> None:
        """tcp: listen at an address of this machine, too."""
        self._lab = lab
        self._subject = subject
        self._deadline = deadline
        self._home = Path(tempfile.mkdtemp(prefix="mft"))
        self._socket = self._home / "s" / "w.sock"
        self._control = self._home / "run" / "control" / f"{_POOL}-0.ctl"
        self._tcp = f"127.0.0.1:{_free_port()}" if tcp else ""
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: _Unix | None = None
        self._log = (self._home / "log").open("w+b")
        self.boot_s = 0.0
        """from the start of the process until it could be called"""

    @property
    def url(self) -> str:
        return f"http://{self._tcp}/v2/models/{self._subject.model}"

    def __enter__(self) -> Trial:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        lab = self._lab
        self._home.chmod(0o755)
        for folder in (self._socket.parent, self._home / "segments"):
            folder.mkdir()
            if lab.owner is not None:
                os.chown(folder, *lab.owner)
        self._control.parent.mkdir(parents=True)
        create_control_block(self._control, lab.owner)
        pool = PoolSpec(
            _POOL,
            1,
            str(self._subject.python),
            1,
            lab.memory_mb,
            (spec_of(self._subject),),
        )
        desired.dump(pool, self._home / "run" / "desired" / f"{_POOL}.json")
        argv = [str(self._subject.python), "-m", "modelfleet_worker.trial"]
        argv += ["--home", str(self._home), "--pool", _POOL, "--replica", "0"]
        argv += ["--socket", str(self._socket), "--control", str(self._control)]
        argv += ["--segment-mb", "1", "--incarnation", "1"]
        argv += ["--tcp", self._tcp] if self._tcp else []
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            lab.confined(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env=environment(lab.worker_package),
            cwd=self._home,
        )
        while not self._is_up():
            time.sleep(min(_POLL_SECONDS, self._deadline.left))
        self.boot_s = time.perf_counter() - begun
        self.infer(body_of(lab.golden(self._subject)[0]))  # says what is wrong with the model

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise InvalidInput(
                f"The worker ended (exit code {self._process.returncode}): {tail(self._log)}"
            )
        pulse = read_pulse(self._control)
        if pulse is not None and pulse.state == "failed":
            raise InvalidInput(f"The worker failed: {pulse.error}")
        return pulse is not None and pulse.state == "ready"

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes, float]:
        """Status, body and seconds. Raises `InvalidInput` if the worker hangs up, `TimedOut`."""
        if self._connection is None:
            self._connection = _Unix(self._socket, self._deadline.left)
        headers = {"x-mf-version": "1", "content-type": "application/json"}
        begun = time.perf_counter()
        try:
            self._connection.request(method, path, body or None, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except TimeoutError as error:
            raise TimedOut(f"{self._subject.name} did not answer in time.") from error
        except (OSError, http.client.HTTPException) as error:
            raise InvalidInput(
                f"The worker hung up on a request ({type(error).__name__}): {tail(self._log)}"
            ) from error
        return answer.status, content, time.perf_counter() - begun

    def infer(self, body: bytes) -> float:
        """Seconds of a call. Raises `InvalidInput` if it is answered with an error."""
        status, content, seconds = self.ask("POST", f"/v2/models/{self._subject.model}/infer", body)
        if status != 200:
            raise InvalidInput(f"A request was answered with {status}: {_said(content)}")
        return seconds

    def outputs(self, body: bytes) -> dict[str, Any]:
        """The answer's arrays, text and numbers as JSON has them."""
        status, content, _ = self.ask("POST", f"/v2/models/{self._subject.model}/infer", body)
        if status != 200:
            raise InvalidInput(f"The golden request was answered with {status}: {_said(content)}")
        found = json.loads(content)["outputs"]
        return {one["name"]: (one["data"], one["shape"], one["datatype"]) for one in found}

    def memory(self) -> tuple[int, int]:
        """Bytes now and at most, resident."""
        assert self._process is not None
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        now, most = (int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return now, most

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
        shutil.rmtree(self._home, ignore_errors=True)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("worker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def body_of(inputs: dict[str, Any], rows: int | None = None) -> bytes:
    """The request of these input arrays; of so many rows, repeated as need be."""
    tensors = []
    for name, array in inputs.items():
        shown = array if rows is None else np.resize(array, (rows, *array.shape[1:]))
        flat = shown.reshape(-1).tolist()
        plain = [None if isinstance(one, float) and one != one else one for one in flat]
        tensors.append(
            {
                "name": name,
                "shape": list(shown.shape),
                "datatype": datatype_of(shown),
                "data": plain,
            }
        )
    return json.dumps({"inputs": tensors}).encode()


def _said(content: bytes) -> str:
    with suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict) and "error" in found:
            return str(found["error"])[:500]
    return content[:300].decode("utf-8", "replace") or "nothing was said"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
