"""The `bundle.json` of a bundle: what it is and which tensors go in and out."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from modelfleet.core.errors import InvalidInput
from modelfleet_worker.wire.vocabulary import DATATYPES, METHODS, RUNTIMES


@dataclass(frozen=True)
class Tensor:
    name: str
    datatype: str
    shape: list[int]
    """-1 stands for a variable length"""
    features: list[str] | None = None


@dataclass(frozen=True)
class Signature:
    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass(frozen=True)
class Score:
    output: str
    column: int | None = None


@dataclass(frozen=True)
class BundleInfo:
    format: int
    runtime: str
    artifact: str
    signature: Signature
    method: str = "predict"
    score: Score | None = None
    options: dict[str, object] = field(default_factory=dict)


UNKNOWN = BundleInfo(1, "", "", Signature([], []))
"""of a version that was not prepared yet, or whose bytes are elsewhere"""


def read(content: bytes) -> BundleInfo:
    """Parse and check `bundle.json`."""
    try:
        info = msgspec.json.decode(content, type=BundleInfo)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"bundle.json: {error}") from error
    if info.format != 1:
        raise InvalidInput(f"bundle.json has format {info.format}; this server knows 1.")
    if info.runtime not in RUNTIMES:
        raise InvalidInput(
            f"bundle.json names the runtime {info.runtime!r}.",
            hint=f"Known: {', '.join(sorted(RUNTIMES))}.",
        )
    if info.method not in METHODS:
        raise InvalidInput(
            f"bundle.json names the method {info.method!r}.", hint=f"Known: {', '.join(METHODS)}."
        )
    signature = info.signature
    if not signature.inputs or not signature.outputs:
        raise InvalidInput("A signature needs at least one input and one output.")
    for side in (signature.inputs, signature.outputs):
        if len({tensor.name for tensor in side}) != len(side):
            raise InvalidInput("A signature names a tensor twice.")
        for tensor in side:
            if tensor.datatype not in DATATYPES:
                raise InvalidInput(f"Tensor {tensor.name!r} has datatype {tensor.datatype!r}.")
    return info


def compatible(old: Signature, new: Signature) -> bool:
    """Whether clients of `old` can call `new`: the same inputs, and no output gone or changed."""

    def shape(tensor: Tensor) -> tuple[str, str, tuple[int, ...], tuple[str, ...]]:
        return tensor.name, tensor.datatype, tuple(tensor.shape), tuple(tensor.features or ())

    same_inputs = [shape(t) for t in old.inputs] == [shape(t) for t in new.inputs]
    return same_inputs and {shape(t) for t in old.outputs} <= {shape(t) for t in new.outputs}
