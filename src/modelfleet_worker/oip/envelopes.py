"""The forms that request bodies have, and reading them: strictly, else as nearly JSON."""

from __future__ import annotations

import codecs
import json
from typing import Annotated, Any, Optional, TypeVar, Union

import msgspec

from modelfleet_worker.wishes import BadRequest

_Size = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""Larger ones can't be, and Python takes long to write them down."""
NO_SHARED_MEMORY = "this server has no extension for shared memory; send the data itself"


class _Placed(msgspec.Struct):
    """Parameters of an input."""

    binary_data_size: Optional[_Size] = None
    shared_memory_region: Any = None


class Wish(msgspec.Struct):
    """Parameters of a wanted output."""

    binary_data: bool = False
    shared_memory_region: Any = None
    classification: Any = None


class _Wishes(msgspec.Struct):
    """Parameters of a request."""

    binary_data_output: bool = False


class Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[_Size]
    data: msgspec.Raw = msgspec.Raw()
    parameters: Optional[_Placed] = None


class Loose(msgspec.Struct):
    """The same tensor, read by the standard library because it holds NaN or Infinity."""

    name: str
    datatype: str
    shape: list[_Size]
    data: Any = None
    parameters: Optional[_Placed] = None


class Output(msgspec.Struct):
    name: str
    parameters: Optional[Wish] = None


class _Request(msgspec.Struct):
    inputs: list[Tensor]
    id: Optional[str] = None
    outputs: Optional[list[Output]] = None
    parameters: Optional[_Wishes] = None


class _LooseRequest(msgspec.Struct):
    inputs: list[Loose]
    id: Optional[str] = None
    outputs: Optional[list[Output]] = None
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
    outputs: Optional[list[Output]] = None
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
    outputs: Optional[list[Output]] = None
    parameters: Optional[_Wishes] = None


class _FreeRequest(msgspec.Struct):
    """To a model that has parameters of its own."""

    inputs: list[Tensor]
    id: Optional[str] = None
    outputs: Optional[list[Output]] = None
    parameters: Optional[dict[str, Any]] = None


class _LooseFreeRequest(msgspec.Struct):
    inputs: list[Loose]
    id: Optional[str] = None
    outputs: Optional[list[Output]] = None
    parameters: Optional[dict[str, Any]] = None


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_free = msgspec.json.Decoder(_FreeRequest).decode
decode_nested = msgspec.json.Decoder(_NestedRequest).decode
decode_flat = msgspec.json.Decoder(_FlatRequest).decode
MatrixRequest = Union[_NestedRequest, _FlatRequest]
AnyRequest = Union[_Request, _LooseRequest, _FreeRequest, _LooseFreeRequest]
_LooseKind = TypeVar("_LooseKind", _LooseRequest, _LooseFreeRequest)
_encode_json = msgspec.json.Encoder().encode


def envelope(body: bytes) -> Union[_Request, _LooseRequest]:
    try:
        return _decode_request(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"not an inference request: {error}") from error
    except (ValueError, RecursionError) as error:  # of msgspec, or of text that is no UTF-8
        return _loose_envelope(body, error, _LooseRequest)


def free_envelope(body: bytes) -> Union[_FreeRequest, _LooseFreeRequest]:
    """Of a request to a model that has parameters of its own."""
    try:
        return _decode_free(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"not an inference request: {error}") from error
    except (ValueError, RecursionError) as error:
        return _loose_envelope(body, error, _LooseFreeRequest)


def check_wish(name: str, wish: Wish) -> None:
    """What would be answered otherwise than the client reads it is refused."""
    if wish.shared_memory_region is not None:
        raise BadRequest(f"output {name!r}: {NO_SHARED_MEMORY}")
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
