"""Keras models (.keras), on the backend that their environment has.

`options.source` is a Python file in the bundle that registers custom layers. Inputs and outputs
have the names of the model's. A subclassed model, which names none, takes the tensors of its
example: the only one as it is, several by name.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelfleet_worker.runtimes.base import (
    Facts,
    LoadError,
    Tensors,
    framework,
    sized,
    source_module,
)
from modelfleet_worker.runtimes.tensorflow import datatype_name, quiet_tensorflow, tensor_sizes
from modelfleet_worker.wire.spec import BundleSpec

BACKENDS = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}


class KerasRuntime:
    """Compiled into one TensorFlow function where TensorFlow is the backend."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        self._keras, self._model = read(artifact, spec.options)
        self._names = [tensor.name for tensor in spec.signature.inputs]
        self._named = named_inputs(self._model)
        self._dtypes: list[Any] = [None] * len(self._names)
        if self._named:
            self._dtypes = [tensor.dtype for tensor in self._model.inputs]
        self._outputs = output_names(self._model) if self._named else []
        self._call = self._model
        if self._keras.backend.backend() == "tensorflow":
            self._call = _function(self._model)

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        _, model = read(artifact, options)
        if not named_inputs(model):
            return Facts(None, (), options=dict(options), floats="FP32")
        specs, batch = sized(
            [
                (name, datatype_name(tensor.dtype), tensor_sizes(tensor.shape, name))
                for name, tensor in zip(input_names(model), model.inputs)
            ]
        )
        outputs = output_names(model)
        sizes = {n: tuple(tensor_sizes(t.shape, n)) for n, t in zip(outputs, model.outputs)}
        return Facts(specs, tuple(outputs), options={**options, **batch}, sizes=sizes)

    def predict(self, inputs: Tensors) -> Tensors:
        given = [
            self._keras.ops.convert_to_tensor(inputs[name], dtype=dtype)
            for name, dtype in zip(self._names, self._dtypes)
        ]
        if not self._named:
            return self._unnamed(dict(zip(self._names, given)))
        found = self._call(packed(self._model, given))
        flat = self._keras.tree.flatten(found)
        return {
            name: np.asarray(self._keras.ops.convert_to_numpy(value))
            for name, value in zip(self._outputs, flat)
        }

    def _unnamed(self, given: dict[str, Any]) -> Tensors:
        found = self._call(next(iter(given.values())) if len(given) == 1 else given)
        if not isinstance(found, Mapping):
            flat = self._keras.tree.flatten(found)
            names = ["output"] if len(flat) == 1 else [f"output_{k}" for k in range(len(flat))]
            found = dict(zip(names, flat))
        return {
            str(name): np.asarray(self._keras.ops.convert_to_numpy(value))
            for name, value in found.items()
        }


def answer(model: Any, spec: BundleSpec, inputs: Tensors) -> Any:
    """What the model itself gives for these tensors, not compiled into a function."""
    if not named_inputs(model):
        given = {tensor.name: inputs[tensor.name] for tensor in spec.signature.inputs}
        return model(next(iter(given.values())) if len(given) == 1 else given)
    return model(packed(model, [inputs[tensor.name] for tensor in spec.signature.inputs]))


def _function(model: Any) -> Any:
    tf = framework("tensorflow")
    if not named_inputs(model):
        return tf.function(lambda given: model(given, training=False), reduce_retracing=True)
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs]
    wanted = [packed(model, specs)]
    return tf.function(lambda given: model(given, training=False), input_signature=wanted)


def packed(model: Any, given: list[Any]) -> Any:
    """The inputs in the structure that the model was built with."""
    struct = getattr(model, "_inputs_struct", None)
    if isinstance(struct, dict):
        return dict(zip(sorted(struct), given))
    return given[0] if len(given) == 1 else given


def input_names(model: Any) -> list[str]:
    struct = getattr(model, "_inputs_struct", None)
    if isinstance(struct, dict):
        return [str(name) for name in sorted(struct)]
    return [str(tensor.name) for tensor in model.inputs]


def output_names(model: Any) -> list[str]:
    """Keys of a dict, names of output layers, or `output`."""
    struct = getattr(model, "_outputs_struct", None)
    if isinstance(struct, dict):
        return [str(name) for name in sorted(struct)]
    count = len(model.outputs)
    return ["output"] if count == 1 else [f"output_{k}" for k in range(count)]


def read(artifact: Path, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """keras itself and the model; LoadError says why it can't be read."""
    _choose_backend()
    keras = framework("keras")
    if options.get("source"):
        source_module(artifact.parent / str(options["source"]))
    try:
        model = keras.models.load_model(str(artifact), compile=False)
    except Exception as error:  # its errors share no base class
        raise LoadError(f"{artifact.name}: {str(error)[:400]}") from error
    if not named_inputs(model) and not model.built:
        raise LoadError(f"{artifact.name} was saved before it was built: call it, and save it")
    return keras, model


def named_inputs(model: Any) -> bool:
    """Does it name its inputs? Subclassed models don't."""
    return bool(getattr(model, "inputs", None))


def _choose_backend() -> None:
    """The first that is installed, unless KERAS_BACKEND says otherwise."""
    if "KERAS_BACKEND" not in os.environ:
        for backend, module in BACKENDS.items():
            if importlib.util.find_spec(module) is not None:
                os.environ["KERAS_BACKEND"] = backend
                break
        else:
            raise LoadError("this environment has neither tensorflow, torch nor jax for Keras")
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        quiet_tensorflow()
