"""`bundle.json` and `example.json`: what a bundle says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, TypeVar

import msgspec
import numpy as np

from modelfleet_worker.wire.bundle import FILES, BundleCorrupt
from modelfleet_worker.wire.signature import Array, Signature, TensorSpec
from modelfleet_worker.wire.vocabulary import METHODS, RUNTIMES

BUNDLE_FILE = "bundle.json"
EXAMPLE_FILE = "example.json"
REFERENCE_FILE = "reference.json"

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class ScoreSpec(msgspec.Struct, frozen=True):
    """The one number per row that is watched: an output, and its column if it is 2-D."""

    output: str
    column: int = 0

    def of(self, output: Array) -> Array:
        """The scores [rows] in that output tensor."""
        return output if output.ndim == 1 else output[:, self.column]


class BundleSpec(msgspec.Struct, frozen=True):
    """How to run the artifact (a file or a folder) of a bundle.

    options: what one runtime alone understands, e.g. `classes` (labels in the order of the
    probabilities) for boosters, `inputs` and `outputs` (names in the graph) for ONNX; and, for
    all, `example`: `made up` if nobody gave golden rows and they were drawn at random.
    refuse_missing: requests with null, NaN or infinity are answered with 400.
    """

    runtime: str
    artifact: str
    signature: Signature
    method: str = "predict"
    score: Optional[ScoreSpec] = None
    options: dict[str, Any] = {}
    refuse_missing: bool = False
    format: int = 1

    def __post_init__(self) -> None:
        if self.format != 1:
            raise ValueError(f"bundle format {self.format} is not known here")
        if self.runtime not in RUNTIMES:
            raise ValueError(f"runtime {self.runtime!r} is none of {', '.join(RUNTIMES)}")
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is none of {', '.join(METHODS)}")


class Example(msgspec.Struct, frozen=True):
    """Golden rows: nested lists by tensor name."""

    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]

    def arrays(self, signature: Signature) -> tuple[dict[str, Array], dict[str, Array]]:
        """Inputs and outputs as arrays of the signature's dtypes; null becomes NaN."""
        return (
            {spec.name: _array(spec, self.inputs) for spec in signature.inputs},
            {spec.name: _array(spec, self.outputs) for spec in signature.outputs},
        )


def example_of(inputs: dict[str, Array], outputs: dict[str, Array]) -> Example:
    """The example that `arrays` reads back."""
    return Example(
        inputs={name: array.tolist() for name, array in inputs.items()},
        outputs={name: array.tolist() for name, array in outputs.items()},
    )


def read_spec(bundle: Path) -> BundleSpec:
    """`files/bundle.json` of a bundle; BundleCorrupt if it can't be read."""
    return _read(bundle, BUNDLE_FILE, BundleSpec)


def read_example(bundle: Path) -> Example:
    """`files/example.json` of a bundle; BundleCorrupt if it can't be read."""
    return _read(bundle, EXAMPLE_FILE, Example)


def _read(bundle: Path, name: str, kind: type[_Struct]) -> _Struct:
    try:
        return msgspec.json.decode((bundle / FILES / name).read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleCorrupt(f"{name}: {error}") from error


def _array(spec: TensorSpec, values: dict[str, list[Any]]) -> Array:
    if spec.name not in values:
        raise BundleCorrupt(f"{EXAMPLE_FILE}: the tensor {spec.name!r} is missing")
    try:
        array: Array = np.array(values[spec.name], dtype=spec.dtype)
        if array.ndim == len(spec.shape):  # several dimensions of it may vary
            return array
        return array.reshape([len(array), *spec.shape[1:]]) if array.ndim else array
    except (TypeError, ValueError, OverflowError) as error:
        raise BundleCorrupt(f"{EXAMPLE_FILE}: tensor {spec.name!r}: {error}") from error
