"""What a model takes and gives: named tensors with Open Inference Protocol datatypes.

Two styles of inputs: one 2-D tensor whose columns are named by `features`, or N named 1-D tensors
of shape [-1], one per column (BYTES allowed). The first dimension is always the rows; of a model
that takes no rows (`options.batch` is `whole`) a row is one call with all of its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tensor. `shape`: -1 = any; `features` names the columns of a 2-D input.

    optional: requests may leave this input out; the model does not get it then.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    features: Optional[tuple[str, ...]] = None
    optional: bool = False

    def __post_init__(self) -> None:
        if self.datatype not in DTYPES:
            raise ValueError(f"tensor {self.name!r}: unknown datatype {self.datatype!r}")
        if not self.shape or any(size < -1 for size in self.shape):
            raise ValueError(f"tensor {self.name!r}: {list(self.shape)} is no shape")
        if self.features is not None and self.shape[1:] != (len(self.features),):
            raise ValueError(
                f"tensor {self.name!r}: {len(self.features)} features do not fit "
                f"the shape {list(self.shape)}"
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        return DTYPES[self.datatype]

    @property
    def columns(self) -> int:
        """Values per row, 1 for a 1-D tensor; -1 if that varies."""
        size = 1
        for length in self.shape[1:]:
            if length < 0:
                return -1
            size *= length
        return size


class Signature(msgspec.Struct, frozen=True):
    """Inputs and outputs of a model, each in the order of the prediction record."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        for side, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            if not names:
                raise ValueError(f"a signature needs {side}")
            if len(set(names)) != len(names):
                raise ValueError(f"{side} must have distinct names, not {names}")

    def output(self, name: str) -> TensorSpec:
        """The output of that name; KeyError if there is none."""
        for spec in self.outputs:
            if spec.name == name:
                return spec
        raise KeyError(name)

    @property
    def is_matrix(self) -> bool:
        """One 2-D input tensor, as against one tensor per column."""
        return len(self.inputs) == 1 and len(self.inputs[0].shape) == 2

    def feature_names(self) -> list[str]:
        """One name per input column: `features`, the name of a 1-D tensor, or `name_<k>`."""
        names: list[str] = []
        for spec in self.inputs:
            if spec.features is not None:
                names += spec.features
            elif spec.columns == 1:
                names.append(spec.name)
            else:
                names += [f"{spec.name}_{k}" for k in range(max(spec.columns, 0))]
        return names

    def columns(self, inputs: Sequence[Array]) -> list[Array]:
        """Input tensors (in signature order) as one array [rows] per feature name."""
        flat: list[Array] = []
        for spec, tensor in zip(self.inputs, inputs):
            if spec.columns == 1:
                flat.append(tensor.reshape(-1))
            elif spec.columns > 0:
                table = tensor.reshape(len(tensor), spec.columns)
                flat += [table[:, k] for k in range(spec.columns)]
        return flat


def datatype_of(array: Array) -> str:
    """The protocol's name of a dtype; text and objects are BYTES. ValueError if it has none."""
    dtype = np.asarray(array).dtype
    if dtype.kind in "USO":
        return "BYTES"
    try:
        return _NAMES[dtype.newbyteorder("=")]
    except KeyError:
        raise ValueError(f"arrays of {dtype} can't be sent to a model") from None


def infer(
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    features: Optional[Mapping[str, Sequence[str]]] = None,
) -> Signature:
    """Signature of an example: the first dimension becomes -1.

    features: column names by input name, for 2-D inputs.
    """
    named = features or {}
    return Signature(
        inputs=tuple(_spec(name, array, named.get(name)) for name, array in inputs.items()),
        outputs=tuple(_spec(name, array, None) for name, array in outputs.items()),
    )


def _spec(name: str, array: Array, features: Optional[Sequence[str]]) -> TensorSpec:
    array = np.asarray(array)
    if array.ndim == 0:
        raise ValueError(f"{name!r} is a single value; a tensor's first dimension is the rows")
    return TensorSpec(
        name=name,
        datatype=datatype_of(array),
        shape=(-1, *array.shape[1:]),
        features=None if features is None else tuple(features),
    )
