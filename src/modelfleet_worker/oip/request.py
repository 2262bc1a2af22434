"""Request bodies to arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Optional, Union

import msgspec
import numpy as np

from modelfleet_worker import binary
from modelfleet_worker.oip.envelopes import (
    AnyRequest,
    Loose,
    MatrixRequest,
    Output,
    Tensor,
    check_wish,
    decode_flat,
    decode_nested,
    envelope,
    free_envelope,
)
from modelfleet_worker.oip.tensors import depth_of, read_array
from modelfleet_worker.runtimes.base import Own, Parameter
from modelfleet_worker.wire.signature import Array, Signature, TensorSpec
from modelfleet_worker.wishes import BadRequest, filled, read_parameters


class Decoded(msgspec.Struct):
    """A valid request: `inputs` in signature order; `outputs` are positions, None = all;
    `raw` are the positions of those that the client wants in binary; `own`: what it asks for
    itself alone."""

    id: Optional[str]
    rows: int
    inputs: list[Array]
    outputs: Optional[list[int]]
    raw: frozenset[int] = frozenset()
    own: Optional[Own] = None


class RequestDecoder:
    """Reads request bodies against one signature."""

    def __init__(
        self,
        signature: Signature,
        refuse_missing: bool = False,
        whole: bool = False,
        parameters: Sequence[Parameter] = (),
    ) -> None:
        """whole: the model takes no rows. parameters: those of the model."""
        self._whole = whole
        self._parameters = {one.name: one for one in parameters}
        self._refuse_missing = refuse_missing
        self._inputs = signature.inputs
        self._positions = {spec.name: k for k, spec in enumerate(signature.inputs)}
        self._outputs = {spec.name: k for k, spec in enumerate(signature.outputs)}
        self._all_outputs = frozenset(self._outputs.values())
        self._misses = 0
        self._forms: list[Callable[[bytes], MatrixRequest]] = [decode_nested, decode_flat]
        spec = signature.inputs[0]
        self._matrix: Optional[TensorSpec] = (
            spec
            if signature.is_matrix and spec.dtype.kind == "f" and not (whole or parameters)
            else None
        )

    def decode(self, body: bytes, json_size: Optional[bytes] = None) -> Decoded:
        """The tensors of a request; BadRequest names what is wrong and where. json_size: the
        header of the binary extension."""
        if json_size is not None:
            return self._decode_mixed(body, json_size)
        if self._matrix is not None:
            decoded = self._decode_matrix(self._matrix, body)
            if decoded is not None:
                return decoded
        return self._decode_any(body, None)

    def _decode_mixed(self, body: bytes, json_size: bytes) -> Decoded:
        """JSON with raw tensors behind it."""
        try:
            head, tail = binary.split(body, json_size)
            decoded = self._decode_any(head, tail)
            tail.finish()
        except ValueError as error:
            raise BadRequest(str(error)) from error
        return decoded

    def _decode_any(self, body: bytes, tail: Optional[binary.Tail]) -> Decoded:
        request = envelope(body) if not self._parameters else free_envelope(body)
        bare = self._whole and self._made_whole(request.inputs)
        inputs: list[Optional[Array]] = [None] * len(self._inputs)
        for tensor in request.inputs:
            position = self._positions.get(tensor.name)
            if position is None:
                known = ", ".join(repr(name) for name in self._positions)
                raise BadRequest(f"unknown tensor {tensor.name!r}: the model's inputs are {known}")
            if inputs[position] is not None:
                raise BadRequest(f"tensor {tensor.name!r} is given twice")
            inputs[position] = read_array(
                self._inputs[position], tensor, tail, self._refuse_missing
            )
        given = [array for array in inputs if array is not None]
        own = None
        if len(given) < len(inputs):
            given, absent = filled(self._inputs, inputs, "tensor")
            own = Own(None, absent)
        if bare or self._parameters:
            own = self._own(request, own, bare)
        rows = len(given[0])
        if len(given) > 1:
            self._same_rows(given)
        chosen = None if request.outputs is None else self._chosen(request.outputs)
        return Decoded(request.id, rows, given, chosen, self._raw(request), own)

    def _own(self, request: AnyRequest, own: Optional[Own], bare: bool) -> Optional[Own]:
        """With the parameters of the model that it sets; None if there is nothing of its own."""
        given = request.parameters if isinstance(request.parameters, dict) else {}
        known = {name: value for name, value in given.items() if name in self._parameters}
        params = read_parameters(self._parameters, known) if known else None
        if own is None and params is None and not bare:
            return None
        return Own(params, own.absent if own is not None else frozenset(), bare)

    def _made_whole(self, tensors: Sequence[Union[Tensor, Loose]]) -> bool:
        """Put the dimension for the rows in front of those tensors that lack it. Was there none?"""
        bare = False
        for tensor in tensors:
            position = self._positions.get(tensor.name)
            if position is None:
                continue
            wanted, shape = self._inputs[position].shape[1:], tensor.shape
            if len(shape) == len(wanted) + 1:
                continue  # several calls; or a single value as [1]
            if wanted and (
                len(shape) != len(wanted)
                or any(size not in (-1, found) for size, found in zip(wanted, shape))
            ):
                raise BadRequest(
                    f"tensor {tensor.name!r} has the shape {shape}, the model takes {list(wanted)}"
                )
            bare = True
            if depth_of(tensor.data) == len(wanted) and tensor.data:
                inner = tensor.data
                raw = isinstance(inner, msgspec.Raw)
                tensor.data = msgspec.Raw(b"[%b]" % bytes(inner)) if raw else [inner]
            tensor.shape = [1, *shape] if wanted else [1]
        return bare

    def _decode_matrix(self, spec: TensorSpec, body: bytes) -> Optional[Decoded]:
        """The fast path. None if anything is unusual: then the long way finds out what."""
        request = self._read_matrix(body)
        if request is None:
            self._unusual()
            return None
        try:
            (tensor,) = request.inputs
            array: Array = np.array(tensor.data, dtype=spec.dtype)
            if array.ndim == 1:
                array = array.reshape(tensor.shape)
        except (ValueError, OverflowError):
            return None
        shape = array.shape
        if (
            list(shape) != tensor.shape
            or len(shape) != 2
            or not array.size
            or tensor.name != spec.name
            or tensor.datatype != spec.datatype
            or spec.shape[0] != -1
            or spec.shape[1] not in (-1, shape[1])
            or request.outputs
        ):
            return None
        if request.parameters is not None:
            return Decoded(request.id, shape[0], [array], None, self._raw(request))
        return Decoded(request.id, shape[0], [array], None)

    def _read_matrix(self, body: bytes) -> Optional[MatrixRequest]:
        """Nested or flat, the form of the last request first."""
        for decode in self._forms:
            try:
                request = decode(body)
            except (ValueError, RecursionError):  # of msgspec, or of text that is no UTF-8
                continue
            if decode is not self._forms[0]:
                self._forms.reverse()
            return request
        return None

    def _unusual(self) -> None:
        """Clients that always send something else should not pay for the fast path for ever."""
        self._misses += 1
        if self._misses > 100:
            self._matrix = None

    def _same_rows(self, given: Sequence[Array]) -> None:
        for spec, array in zip(self._inputs, given):
            if len(array) != len(given[0]):
                first = self._inputs[0].name
                raise BadRequest(
                    f"tensor {spec.name!r} has {len(array)} rows, "
                    f"tensor {first!r} has {len(given[0])}"
                )

    def _chosen(self, outputs: list[Output]) -> Optional[list[int]]:
        for output in outputs:
            if output.name not in self._outputs:
                known = ", ".join(repr(name) for name in self._outputs)
                raise BadRequest(f"unknown output {output.name!r}: the outputs are {known}")
            if output.parameters is not None:
                check_wish(output.name, output.parameters)
        chosen = [self._outputs[output.name] for output in outputs]
        if len(set(chosen)) != len(chosen):
            raise BadRequest("an output is asked for twice")
        return chosen or None

    def _raw(self, request: Union[AnyRequest, MatrixRequest]) -> frozenset[int]:
        """Positions of the outputs that are wanted in binary."""
        if request.outputs:
            return frozenset(
                self._outputs[output.name]
                for output in request.outputs
                if output.parameters is not None and output.parameters.binary_data
            )
        wishes = request.parameters
        if wishes is None:
            return frozenset()
        wants = (
            wishes.get("binary_data_output") is True
            if isinstance(wishes, dict)
            else wishes.binary_data_output
        )
        return self._all_outputs if wants else frozenset()
