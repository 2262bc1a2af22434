"""Networks to ONNX by their frameworks' own exporters: torch.onnx, Keras, tf2onnx."""

from __future__ import annotations

import inspect
import io
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from modelfleet_worker.runtimes import keras as keras_runtime
from modelfleet_worker.runtimes import tensorflow as tensorflow_runtime
from modelfleet_worker.runtimes import torch as torch_runtime
from modelfleet_worker.wire.bundle import FILES
from modelfleet_worker.wire.spec import BundleSpec, read_example

_TRACED_ROWS = 4
"""one row would be taken for a constant"""


def from_torch(bundle: Path, spec: BundleSpec) -> Any:
    """By torch.export; TorchScript, which that can't take, by the older exporter."""
    import onnx
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    artifact = bundle / FILES / spec.artifact
    inputs, _ = read_example(bundle).arrays(spec.signature)
    rows = 1 if spec.options.get("batch") == 1 else _TRACED_ROWS
    arguments = tuple(
        torch.from_numpy(np.resize(inputs[tensor.name], (rows, *inputs[tensor.name].shape[1:])))
        for tensor in spec.signature.inputs
    )
    names = [tensor.name for tensor in spec.signature.inputs]
    if spec.options.get("form") == "script":
        stream = io.BytesIO()
        outputs = [tensor.name for tensor in spec.signature.outputs]
        torch.onnx.export(
            torch_runtime.read(artifact, spec.options),
            arguments,
            stream,
            dynamo=False,
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: "rows"} for name in [*names, *outputs]},
        )
        return _plain(onnx.load_from_string(stream.getvalue()))
    if spec.options.get("form") == "export":
        made = torch.onnx.export(torch.export.load(str(artifact)), arguments, dynamo=True)
    else:
        made = torch.onnx.export(
            torch_runtime.read(artifact, spec.options),
            arguments,
            dynamo=True,
            input_names=names,
            dynamic_shapes=_variable(torch, spec, rows),
        )
    return _plain(made.model_proto)


def _variable(torch: Any, spec: BundleSpec, rows: int) -> tuple[dict[int, Any], ...]:
    """The dimensions that vary, for each input."""
    return tuple(
        {
            k: torch.export.Dim.AUTO
            for k, size in enumerate(tensor.shape)
            if size == -1 and (k or rows > 1)
        }
        for tensor in spec.signature.inputs
    )


def from_keras(bundle: Path, spec: BundleSpec) -> Any:
    import onnx

    artifact = bundle / FILES / spec.artifact
    inputs, _ = read_example(bundle).arrays(spec.signature)
    one = {name: array[:1] for name, array in inputs.items()}
    _, model = keras_runtime.read(artifact, spec.options)
    keras_runtime.answer(model, spec, one)  # a model that was never called can't be exported
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        model.export(path, format="onnx", verbose=False)
        return _plain(onnx.load(path))


def from_tensorflow(artifact: Path, spec: BundleSpec) -> Any:
    _old_names_of_numpy()
    import tf2onnx

    tf = tensorflow_runtime.quiet_tensorflow()
    model, call = tensorflow_runtime.read(artifact, spec.options)
    wanted = call.structured_input_signature[1]
    names = [tensor.name for tensor in spec.signature.inputs]

    def positional(*given: Any) -> Any:
        found = call(**dict(zip(names, given)))
        return [found[tensor.name] for tensor in spec.signature.outputs]

    parameters = [
        inspect.Parameter(f"input_{k}", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for k, _ in enumerate(names)
    ]
    positional.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    specs = [
        tf.TensorSpec(wanted[name].shape, wanted[name].dtype, name=f"input_{k}")
        for k, name in enumerate(names)
    ]
    graph, _ = tf2onnx.convert.from_function(
        tf.function(positional, input_signature=specs), input_signature=specs
    )
    del model
    return _plain(graph)


def _old_names_of_numpy() -> None:
    """tf2onnx 1.17 still says `np.object`, `np.bool` and `np.cast`."""
    for name, kind in (("object", object), ("bool", bool)):
        if name not in np.__dict__:
            setattr(np, name, kind)
    if "cast" not in np.__dict__:
        np.cast = {  # type: ignore[attr-defined]
            kind: (lambda value, kind=kind: np.asarray(value).astype(kind))
            for kind in (np.float32, np.float64, np.int32, np.int64)
        }


def _plain(model: Any) -> Any:
    """Without where each node came from: paths of this machine, and different ones each time."""
    graph = model.graph
    parts = (graph.node, graph.input, graph.output, graph.value_info, graph.initializer)
    for one in (model, graph, *(item for part in parts for item in part)):
        one.doc_string = ""
        if "metadata_props" in one.DESCRIPTOR.fields_by_name:
            one.ClearField("metadata_props")
    return model
