"""Any Python object with `predict(inputs: dict[str, ndarray]) -> dict[str, ndarray]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelfleet_worker.runtimes.base import (
    Facts,
    LoadError,
    ModelFault,
    Tensors,
    optional_module,
    unpickle,
)
from modelfleet_worker.wire.spec import BundleSpec


class PythonRuntime:
    """A cloudpickled object."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        optional_module("cloudpickle")  # its own reducers are found by name while unpickling
        model = unpickle(artifact)
        predict = getattr(model, "predict", None)
        if not callable(predict):
            raise LoadError(f"{artifact.name}: {type(model).__name__} has no predict")
        self._predict = predict

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        """Only an example tells what it takes."""
        return Facts()

    def predict(self, inputs: Tensors) -> Tensors:
        outputs = self._predict(dict(inputs))
        if not isinstance(outputs, dict):
            raise ModelFault(f"predict gave {type(outputs).__name__} instead of a dict of arrays")
        return outputs
