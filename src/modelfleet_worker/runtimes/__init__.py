"""How each framework's artifact becomes `predict(arrays) -> arrays`: one module per framework.

A framework is imported only when a bundle of it is loaded: each environment brings its own.
`load` makes a runtime of a bundle; `modelfleet_worker.describe` tells what an artifact takes.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from modelfleet_worker.runtimes.base import WHOLE, LoadError, RowByRow, Runtime, WholeCalls, bare
from modelfleet_worker.wire.bundle import FILES
from modelfleet_worker.wire.spec import BundleSpec

__all__ = ["LoadError", "Runtime", "load", "runtime_class"]

_RUNTIMES = {
    "sklearn": ("sklearn", "SklearnRuntime"),
    "lightgbm": ("boosters", "LightgbmRuntime"),
    "xgboost": ("boosters", "XgboostRuntime"),
    "catboost": ("catboost", "CatboostRuntime"),
    "onnx": ("onnx", "OnnxRuntime"),
    "torch": ("torch", "TorchRuntime"),
    "tensorflow": ("tensorflow", "TensorflowRuntime"),
    "keras": ("keras", "KerasRuntime"),
    "mlflow": ("mlflow", "MlflowRuntime"),
    "python": ("python", "PythonRuntime"),
}


def load(bundle: Path, spec: BundleSpec) -> Runtime:
    """The runtime of a (verified) bundle, its artifact loaded. LoadError says why it can't be."""
    batch = spec.options.get("batch")
    if batch == WHOLE:
        spec = msgspec.structs.replace(spec, signature=bare(spec.signature))
    made: Runtime = runtime_class(spec.runtime)(bundle / FILES / spec.artifact, spec)
    if batch == WHOLE:
        return WholeCalls(made)
    return RowByRow(made) if batch == 1 else made


def runtime_class(name: str) -> Any:
    """The class of that runtime: `(artifact, spec) -> Runtime`."""
    if name not in _RUNTIMES:
        raise LoadError(f"this worker has no runtime {name!r}")
    module, kind = _RUNTIMES[name]
    return getattr(import_module(f"{__name__}.{module}"), kind)
