"""Open Inference Protocol v2: request bodies to arrays, arrays to answers.

Strict where a guess would change a prediction: a tensor has the datatype and shape of the
signature or is refused by name. `data` may be flat or nested, always row-major. JSON has no NaN:
clients send null (or the literal NaN that many libraries write); we answer null.

A request of one matrix of numbers is read in one typed pass, straight into numpy; others take one
pass for the envelope and one typed pass per tensor; null and NaN a third. Raw tensors behind the
JSON, both ways, are the matter of `binary`.

What only some models have costs the others nothing: optional inputs, parameters of the model (those
of the request that it declares), and calls without rows, whose tensors come in the model's own
shapes, or, several calls at once, with one more dimension in front.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Optional, TypeVar, Union

import msgspec
import numpy as np

from modelfleet_worker import binary
from modelfleet_worker.runtimes.base import Own, Parameter
from modelfleet_worker.wire.signature import DTYPES, Array, Signature, TensorSpec
from modelfleet_worker.wishes import BadRequest as BadRequest
from modelfleet_worker.wishes import UnsupportedMedia as UnsupportedMedia
from modelfleet_worker.wishes import filled, read_parameters

_MAX_DEPTH = 8
_Size = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""Larger ones can't be, and Python takes long to write them down."""


_UNEQUAL = "its rows are not equally long"
_NO_SHARED_MEMORY = "this server has no extension for shared memory; send the data itself"


class _Placed(msgspec.Struct):
    """Parameters of an input."""

    binary_data_size: Optional[_Size] = None
    shared_memory_region: Any = None


class _Wish(msgspec.Struct):
    """Parameters of a wanted output."""

    binary_data: bool = False
    shared_memory_region: Any = None
    classification: Any = None


class _Wishes(msgspec.Struct):
    """Parameters of a request."""

    binary_data_output: bool = False


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[_Size]
    data: msgspec.Raw = msgspec.Raw()
    parameters: Optional[_Placed] = None


class _Loose(msgspec.Struct):
    """The same tensor, read by the standard library because it holds NaN or Infinity."""

    name: str
    datatype: str
    shape: list[_Size]
    data: Any = None
    parameters: Optional[_Placed] = None


class _Output(msgspec.Struct):
    name: str
    parameters: Optional[_Wish] = None


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: Optional[str] = None
    outputs: Optional[list[_Output]] = None
    parameters: Optional[_Wishes] = None


class _LooseRequest(msgspec.Struct):
    inputs: list[_Loose]
    id: Optional[str] = None
    outputs: Optional[list[_Output]] = None
    parameters: Optional[_Wishes] = None


class _Nested(msgspec.Struct):
    """A matrix of numbers, row by row."""

    name: str
    datatype: str
    shape: list[int]
    data: list[list[float]]


class _NestedRequest(msgspec.Struct):
    inputs: list[_Nested]
    id: Optional[str] = None
    outputs: Optional[list[_Output]] = None
    parameters: Optional[_Wishes] = None


class _Flat(msgspec.Struct):
    """The same, all rows in one array."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class _FlatRequest(msgspec.Struct):
    inputs: list[_Flat]
    id: Optional[str] = None
    outputs: Optional[list[_Output]] = None
    parameters: Optional[_Wishes] = None


class _FreeRequest(msgspec.Struct):
    """To a model that has parameters of its own."""

    inputs: list[_Tensor]
    id: Optional[str] = None
    outputs: Optional[list[_Output]] = None
    parameters: Optional[dict[str, Any]] = None


class _LooseFreeRequest(msgspec.Struct):
    inputs: list[_Loose]
    id: Optional[str] = None
    outputs: Optional[list[_Output]] = None
    parameters: Optional[dict[str, Any]] = None


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


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_free = msgspec.json.Decoder(_FreeRequest).decode
_decode_nested = msgspec.json.Decoder(_NestedRequest).decode
_decode_flat = msgspec.json.Decoder(_FlatRequest).decode
_MatrixRequest = Union[_NestedRequest, _FlatRequest]
_AnyRequest = Union[_Request, _LooseRequest, _FreeRequest, _LooseFreeRequest]
_LooseKind = TypeVar("_LooseKind", _LooseRequest, _LooseFreeRequest)
_encode_json = msgspec.json.Encoder().encode


def _element(datatype: str) -> Any:
    """The JSON type of one element."""
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        return float
    if dtype.kind == "O":
        return str
    if dtype.kind == "b":
        return bool
    if dtype == np.uint64:
        return Annotated[int, msgspec.Meta(ge=0)]  # above 2^64 numpy refuses
    info = np.iinfo(dtype)
    return Annotated[int, msgspec.Meta(ge=int(info.min), le=int(info.max))]


class _Reader:
    """Typed decoders for the data of one datatype at one depth of nesting."""

    def __init__(self, datatype: str, depth: int) -> None:
        element = _element(datatype)
        self.nullable = DTYPES[datatype].kind in "fO"
        self._strict_type = _nested(element, depth)
        self._null_type = _nested(Optional[element], depth) if self.nullable else None
        self._strict = msgspec.json.Decoder(self._strict_type).decode
        self._null = msgspec.json.Decoder(self._null_type).decode if self.nullable else None

    def read(self, data: Union[msgspec.Raw, list[Any]]) -> tuple[list[Any], bool]:
        """The values, and whether there may be null or NaN among them."""
        if isinstance(data, list):
            return msgspec.convert(data, type=self._null_type or self._strict_type), True
        try:
            return self._strict(data), False
        except msgspec.ValidationError:
            if self._null is None or b"null" not in bytes(data):
                raise
            return self._null(data), True


def _nested(element: Any, depth: int) -> Any:
    for _ in range(depth):
        element = list[element]
    return element


_readers = {
    datatype: [_Reader(datatype, depth) for depth in range(1, _MAX_DEPTH + 1)]
    for datatype in DTYPES
}


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
        self._forms: list[Callable[[bytes], _MatrixRequest]] = [_decode_nested, _decode_flat]
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
        request = _envelope(body) if not self._parameters else _free_envelope(body)
        bare = self._whole and self._made_whole(request.inputs)
        inputs: list[Optional[Array]] = [None] * len(self._inputs)
        for tensor in request.inputs:
            position = self._positions.get(tensor.name)
            if position is None:
                known = ", ".join(repr(name) for name in self._positions)
                raise BadRequest(f"unknown tensor {tensor.name!r}: the model's inputs are {known}")
            if inputs[position] is not None:
                raise BadRequest(f"tensor {tensor.name!r} is given twice")
            inputs[position] = _array(self._inputs[position], tensor, tail, self._refuse_missing)
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

    def _own(self, request: _AnyRequest, own: Optional[Own], bare: bool) -> Optional[Own]:
        """With the parameters of the model that it sets; None if there is nothing of its own."""
        given = request.parameters if isinstance(request.parameters, dict) else {}
        known = {name: value for name, value in given.items() if name in self._parameters}
        params = read_parameters(self._parameters, known) if known else None
        if own is None and params is None and not bare:
            return None
        return Own(params, own.absent if own is not None else frozenset(), bare)

    def _made_whole(self, tensors: Sequence[Union[_Tensor, _Loose]]) -> bool:
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
            if _depth(tensor.data) == len(wanted) and tensor.data:
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

    def _read_matrix(self, body: bytes) -> Optional[_MatrixRequest]:
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

    def _chosen(self, outputs: list[_Output]) -> Optional[list[int]]:
        for output in outputs:
            if output.name not in self._outputs:
                known = ", ".join(repr(name) for name in self._outputs)
                raise BadRequest(f"unknown output {output.name!r}: the outputs are {known}")
            if output.parameters is not None:
                _check_wish(output.name, output.parameters)
        chosen = [self._outputs[output.name] for output in outputs]
        if len(set(chosen)) != len(chosen):
            raise BadRequest("an output is asked for twice")
        return chosen or None

    def _raw(self, request: Union[_AnyRequest, _MatrixRequest]) -> frozenset[int]:
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


def _envelope(body: bytes) -> Union[_Request, _LooseRequest]:
    try:
        return _decode_request(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"not an inference request: {error}") from error
    except (ValueError, RecursionError) as error:  # of msgspec, or of text that is no UTF-8
        return _loose_envelope(body, error, _LooseRequest)


def _free_envelope(body: bytes) -> Union[_FreeRequest, _LooseFreeRequest]:
    """Of a request to a model that has parameters of its own."""
    try:
        return _decode_free(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"not an inference request: {error}") from error
    except (ValueError, RecursionError) as error:
        return _loose_envelope(body, error, _LooseFreeRequest)


def _check_wish(name: str, wish: _Wish) -> None:
    """What would be answered otherwise than the client reads it is refused."""
    if wish.shared_memory_region is not None:
        raise BadRequest(f"output {name!r}: {_NO_SHARED_MEMORY}")
    if wish.classification is not None:
        raise BadRequest(f"output {name!r}: this server has no extension for classification")


def without_nan(body: bytes) -> Any:
    """A body that is JSON but for NaN, Infinity or a byte order mark; None if it is not."""
    if b"NaN" not in body and b"Infinity" not in body and not body.startswith(codecs.BOM_UTF8):
        return None
    try:
        plain = json.loads(body)
        if b"\\u" in body:
            _encode_json(plain)  # refuses halves of surrogate pairs, which json lets pass
    except (ValueError, RecursionError):
        return None
    return plain


def _loose_envelope(body: bytes, first: Exception, kind: type[_LooseKind]) -> _LooseKind:
    """A body that is nearly JSON; anything else gets the first error."""
    plain = without_nan(body)
    if plain is None:
        raise BadRequest(f"the body is not valid JSON: {first}") from first
    try:
        return msgspec.convert(plain, type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"not an inference request: {error}") from error


def _array(
    spec: TensorSpec,
    tensor: Union[_Tensor, _Loose],
    tail: Optional[binary.Tail],
    refuse_missing: bool,
) -> Array:
    if tensor.datatype != spec.datatype:
        raise BadRequest(
            f"tensor {spec.name!r} has the datatype {tensor.datatype!r}, "
            f"the model takes {spec.datatype!r}"
        )
    shape = tuple(tensor.shape)
    if shape[1:] != spec.shape[1:] or not shape or shape[0] < 1 or spec.shape[0] != -1:
        _check_shape(spec, shape)
    size = None
    if tensor.parameters is not None:
        size = tensor.parameters.binary_data_size
        if tensor.parameters.shared_memory_region is not None:
            raise BadRequest(f"tensor {spec.name!r}: {_NO_SHARED_MEMORY}")
    if size is None:
        array, doubtful = _from_json(spec, shape, tensor.data)
    else:
        array, doubtful = _from_tail(spec, shape, tensor.data, size, tail), True
    if doubtful and refuse_missing and not spec.optional and _has_gaps(array):
        raise BadRequest(f"tensor {spec.name!r} holds null, NaN or infinity, which is refused")
    return array.reshape(len(array)) if array.ndim > len(spec.shape) else array


def _from_json(
    spec: TensorSpec, shape: tuple[int, ...], data: Union[msgspec.Raw, list[Any], None]
) -> tuple[Array, bool]:
    """The array, and whether there may be null or NaN in it."""
    depth = _depth(data)
    if data is None or (depth != 1 and depth != len(shape)) or depth > _MAX_DEPTH:
        raise BadRequest(
            f"tensor {spec.name!r}: data must be a flat array, or nested as deep as its shape "
            f"{list(shape)}" + ("" if depth else "; there is none")
        )
    try:
        values, doubtful = _readers[spec.datatype][depth - 1].read(data)
        array: Array = np.array(values, dtype=spec.dtype)
    except (msgspec.ValidationError, ValueError, OverflowError, TypeError) as error:
        raise BadRequest(f"tensor {spec.name!r}: {_reason(error)}") from error
    if array.ndim < depth:  # numpy keeps texts in rows of different lengths as lists
        raise BadRequest(f"tensor {spec.name!r}: {_UNEQUAL}")
    if array.shape != shape:
        array = _reshaped(spec, array, shape)
    return array, doubtful


def _from_tail(
    spec: TensorSpec,
    shape: tuple[int, ...],
    data: Union[msgspec.Raw, list[Any], None],
    size: int,
    tail: Optional[binary.Tail],
) -> Array:
    if data:
        raise BadRequest(f"tensor {spec.name!r} has both data and binary_data_size")
    if tail is None:
        raise BadRequest(
            f"tensor {spec.name!r} has binary_data_size, but the request has no header "
            "Inference-Header-Content-Length"
        )
    try:
        return binary.read(spec, shape, tail.take(size))
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"tensor {spec.name!r}: {error}") from error


def _check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    wanted = spec.shape
    if len(wanted) == 1 and len(shape) == 2 and shape[1] == 1:
        shape = shape[:1]  # a column as [N, 1], as data-frame codecs of other servers send it
    fits = len(shape) == len(wanted) and shape[0] > 0
    for size, limit in zip(shape, wanted):
        fits = fits and size > 0 and limit in (-1, size)
    if not fits:
        raise BadRequest(
            f"tensor {spec.name!r} has the shape {list(shape)}, the model takes {list(wanted)}"
            + (" with at least one row" if shape[:1] == (0,) else "")
        )


def _reshaped(spec: TensorSpec, array: Array, shape: tuple[int, ...]) -> Array:
    needed = math.prod(shape)
    if array.ndim != 1:
        raise BadRequest(
            f"tensor {spec.name!r}: its data is nested as {list(array.shape)}, "
            f"its shape says {list(shape)}"
        )
    if array.size != needed:
        few = "few" if array.size < needed else "many"
        raise BadRequest(
            f"tensor {spec.name!r}: too {few} elements: {array.size} where the shape "
            f"{list(shape)} needs {needed}"
        )
    return array.reshape(shape)


def _depth(data: Union[msgspec.Raw, list[Any], None]) -> int:
    """How many arrays deep the data begins; 0 if it is no array."""
    depth = 0
    if isinstance(data, msgspec.Raw):
        for byte in bytes(memoryview(data)[:32]):
            if byte == 0x5B:  # [
                depth += 1
            elif byte not in b" \t\r\n":
                break
        return depth
    inner: Any = data
    while isinstance(inner, list):
        depth += 1
        inner = inner[0] if inner else None
    return depth


def _has_gaps(array: Array) -> bool:
    if array.dtype.kind == "f":
        return not bool(np.isfinite(array).all())
    return array.dtype.kind == "O" and any(value is None for value in array.ravel().tolist())


def _reason(error: Exception) -> str:
    text = str(error)
    if "inhomogeneous" in text or "setting an array element" in text:
        return _UNEQUAL
    return text


class _OutTensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class _RawSize(msgspec.Struct):
    binary_data_size: int


class _RawTensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _RawSize


class _Answer(msgspec.Struct):
    model_name: str
    model_version: str
    id: str
    outputs: Sequence[Union[_OutTensor, _RawTensor]]


class AnswerEncoder:
    """Writes the answers of one version."""

    def __init__(self, signature: Signature, version: str) -> None:
        self._version = version
        self._outputs = [(spec.name, spec.datatype) for spec in signature.outputs]

    def encode(
        self, name: str, answer_id: str, outputs: Sequence[Array], chosen: Optional[list[int]]
    ) -> bytes:
        """The JSON body. name: of the endpoint that was called."""
        tensors: list[_OutTensor] = []
        for position in range(len(outputs)) if chosen is None else chosen:
            tensors.append(self._plain(position, outputs[position]))
        return _encode_json(_Answer(name, self._version, answer_id, tensors))

    def encode_mixed(
        self,
        name: str,
        answer_id: str,
        outputs: Sequence[Array],
        chosen: Optional[list[int]],
        raw: frozenset[int],
    ) -> tuple[bytes, int]:
        """JSON with the raw tensors behind it, and the size of the JSON."""
        tensors: list[Union[_OutTensor, _RawTensor]] = []
        tail: list[bytes] = []
        for position in range(len(outputs)) if chosen is None else chosen:
            if position not in raw:
                tensors.append(self._plain(position, outputs[position]))
                continue
            output, datatype = self._outputs[position]
            tail.append(binary.write(outputs[position], datatype))
            size = _RawSize(len(tail[-1]))
            tensors.append(_RawTensor(output, datatype, outputs[position].shape, size))
        head = _encode_json(_Answer(name, self._version, answer_id, tensors))
        return b"".join((head, *tail)), len(head)

    def _plain(self, position: int, array: Array) -> _OutTensor:
        output, datatype = self._outputs[position]
        flat = array.ravel().tolist()
        if datatype == "BYTES":
            flat = [readable(value) for value in flat]
        return _OutTensor(output, datatype, array.shape, flat)


def readable(value: Any) -> Optional[str]:
    """An element of a BYTES tensor as JSON has it; what is missing is null."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and value != value):
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
