"""PyTorch: a state dict with its code, TorchScript, or a `torch.export` archive (.pt2).

`options.form` is `state_dict`, `script` or `export`. A state dict is read with `weights_only`;
`options.source` is a Python file (or package) in the bundle, `options.class` a module class in
it, `options.arguments` what its constructor gets. The model takes its inputs by position, in the
order of the signature; it gives a tensor (`output`), several (`output_0`, ...) or a dict.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelfleet_worker.runtimes.base import (
    Facts,
    LoadError,
    Tensors,
    batch_of,
    framework,
    source_module,
)
from modelfleet_worker.wire.signature import DTYPES, Array, TensorSpec
from modelfleet_worker.wire.spec import BundleSpec

FORMS = ("state_dict", "script", "export")


class TorchRuntime:
    """One thread, no gradients."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        if any(tensor.datatype == "BYTES" for tensor in spec.signature.inputs):
            raise LoadError("PyTorch models take no text")
        self._model = read(artifact, spec.options)
        self._order = [tensor.name for tensor in spec.signature.inputs]
        torch = framework("torch")
        self._tensor, self._inference = torch.from_numpy, torch.inference_mode

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        if options.get("form") == "export":
            return _exported(artifact, options)
        model = read(artifact, options)
        return Facts(None, (), options=dict(options), floats=_floats(model))

    def predict(self, inputs: Tensors) -> Tensors:
        with self._inference():
            found = self._model(*[self._tensor(_own(inputs[name])) for name in self._order])
        return named(found)


def _own(array: Array) -> Array:
    """PyTorch shares memory, and wants it to be writable."""
    return array if array.flags.writeable and array.flags.c_contiguous else array.copy()


def named(found: Any) -> dict[str, Array]:
    """Outputs of a model by name."""
    if isinstance(found, Mapping):
        return {str(name): _array(value) for name, value in found.items()}
    if isinstance(found, (tuple, list)):
        return {f"output_{k}": _array(value) for k, value in enumerate(found)}
    return {"output": _array(found)}


def _array(value: Any) -> Array:
    array: Array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    return array


def read(artifact: Path, options: Mapping[str, Any]) -> Any:
    """The callable model. LoadError says why not."""
    torch = framework("torch")
    torch.set_num_threads(1)
    with contextlib.suppress(RuntimeError):  # work has begun in this process: it was set then
        torch.set_num_interop_threads(1)
    form = options.get("form")
    try:
        if form == "script":
            return torch.jit.load(str(artifact), map_location="cpu").eval()
        if form == "export":
            return torch.export.load(str(artifact)).module()
        if form == "state_dict":
            return _from_code(torch, artifact, options)
    except LoadError:
        raise
    except Exception as error:  # its errors share no base class
        raise LoadError(f"{artifact.name}: {_short(error)}") from error
    raise LoadError(f"options.form is {form!r}, not one of {', '.join(FORMS)}")


def _from_code(torch: Any, artifact: Path, options: Mapping[str, Any]) -> Any:
    files = artifact.parent
    module = source_module(files / str(options.get("source")))
    kind = getattr(module, str(options.get("class")), None)
    if kind is None:
        raise LoadError(f"{options.get('source')} has no class {options.get('class')!r}")
    model = kind(**options.get("arguments", {}))
    state = torch.load(str(artifact), map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    return model.eval()


def _floats(model: Any) -> str:
    """The datatype of the model's first floating parameter."""
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point:
            return _datatype(str(parameter.dtype))
    return "FP32"


def _datatype(dtype: str) -> str:
    name = dtype.rpartition(".")[2]
    for datatype, known in DTYPES.items():
        if known.name == name:
            return datatype
    raise LoadError(f"tensors of {dtype} can't be sent to a model")


def _exported(artifact: Path, options: Mapping[str, Any]) -> Facts:
    torch = framework("torch")
    try:
        program = torch.export.load(str(artifact))
    except Exception as error:  # its errors share no base class
        raise LoadError(f"{artifact.name}: {_short(error)}") from error
    wanted = program.graph_signature.user_inputs
    specs, first = [], []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted:
            sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
            if not sizes:
                raise LoadError(f"input {node.name!r} has no rows (a scalar)")
            first.append(sizes[0])
            datatype = _datatype(str(node.meta["val"].dtype))
            specs.append(TensorSpec(node.name, datatype, (-1, *sizes[1:])))
    return Facts(tuple(specs), (), options={**options, **batch_of(first)})


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] or type(error).__name__
