"""Models, bundles and real worker processes for the tests of this folder."""

from __future__ import annotations

import http.client
import json
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from modelfleet_worker.wire import bundle, desired
from modelfleet_worker.wire.control import ControlBlock, ControlSnapshot
from modelfleet_worker.wire.desired import PoolSpec, VersionSpec
from modelfleet_worker.wire.segment import Record, SegmentReader
from modelfleet_worker.wire.signature import Array, Signature, infer
from modelfleet_worker.wire.spec import BundleSpec, example_of

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers beside the tests
from raw_http import Wire

SOURCE = Path(bundle.__file__).parents[2]
FEATURES = {"x": ["a", "b", "c", "d"]}


class Bundles:
    """Writes bundles below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self,
        name: str,
        runtime: str,
        content: bytes,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        method: str = "predict",
        signature: Signature | None = None,
        options: dict[str, Any] | None = None,
        **more: Any,
    ) -> tuple[Path, str]:
        """A bundle of one artifact; its folder and digest."""
        folder = self.folder / name
        files = folder / "files"
        files.mkdir(parents=True)
        found = signature or infer(inputs, outputs, FEATURES if set(inputs) == {"x"} else None)
        artifact = "artifact.ubj" if runtime == "xgboost" else "artifact"
        spec = BundleSpec(runtime, artifact, found, method, options=options or {}, **more)
        (files / artifact).write_bytes(content)
        (files / "bundle.json").write_bytes(msgspec.json.encode(spec))
        example = example_of(dict(inputs), dict(outputs))
        (files / "example.json").write_bytes(msgspec.json.encode(example))
        return folder, bundle.write_manifest(folder)

    def logistic(self, name: str = "logistic") -> tuple[Path, str]:
        """A scikit-learn classifier of four features."""
        rng = np.random.default_rng(3)
        x = rng.normal(size=(200, 4))
        model = LogisticRegression().fit(x, (x[:, 0] > 0).astype(np.int64))
        outputs = {"label": model.predict(x[:5]), "probability": model.predict_proba(x[:5])}
        both = "predict+predict_proba"
        return self.write(name, "sklearn", pickle.dumps(model), {"x": x[:5]}, outputs, both)

    def python(self, name: str, predict: Callable[[Any], Any], width: int = 4) -> tuple[Path, str]:
        """A Python object whose `predict` is that function; it must answer zeros with zeros."""
        inputs = {"x": np.zeros((2, width))}
        return self.write(name, "python", _by_value(predict), inputs, {"y": np.zeros(2)})

    def estimator(self, name: str, predict: Callable[[Any], Any]) -> tuple[Path, str]:
        """The same as a scikit-learn estimator: fast enough to run on the event loop."""
        inputs = {"x": np.zeros((2, 4))}
        return self.write(
            name, "sklearn", _by_value(predict), inputs, {"y": np.zeros(2)}, signature=None
        )

    def linear_onnx(self, name: str = "linear", **more: Any) -> tuple[Path, str]:
        """A graph y = x·w with float32 inside and FP64 outside."""
        inputs = {"x": np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0]])}
        outputs = {"prediction": np.array([30.0, 4.0])}
        weights = np.array([1, 2, 3, 4], dtype=np.float32)
        return self.write(name, "onnx", linear_graph(weights), inputs, outputs, **more)


def _by_value(predict: Callable[[Any], Any]) -> bytes:
    """Code and all: the worker can't import the tests."""
    for name in (predict.__module__, __name__):
        cloudpickle.register_pickle_by_value(sys.modules[name])

    class Model:
        def predict(self, inputs: Any) -> Any:
            return predict(inputs)

    return bytes(cloudpickle.dumps(Model()))


def linear_graph(weights: Array) -> bytes:
    """The ONNX protobuf of MatMul(x [N, k], w [k, 1]), written by hand: no onnx package needed."""
    size = len(weights)
    node = _text(1, "x") + _text(1, "w") + _text(2, "out") + _text(4, "MatMul")
    tensor = _number(1, size) + _number(1, 1) + _number(2, 1) + _text(8, "w")
    tensor += _field(9, weights.astype("<f4").tobytes())
    graph = _field(1, node) + _text(2, "g") + _field(5, tensor)
    graph += _field(11, _value_info("x", size)) + _field(12, _value_info("out", 1))
    return _number(1, 8) + _field(7, graph) + _field(8, _text(1, "") + _number(2, 13))


def _value_info(name: str, width: int) -> bytes:
    shape = _field(1, _text(2, "N")) + _field(1, _number(1, width))
    return _text(1, name) + _field(2, _field(1, _number(1, 1) + _field(2, shape)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += struct.pack("B", value & 127 | 128)
        value >>= 7
    return out + struct.pack("B", value)


class Answer:
    """Status, headers (lower-case) and parsed body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = json.loads(response.read() or b"null")

    @property
    def error(self) -> str:
        assert set(self.body) == {"error"}
        assert self.headers["content-type"] == "application/json"
        return str(self.body["error"])

    def output(self, name: str) -> list[Any]:
        return next(o["data"] for o in self.body["outputs"] if o["name"] == name)


class Client(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float = 20) -> None:
        super().__init__("worker", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        self.request(method, path, body, dict(headers or {}))
        return Answer(self.getresponse())


def matrix(rows: list[list[float]], **more: Any) -> bytes:
    """The body of a request with one nested FP64 tensor."""
    shape = [len(rows), len(rows[0])]
    tensor = {"name": "x", "shape": shape, "datatype": "FP64", "data": rows}
    return json.dumps({"inputs": [tensor], **more}).encode()


class Fleet:
    """One pool's home and its worker processes."""

    def __init__(self, pool: str = "pool") -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mfw"))  # pytest's own paths are too long
        self.pool = pool
        self.revision = 0
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.versions: dict[int, VersionSpec] = {}

    @property
    def desired(self) -> Path:
        return self.home / "run" / "desired" / f"{self.pool}.json"

    def add(self, index: int, made: tuple[Path, str], **fields: Any) -> None:
        folder, digest = made
        known = {"model": folder.name, "version": "1.0.0", "sequence": 1}
        self.versions[index] = VersionSpec(
            index=index, digest=digest, path=str(folder), **{**known, **fields}
        )

    def write(self, memory_mb: int = 4096) -> int:
        """Publish the versions as a new revision."""
        self.revision += 1
        versions = tuple(self.versions.values())
        spec = PoolSpec(self.pool, self.revision, sys.executable, 1, memory_mb, versions)
        desired.dump(spec, self.desired)
        return self.revision

    def start(
        self, replica: int = 0, *more: str, wait: bool = True, prefix: tuple[str, ...] = ()
    ) -> None:
        """prefix: a command that runs the worker somewhere else."""
        control = self.control_path(replica)
        ControlBlock.create(control).close()
        command = [*prefix, sys.executable, "-m", "modelfleet_worker", "--home", str(self.home)]
        command += ["--pool", self.pool, "--replica", str(replica), "--incarnation", "1"]
        command += ["--socket", str(self.socket(replica)), "--control", str(control)]
        command += ["--segment-mb", "1", *more]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        with open(self.home / f"{replica}.log", "ab") as log:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=self.home
            )
        self.processes[replica] = process
        if wait:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", self.log(replica)

    def socket(self, replica: int = 0) -> Path:
        return self.home / f"{replica}.sock"

    def control_path(self, replica: int = 0) -> Path:
        return self.home / "run" / "control" / f"{self.pool}-{replica}.ctl"

    def log(self, replica: int = 0) -> str:
        return (self.home / f"{replica}.log").read_text()

    def client(self, replica: int = 0, timeout: float = 20) -> Client:
        return Client(self.socket(replica), timeout)

    def infer(self, model: str, body: bytes, replica: int = 0, **headers: str) -> Answer:
        """One inference on a connection of its own. Headers: x_mf_version="17"."""
        client = self.client(replica)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return client.ask("POST", f"/v2/models/{model}/infer", body, named)
        finally:
            client.close()

    def snapshot(self, replica: int = 0) -> ControlSnapshot:
        with ControlBlock.open(self.control_path(replica)) as block:
            return block.snapshot()

    def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.01)

    def acknowledged(self, revision: int, replica: int = 0) -> ControlSnapshot:
        self.until(lambda: self.snapshot(replica).revision >= revision)
        return self.snapshot(replica)

    def records(self) -> list[Record]:
        found: list[Record] = []
        for path in sorted((self.home / "segments").glob("*.seg")):
            with SegmentReader(path) as reader:
                found += [record for _, record in reader.read()[0]]
        return found

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        shutil.rmtree(self.home)


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    return Bundles(tmp_path / "bundles")


@pytest.fixture(scope="module")
def shared_bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return Bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def request_of() -> Callable[..., bytes]:
    return matrix


@pytest.fixture(scope="session")
def new_fleet() -> Callable[[], Fleet]:
    return Fleet


@pytest.fixture(scope="module")
def worker(shared_bundles: Any, new_fleet: Callable[[], Any]) -> Iterator[Any]:
    """One that holds a linear model as version 17."""
    fleet = new_fleet()
    fleet.add(17, shared_bundles.linear_onnx())
    fleet.write()
    fleet.start(0, "--max-body", "200000")
    yield fleet
    fleet.end()


@pytest.fixture
def wire(worker: Any) -> Iterator[Wire]:
    made = Wire(worker)
    yield made
    made.close()
