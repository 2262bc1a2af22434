"""How each framework's artifact becomes `predict(arrays) -> arrays`: one module per framework.

A framework is imported only when a bundle of it is loaded: each environment brings its own.
"""

from __future__ import annotations

from pathlib import Path

from modelfleet_worker.runtimes.base import LoadError, Runtime
from modelfleet_worker.wire.bundle import FILES
from modelfleet_worker.wire.spec import BundleSpec

__all__ = ["LoadError", "Runtime", "load"]


def load(bundle: Path, spec: BundleSpec) -> Runtime:
    """The runtime of a (verified) bundle, its artifact loaded. LoadError says why it can't be."""
    artifact = bundle / FILES / spec.artifact
    if spec.runtime == "onnx":
        from modelfleet_worker.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(artifact, spec)
    if spec.runtime == "sklearn":
        from modelfleet_worker.runtimes.sklearn import SklearnRuntime

        return SklearnRuntime(artifact, spec)
    if spec.runtime == "lightgbm":
        from modelfleet_worker.runtimes.boosters import LightgbmRuntime

        return LightgbmRuntime(artifact, spec)
    if spec.runtime == "xgboost":
        from modelfleet_worker.runtimes.boosters import XgboostRuntime

        return XgboostRuntime(artifact, spec)
    from modelfleet_worker.runtimes.python import PythonRuntime

    return PythonRuntime(artifact)
