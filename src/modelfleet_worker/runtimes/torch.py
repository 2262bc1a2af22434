"""PyTorch: a state dict with its code, TorchScript, or a `torch.export` archive (.pt2).

`options.form` is `state_dict`, `script` or `export`. A state dict is read with `weights_only`;
`options.source` is a Python file (or package) in the bundle, `options.class` a module class in
it, `options.arguments` what its constructor gets. The model takes its inputs by position, in the
order of the signature (an exported one as it was exported); where it wants a number, a scalar
becomes one. It gives a tensor (`output`), several (`output_0`, ...; `output_1_0` inside of a tuple)
or a dict.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelfleet_worker.runtimes.base import (
    Facts,
    LoadError,
    Named,
    Tensors,
    framework,
    sized,
    source_module,
)
from modelfleet_worker.wire.signature import DTYPES, Array
from modelfleet_worker.wire.spec import BundleSpec

FORMS = ("state_dict", "script", "export")
_NUMBERS = {"bool": "BOOL", "int": "INT64", "float": "FP64"}


class TorchRuntime:
    """One thread, no gradients."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        if any(tensor.datatype == "BYTES" for tensor in spec.signature.inputs):
            raise LoadError("PyTorch models take no text")
        self._model = read(artifact, spec.options)
        self._order = [tensor.name for tensor in spec.signature.inputs]
        self._numbers = _wants_numbers(self._model, len(self._order))
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
            given = [self._tensor(_own(inputs[name])) for name in self._order]
            for k in self._numbers:
                given[k] = given[k].item()
            return named(self._model(*given))


def _own(array: Array) -> Array:
    """PyTorch shares memory, and wants it to be writable."""
    return array if array.flags.writeable and array.flags.c_contiguous else array.copy()


def named(found: Any) -> dict[str, Array]:
    """Outputs of a model by name."""
    if isinstance(found, Mapping):
        parts = [_flat(str(name), value) for name, value in found.items()]
        return {name: array for part in parts for name, array in part.items()}
    return _flat("output", found)


def _flat(name: str, value: Any) -> dict[str, Array]:
    """A tensor by its name, or those inside of a tuple, list or dict; None gives nothing."""
    if isinstance(value, Mapping):
        inner = [(f"{name}_{key}", one) for key, one in value.items()]
    elif isinstance(value, (tuple, list)):
        inner = [(f"{name}_{k}", one) for k, one in enumerate(value)]
    else:
        return {} if value is None else {name: _array(value)}
    return {key: array for k, one in inner for key, array in _flat(k, one).items()}


def _array(value: Any) -> Array:
    if not hasattr(value, "detach"):
        return np.asarray(value)
    if str(value.dtype) == "torch.bfloat16":  # numpy has no such type
        value = value.float()
    array: Array = value.detach().cpu().numpy()
    return array


def _wants_numbers(model: Any, count: int) -> list[int]:
    """Places of the inputs that are Python numbers to the model, not tensors."""
    if isinstance(model, _Exported):
        return model.numbers
    schema = getattr(getattr(model, "forward", None), "schema", None)
    if schema is not None:  # of TorchScript
        kinds = [str(one.type) for one in schema.arguments[1:]]
    else:
        given = inspect.signature(model.forward).parameters.values()
        kinds = [getattr(one.annotation, "__name__", str(one.annotation)) for one in given]
    plain = [kind.replace("Optional[", "").rstrip("]?") for kind in kinds]
    return [k for k, kind in enumerate(plain[:count]) if kind in ("int", "float", "bool")]


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
            return _Exported(torch, torch.export.load(str(artifact)))
        if form == "state_dict":
            return _from_code(torch, artifact, options)
    except LoadError:
        raise
    except Exception as error:  # its errors share no base class
        raise LoadError(f"{artifact.name}: {_short(error)}") from error
    raise LoadError(f"options.form is {form!r}, not one of {', '.join(FORMS)}")


class _Exported:
    """A program, called with all its tensors one after the other."""

    def __init__(self, torch: Any, program: Any) -> None:
        self._module = program.module()
        self._spec = program.call_spec.in_spec
        self._unflatten = torch.utils._pytree.tree_unflatten
        self.numbers = [k for k, (_, val) in enumerate(_wanted(program)) if _is_number(val)]

    def __call__(self, *given: Any) -> Any:
        arguments, named_ones = self._unflatten(list(given), self._spec)
        return self._module(*arguments, **named_ones)


def _wanted(program: Any) -> list[tuple[str, Any]]:
    """What the program takes, by name, and what was there when it was exported."""
    names = program.graph_signature.user_inputs
    values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    return [(str(name), values.get(name, name)) for name in names]


def _is_number(value: Any) -> bool:
    return not hasattr(value, "dtype")


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
    found: list[Named] = []
    for name, value in _wanted(program):
        if not _is_number(value):
            sizes = [size if isinstance(size, int) else -1 for size in value.shape]
            found.append((name, _datatype(str(value.dtype)), sizes))
            continue
        kind = _NUMBERS.get(type(value).__name__.replace("Sym", "").lower())
        if kind is None:
            raise LoadError(f"its input {name!r} is a {type(value).__name__}, not a tensor")
        found.append((name, kind, []))
    specs, batch = sized(found)
    return Facts(specs, (), options={**options, **batch})


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] or type(error).__name__
