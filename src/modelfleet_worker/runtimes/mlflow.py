"""Models in MLflow's format: a folder with `MLmodel`, loaded as pyfunc.

`facts` reads the folder's own signature, input example and conda file. Flavours that one of our
runtimes serves natively (scikit-learn, ONNX) are handed to it. Optional columns that are numbers
are FP64, so that they can be missing (`options.integers` and `.booleans` name those that are less).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import msgspec
import numpy as np

from modelfleet_worker.runtimes.base import (
    Facts,
    Habits,
    LoadError,
    Own,
    Parameter,
    Refused,
    Tensors,
    framework,
)
from modelfleet_worker.wire.signature import Array, TensorSpec
from modelfleet_worker.wire.spec import BundleSpec

COLUMNS = {
    "double": "FP64",
    "float": "FP32",
    "long": "INT64",
    "integer": "INT32",
    "boolean": "BOOL",
    "string": "BYTES",
}
TENSORS = {"float64": "FP64", "float32": "FP32", "float16": "FP16", "bool": "BOOL", "str": "BYTES"}
TENSORS.update({f"{u}int{n}": f"{u}int{n}".upper() for u in ("", "u") for n in (8, 16, 32, 64)})
_NARROW = {"long": "integers", "integer": "integers", "boolean": "booleans"}
_PARAMETERS: dict[str, Any] = {
    "boolean": bool,
    "integer": Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)],
    "long": Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)],
    "float": float,
    "double": float,
    "string": str,
    "datetime": str,
}
"""by the name of MLflow's type; what is not here is left to MLflow"""
NATIVE = {"sklearn": ("sklearn", "pickled_model"), "onnx": ("onnx", "data")}


class MlflowRuntime:
    """Columns become a pandas frame; a matrix, or `options.tensors`, arrays."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        os.environ.setdefault("MLFLOW_TRACKING_URI", "file:///dev/null")
        pyfunc = framework("mlflow.pyfunc")
        try:
            self._model = pyfunc.load_model(str(artifact))
        except Exception as error:  # loaders raise anything
            raise LoadError(
                f"{artifact.name}: {type(error).__name__}: {str(error)[:400]}"
            ) from error
        self._names = [tensor.name for tensor in spec.signature.inputs]
        self._arrays = bool(spec.options.get("tensors")) or spec.signature.is_matrix
        self._single = len(self._names) == 1 and not spec.options.get("named")
        self._pandas = None if self._arrays else framework("pandas")
        self._whole = {
            **dict.fromkeys(spec.options.get("integers", ()), np.int64),
            **dict.fromkeys(spec.options.get("booleans", ()), np.bool_),
        }
        self._parameters = _parameters(self._model)
        self._columns: tuple[str, ...] = ()
        self._named = False
        self._structured: set[str] = set()
        self._unnamed = bool(spec.options.get("unnamed"))

    @property
    def habits(self) -> Habits:
        structured = tuple(sorted(self._structured))
        return Habits(self._columns, structured, self._named, self._parameters)

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        said = framework("yaml").safe_load((artifact / "MLmodel").read_text("utf-8"))
        flavors = said.get("flavors") or {}
        if not flavors:
            raise LoadError("it names no flavors: an external model can't be served here")
        _refuse_conda(artifact)
        signature = said.get("signature") or {}
        inputs, extra = _inputs(json.loads(signature.get("inputs") or "[]"))
        example = _example(artifact, inputs)
        native = _native(flavors)
        if native is not None:
            runtime, path, more = native
            inputs = _all_required(inputs)
            if runtime == "onnx":  # the graph knows its own tensors
                if inputs is None or extra.get("tensors"):
                    more = {**more, "answers": "named"}
                return Facts(None, (), "predict", more, None, runtime, path, example)
            return Facts(inputs, ("prediction",), "predict", more, None, runtime, path, example)
        if "python_function" not in flavors:
            raise LoadError(f"it can't be loaded as pyfunc: its flavors are {sorted(flavors)}")
        return Facts(inputs, (), options={**options, **extra}, example=example)

    def predict(self, inputs: Tensors) -> Tensors:
        return self._answer(self._model.predict(self._data(inputs, self._names)))

    def predict_as(self, inputs: Tensors, own: Own) -> Tensors:
        data = self._data(inputs, [name for name in self._names if name not in own.absent])
        return self._answer(self._model.predict(data, params=own.params))

    def _answer(self, found: Any) -> Tensors:
        self._columns = _columns(found)
        self._named = isinstance(found, Mapping)
        outputs = _named(found)
        for name, array in outputs.items():
            if array.dtype.kind == "O" and isinstance(next(iter(array.flat), None), (dict, list)):
                outputs[name] = _as_json(array)
                self._structured.add(name)
        return outputs

    def _data(self, inputs: Tensors, names: Sequence[str]) -> Any:
        if self._pandas is not None:
            columns = {name: inputs[name] for name in names}
            for name, dtype in self._whole.items():
                if name in columns:
                    columns[name] = _narrowed(name, columns[name], dtype)
            frame = self._pandas.DataFrame(columns)
            if self._unnamed:
                frame.columns = range(len(names))
            return frame
        return inputs[names[0]] if self._single else {name: inputs[name] for name in names}


def _native(flavors: Mapping[str, Any]) -> Optional[tuple[str, str, dict[str, Any]]]:
    """Our runtime for one of the flavours, the path of its artifact, and its options."""
    for flavor, (runtime, key) in NATIVE.items():
        found = flavors.get(flavor)
        if not isinstance(found, dict) or not found.get(key) or found.get("code"):
            continue
        options: dict[str, Any] = {}
        if found.get("skops_trusted_types"):
            options["trusted"] = found["skops_trusted_types"]
        wanted = (flavors.get("python_function") or {}).get("predict_fn", "predict")
        if wanted == "predict":
            return runtime, str(found[key]), options
    return None


def _refuse_conda(folder: Path) -> None:
    """What only conda could install is refused, never dropped."""
    path = folder / "conda.yaml"
    if not path.exists():
        return
    listed = (framework("yaml").safe_load(path.read_text("utf-8")) or {}).get("dependencies", [])
    names = [one for one in listed if isinstance(one, str)]
    foreign = [one for one in names if re.split(r"[<>=! ]", one)[0] not in ("python", "pip")]
    if foreign:
        raise LoadError(f"it needs the conda packages {foreign}; only pip's can be installed here")


def _inputs(specs: Any) -> tuple[Optional[tuple[TensorSpec, ...]], dict[str, Any]]:
    """Tensors of a signature in MLflow's JSON, and the options that go with them."""
    if not specs:
        return None, {}
    tensors = [one for one in specs if one.get("type") == "tensor"]
    if tensors:
        found = []
        for one in tensors:
            dtype, shape = one["tensor-spec"]["dtype"], one["tensor-spec"]["shape"]
            if dtype not in TENSORS or not shape:
                raise LoadError(f"its signature has a tensor of {dtype} {shape}")
            found.append(TensorSpec(one.get("name") or "x", TENSORS[dtype], (-1, *shape[1:])))
        named = any(one.get("name") for one in tensors)
        return tuple(found), {"tensors": True, **({"named": True} if named else {})}
    columns: list[TensorSpec] = []
    narrow: dict[str, list[str]] = {}
    for k, one in enumerate(specs):
        kind = one["type"]
        if kind not in COLUMNS:
            raise LoadError(
                f"column {one.get('name', k)!r} of its signature is of the type {kind!r}; "
                f"served are columns of {', '.join(COLUMNS)}, and tensors"
            )
        name, optional = str(one.get("name", f"c{k}")), one.get("required") is False
        datatype = COLUMNS[kind]
        if optional and kind in _NARROW:
            datatype = "FP64"
            narrow.setdefault(_NARROW[kind], []).append(name)
        columns.append(TensorSpec(name, datatype, (-1,), optional=optional))
    extra: dict[str, Any] = {key: tuple(names) for key, names in narrow.items()}
    if all("name" not in one for one in specs):
        extra["unnamed"] = True
    return tuple(columns), extra


def _all_required(inputs: Optional[tuple[TensorSpec, ...]]) -> Optional[tuple[TensorSpec, ...]]:
    """Our own runtimes give a model all columns or none."""
    if inputs is None:
        return None
    return tuple(msgspec.structs.replace(one, optional=False) for one in inputs)


def _narrowed(name: str, column: Array, dtype: Any) -> Array:
    """Whole numbers or booleans. Refused says which are none."""
    if np.isnan(column).any():
        raise Refused(f"column {name!r} has gaps: give it for all rows, or leave it out")
    narrow: Array = column.astype(dtype)
    if (narrow != column).any():
        what = "booleans" if dtype is np.bool_ else "whole numbers"
        raise Refused(f"column {name!r} takes {what}")
    return narrow


def _as_json(array: Array) -> Array:
    """Dicts and lists as texts."""
    texts: Array = np.empty(array.shape, dtype=object)
    flat = texts.reshape(-1)
    for k, one in enumerate(array.flat):
        flat[k] = None if one is None else json.dumps(one, default=str)
    return texts


def _example(folder: Path, inputs: Optional[tuple[TensorSpec, ...]]) -> Optional[dict[str, Array]]:
    """The rows of the folder's input example, by tensor name."""
    path = folder / "serving_input_example.json"
    if not path.exists():
        return None
    said = json.loads(path.read_text("utf-8"))
    if "dataframe_split" in said:
        split = said["dataframe_split"]
        rows = split["data"]
        columns = [np.array([row[k] for row in rows]) for k in range(len(rows[0]))]
        names = [str(one) for one in split.get("columns", range(len(columns)))]
        return dict(zip(names, columns))
    given = said.get("inputs", said.get("instances"))
    if isinstance(given, dict):
        return {str(name): np.array(values) for name, values in given.items()}
    if given is None:
        return None
    return {inputs[0].name if inputs else "x": np.array(given)}


def _parameters(model: Any) -> tuple[Parameter, ...]:
    """What MLflow's clients may set with a request."""
    schema = model.metadata.get_params_schema()
    found = []
    for spec in () if schema is None else schema.params:
        kind = _PARAMETERS.get(getattr(spec.dtype, "name", ""))
        found.append(Parameter(spec.name, kind, bool(spec.shape)))
    return tuple(found)


def _columns(found: Any) -> tuple[str, ...]:
    """Of a frame or a series."""
    if hasattr(found, "columns"):
        return tuple(str(name) for name in found.columns)
    if hasattr(found, "to_frame"):
        return ("0" if found.name is None else str(found.name),)
    return ()


def _named(found: Any) -> dict[str, Array]:
    """Outputs of pyfunc by name: columns of a frame, keys of a dict, else `prediction`."""
    if hasattr(found, "columns"):
        if len(found.columns) == 1:
            return {"prediction": _values(found.iloc[:, 0])}
        return {str(name): _values(found[name]) for name in found.columns}
    if hasattr(found, "to_frame"):
        return {"prediction": _values(found)}
    if isinstance(found, Mapping):
        return {str(name): np.asarray(values) for name, values in found.items()}
    return {"prediction": np.asarray(found)}


def _values(column: Any) -> Array:
    """Those of a series; a missing text is None, not NaN."""
    array: Array = column.to_numpy()
    if array.dtype.kind != "O":
        return array
    missing: Array = column.isna().to_numpy()
    array = array.copy()
    array[missing] = None
    return array
