"""What all runtimes share: the seam, the errors, and the shape of inputs and outputs."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Optional, Protocol

import msgspec
import numpy as np

from modelfleet_worker.wire.signature import Array, Signature, TensorSpec
from modelfleet_worker.wire.spec import BundleSpec

Tensors = Mapping[str, Array]


class LoadError(Exception):
    """The artifact can't be loaded in this environment."""


class Refused(Exception):
    """The model does not take this request; the message is for the client."""


class ModelFault(Exception):
    """The model answered, but not with what its signature promises."""


class Runtime(Protocol):
    """A loaded model. Called by one thread at a time.

    `predict` takes the tensors of the signature by name, with equal numbers of rows, and gives
    the outputs by name; `conform` brings them into the signature's dtypes and shapes.
    """

    def predict(self, inputs: Tensors) -> Tensors: ...


class Facts(msgspec.Struct, frozen=True):
    """What an artifact says about itself.

    inputs: None if only an example can tell. outputs: names. floats: the datatype that doubles of
    an example become. example: input tensors that came along with the artifact. sizes: shapes
    of outputs, -1 for what varies.
    """

    inputs: Optional[tuple[TensorSpec, ...]] = None
    outputs: tuple[str, ...] = ("prediction",)
    method: str = "predict"
    options: dict[str, Any] = {}
    floats: Optional[str] = None
    runtime: str = ""
    """another runtime that serves the artifact, if not the one that was asked"""
    artifact: str = ""
    """where, relative to the artifact that was asked, that runtime finds its own"""
    example: Optional[dict[str, Any]] = None
    sizes: dict[str, tuple[int, ...]] = {}


CLASSIFIER = ("label", "probability")
BOTH = "predict+predict_proba"


def matrix_facts(
    names: Sequence[str], classifies: bool, datatype: str = "FP64", **options: Any
) -> Facts:
    """Of a model that takes one matrix with these columns."""
    spec = TensorSpec("x", datatype, (-1, len(names)), tuple(names))
    if classifies:
        return Facts((spec,), CLASSIFIER, BOTH, options)
    return Facts((spec,), options=options)


class Parameter(msgspec.Struct, frozen=True):
    """What calls may set. kind: its type (see `request_params`), None for one that only the model
    can check; several: it is a list of those."""

    name: str
    kind: Any = None
    several: bool = False


class Habits(msgspec.Struct, frozen=True):
    """What a model does beyond its signature.

    columns: names of those of the frame that it answers. parameters: what calls may set.
    structured: outputs whose texts are JSON of the dicts and lists that it gives. named: it answers
    a dict, even of one output.
    """

    columns: tuple[str, ...] = ()
    structured: tuple[str, ...] = ()
    named: bool = False
    parameters: tuple[Parameter, ...] = ()


def habits(runtime: Runtime) -> Habits:
    """Those of a runtime that has answered."""
    found = getattr(runtime, "habits", None)
    return found if isinstance(found, Habits) else Habits()


class Own(msgspec.Struct, frozen=True):
    """What a request asks for itself alone: it shares no run with others.

    params: values for parameters of the model. absent: optional inputs that it left out. bare: its
    tensors, and those of the answer, have no dimension for the rows.
    """

    params: Optional[dict[str, Any]] = None
    absent: frozenset[str] = frozenset()
    bare: bool = False


class Adjustable(Protocol):
    """A runtime that has parameters or optional inputs."""

    def predict_as(self, inputs: Tensors, own: Own) -> Tensors:
        """As `predict`, for one request with wishes of its own."""


def answer(runtime: Any, inputs: Tensors, own: Own) -> Tensors:
    """What a runtime says to a request with wishes of its own."""
    if own.params is None and not own.absent:
        return runtime.predict(inputs)  # type: ignore[no-any-return]
    adjustable: Adjustable = runtime
    return adjustable.predict_as(inputs, own)


class WholeCalls:
    """A model that takes no rows: each row of the signature is one call with all tensors of it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def habits(self) -> Habits:
        return habits(self._runtime)

    def predict(self, inputs: Tensors) -> Tensors:
        return self.predict_as(inputs, Own())

    def predict_as(self, inputs: Tensors, own: Own) -> Tensors:
        rows = len(next(iter(inputs.values())))
        found = []
        for k in range(rows):
            one = {n: array[k : k + 1].reshape(array.shape[1:]) for n, array in inputs.items()}
            found.append(answer(self._runtime, one, own))
        return {name: np.stack([np.asarray(one[name]) for one in found]) for name in found[0]}


def bare(signature: Signature) -> Signature:
    """What the model itself takes and gives in one call, for `whole` ones. A scalar is [1]."""
    return Signature(tuple(map(_bare, signature.inputs)), tuple(map(_bare, signature.outputs)))


def _bare(spec: TensorSpec) -> TensorSpec:
    return msgspec.structs.replace(spec, shape=spec.shape[1:] or (1,), features=None)


class RowByRow:
    """A model that takes one row at a time, asked once for each row."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def predict(self, inputs: Tensors) -> Tensors:
        rows = len(next(iter(inputs.values())))
        found = [
            self._runtime.predict({name: array[k : k + 1] for name, array in inputs.items()})
            for k in range(rows)
        ]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


WHOLE = "whole"
"""`options.batch` of a model that takes no rows"""
Named = tuple[str, str, Sequence[int]]


def sized(inputs: Sequence[Named]) -> tuple[tuple[TensorSpec, ...], dict[str, Any]]:
    """The specs of inputs with these names, datatypes and shapes (-1: any), and the options that
    go with them. A model has rows if the first dimension of all inputs varies, or is 1."""
    first = {shape[0] if shape else 0 for _, _, shape in inputs}
    if first == {-1} or first == {1}:
        specs = tuple(TensorSpec(name, kind, (-1, *shape[1:])) for name, kind, shape in inputs)
        return specs, {"batch": 1} if first == {1} else {}
    if len(first) == 1 and first != {0}:
        raise LoadError(
            f"it was exported for batches of exactly {max(first)} rows; "
            "export it with a variable first dimension (or of 1)"
        )
    return tuple(TensorSpec(name, kind, (-1, *shape)) for name, kind, shape in inputs), {
        "batch": WHOLE
    }


class Conformer:
    """Brings what a model gave into the dtypes, shapes and order of its signature."""

    def __init__(self, signature: Signature) -> None:
        self._outputs = [
            (spec.name, spec.dtype, spec.shape, spec.shape[1:]) for spec in signature.outputs
        ]

    def apply(self, outputs: Tensors, rows: int) -> list[Array]:
        """The output arrays. ModelFault if that needs more than a cast or [N, 1] for [N]."""
        found: list[Array] = []
        for name, dtype, shape, inner in self._outputs:
            if name not in outputs:
                raise ModelFault(f"the model gave no output {name!r}")
            array: Array = np.asarray(outputs[name])
            if array.dtype is not dtype:  # native dtypes are single objects; others get a cast
                array = array.astype(dtype)
            if array.ndim != len(shape):
                array = _reshaped(array, shape, rows)
            sizes = array.shape
            if sizes[1:] != inner or sizes[0] != rows:
                _check(name, sizes, shape, rows)
            found.append(array)
        return found


def _check(name: str, found: tuple[int, ...], promised: tuple[int, ...], rows: int) -> None:
    wanted = (rows if promised[0] == -1 else promised[0], *promised[1:])
    if len(found) != len(wanted) or any(w not in (-1, f) for f, w in zip(found, wanted)):
        raise ModelFault(
            f"output {name!r} has the shape {list(found)}, the signature says {list(promised)} "
            f"and the request has {rows} rows"
        )


def _reshaped(array: Array, shape: tuple[int, ...], rows: int) -> Array:
    """[N, 1] for [N] and the other way round; anything else stays as it is."""
    if array.size == rows and len(shape) <= 2:
        return array.reshape([rows] + [1] * (len(shape) - 1))
    return array


def table(inputs: Tensors, signature: Signature) -> Array:
    """The inputs as one 2-D array, as frameworks want it: one column per feature.

    Columns of mixed kinds become an array of objects.
    """
    if signature.is_matrix:
        return inputs[signature.inputs[0].name]
    columns = signature.columns([inputs[spec.name] for spec in signature.inputs])
    kinds = {column.dtype.kind for column in columns}
    if "O" not in kinds:
        return np.column_stack(columns)
    mixed: Array = np.empty((len(columns[0]), len(columns)), dtype=object)
    for k, column in enumerate(columns):
        mixed[:, k] = column
    return mixed


def labels(spec: BundleSpec, probability: Array) -> Array:
    """The most probable class of each row; `options.classes` names them, else they are 0..k-1."""
    winner: Array = probability.argmax(axis=1)
    classes = spec.options.get("classes")
    if classes is None:
        return winner
    named: Array = np.asarray(classes)
    return named[winner]


def is_classifier(spec: BundleSpec) -> bool:
    return any(output.name == "probability" for output in spec.signature.outputs)


def unpickle(path: Path) -> Any:
    """The object of a joblib, pickle or cloudpickle file. LoadError names a missing class."""
    try:
        return _reader(path)
    except ModuleNotFoundError as error:
        raise LoadError(
            f"{path.name} needs the module {error.name!r}, which this environment does not have"
        ) from error
    except AttributeError as error:
        raise LoadError(
            f"{path.name} needs a class or function that this environment does not have: {error}"
        ) from error
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError) as error:
        raise LoadError(f"{path.name} is not a readable pickle: {error}") from error


def _reader(path: Path) -> Any:
    joblib = optional_module("joblib")
    if joblib is not None:
        return joblib.load(path)
    with open(path, "rb") as stream:
        return pickle.load(stream)


def framework(name: str) -> Any:
    """The module of that name; LoadError if this environment does not have it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise LoadError(f"this environment does not have {error.name}") from error


def source_module(path: Path) -> ModuleType:
    """A Python file, or a package folder, as a module of its own, whatever others are called."""
    place = path / "__init__.py" if path.is_dir() else path
    name = "modelfleet_source_" + hashlib.sha256(str(place).encode()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    folders = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, place, submodule_search_locations=folders)
    if spec is None or spec.loader is None or not place.exists():
        raise LoadError(f"{path.name} is neither a Python file nor a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        raise LoadError(f"{path.name} can't be imported: {error!r}") from error
    return module


def optional_module(name: str) -> Any:
    """The module of that name, None if this environment does not have it."""
    module: ModuleType | None = None
    with contextlib.suppress(ModuleNotFoundError):
        module = __import__(name)
    return module
