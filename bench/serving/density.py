"""One worker with a thousand different small models: memory, time to start, and that all answer."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import psutil

from modelfleet_worker.wire import bundle, desired, signature, spec
from modelfleet_worker.wire.control import ControlBlock
from modelfleet_worker.wire.desired import PoolSpec, VersionSpec
from serving.peers import isolated

COUNT = 1000
FEATURES = 8


@dataclass(frozen=True)
class Density:
    models: int
    memory_mb: float
    """resident size of the worker, everything included, after each model was asked once"""
    start_s: float
    """of a worker with one model, from its launch until it answers"""
    start_all_s: float
    answered: int


def measure(root: Path) -> Density:
    home = root / "density"
    shutil.rmtree(home, ignore_errors=True)
    _graphs(root, home / "graphs")
    versions = [_bundle(home, index) for index in range(1, COUNT + 1)]
    small = _start(home / "one", versions[:1])
    small.end()
    full = _start(home / "all", versions)
    try:
        answered = sum(full.ask(one.index) for one in versions)
        memory = psutil.Process(full.process.pid).memory_info().rss / 2**20
    finally:
        full.end()
    shutil.rmtree(home)
    return Density(COUNT, memory, small.took, full.took, answered)


def _graphs(root: Path, folder: Path) -> None:
    python = isolated("convert", ("skl2onnx==1.20.0",), root) / "python"
    script = Path(__file__).with_name("density_graphs.py")
    subprocess.run([python, script, folder, str(COUNT), str(FEATURES)], check=True)


def _bundle(home: Path, index: int) -> VersionSpec:
    """A logistic regression of its own, as the platform would have compiled it."""
    example = np.load(home / "graphs" / f"{index}.npz")
    inputs = {"x": example["x"]}
    outputs = {name: example[name] for name in ("label", "probability")}
    folder = home / "bundles" / str(index)
    files = folder / "files"
    files.mkdir(parents=True)
    shutil.copy(home / "graphs" / f"{index}.onnx", files / "model.onnx")
    described = spec.BundleSpec(
        runtime="onnx",
        artifact="model.onnx",
        signature=signature.infer(inputs, outputs, {"x": [f"f{k}" for k in range(FEATURES)]}),
        method="predict+predict_proba",
        options={"outputs": {"label": "label", "probability": "probabilities"}},
    )
    (files / spec.BUNDLE_FILE).write_bytes(msgspec.json.encode(described))
    golden = msgspec.json.encode(spec.example_of(inputs, outputs))
    (files / spec.EXAMPLE_FILE).write_bytes(golden)
    digest = bundle.write_manifest(folder)
    return VersionSpec(index, f"m{index}", "1.0.0", 1, digest, str(folder))


class _Worker:
    def __init__(self, home: Path) -> None:
        self._socket = home / "w.sock"
        control = home / "run" / "control" / "onnx-0.ctl"
        ControlBlock.create(control).close()
        began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "modelfleet_worker", "--home", str(home), "--pool", "onnx"]
            + ["--replica", "0", "--socket", str(self._socket), "--incarnation", "1"]
            + ["--control", str(control)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.took = time.monotonic() - began

    def ask(self, index: int) -> bool:
        row = {"name": "x", "datatype": "FP64", "shape": [1, FEATURES], "data": [0.5] * FEATURES}
        connection = http.client.HTTPConnection("worker")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self._socket))
        headers = {"x-mf-version": str(index)}
        connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [row]}), headers)
        good = connection.getresponse().status == 200
        connection.close()
        return good

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


def _start(home: Path, versions: list[VersionSpec]) -> _Worker:
    for folder in ("run/desired", "run/control", "segments"):
        (home / folder).mkdir(parents=True)
    pool = PoolSpec("onnx", 1, sys.executable, 1, 4096, tuple(versions), budget_mb=3072)
    desired.dump(pool, home / "run" / "desired" / "onnx.json")
    return _Worker(home)
