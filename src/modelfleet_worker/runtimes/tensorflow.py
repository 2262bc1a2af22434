"""TensorFlow SavedModels: the signature `options.signature` of a folder, else `serving_default`, or
the only one that there is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelfleet_worker.runtimes.base import Facts, LoadError, Tensors, framework, sized
from modelfleet_worker.wire.signature import DTYPES, Array
from modelfleet_worker.wire.spec import BundleSpec

DEFAULT = "serving_default"


class TensorflowRuntime:
    """One thread. Inputs go in by the names of the signature, outputs come by theirs."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        self._tf = quiet_tensorflow()
        self._model, self._call = read(artifact, spec.options)
        self._wanted = dict(self._call.structured_input_signature[1])

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        _, call = read(artifact, options)
        specs, batch = sized(
            [
                (name, datatype_name(spec.dtype.name), tensor_sizes(spec.shape, name))
                for name, spec in call.structured_input_signature[1].items()
            ]
        )
        outputs = tuple(sorted(call.structured_outputs))
        sizes = {
            name: tuple(tensor_sizes(spec.shape, name))
            for name, spec in call.structured_outputs.items()
            if spec.shape.rank is not None
        }
        return Facts(specs, outputs, options={**options, **batch}, sizes=sizes)

    def predict(self, inputs: Tensors) -> Tensors:
        constant = self._tf.constant
        feed = {n: constant(inputs[n], dtype=spec.dtype) for n, spec in self._wanted.items()}
        return {name: texts(value.numpy()) for name, value in self._call(**feed).items()}


def quiet_tensorflow() -> Any:
    """TensorFlow with one thread, on the processor, without its greetings."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    tf = framework("tensorflow")
    with contextlib.suppress(RuntimeError):  # work has begun in this process: it was set then
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def read(artifact: Path, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model, which must stay alive, and the function of the chosen signature."""
    tf = quiet_tensorflow()
    try:
        model = tf.saved_model.load(str(artifact))
    except Exception as error:  # its errors share no base class
        raise LoadError(f"{artifact.name}: {str(error)[:400]}") from error
    known = list(model.signatures)
    alone = known[0] if len(known) == 1 else DEFAULT
    wanted = str(options.get("signature", alone))
    if wanted not in model.signatures:
        raise LoadError(
            f"{artifact.name} has no signature {wanted!r}; it has {sorted(model.signatures)}"
        )
    return model, model.signatures[wanted]


def tensor_sizes(shape: Any, name: str) -> list[int]:
    """A shape with -1 for what is variable. LoadError for an unknown rank."""
    try:
        return [-1 if size is None else int(size) for size in shape]
    except ValueError as error:
        raise LoadError(f"input {name!r} has a shape of unknown rank") from error


def datatype_name(dtype: str) -> str:
    """The protocol's name of a TensorFlow or Keras dtype."""
    if dtype == "string":
        return "BYTES"
    for datatype, known in DTYPES.items():
        if known.name == dtype:
            return datatype
    raise LoadError(f"tensors of {dtype} can't be sent to a model")


def texts(array: Array) -> Array:
    """TensorFlow gives text as bytes."""
    if array.dtype.kind not in "SO":
        return array
    found: Array = array.astype(object)
    flat = found.reshape(-1)
    for k, value in enumerate(flat):
        flat[k] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found
