"""MLflow's scoring protocol: the bodies of `/invocations` to arrays, arrays to its answers.

One of `dataframe_split`, `dataframe_records`, `instances` and `inputs` as JSON, or CSV with a
header. Columns are found by name, for a matrix by its feature names; columns that the model does
not take are passed over. A model that gives `label` and `probability` answers the labels, as
MLflow's own flavours do; `params.outputs` names others.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import msgspec
import numpy as np

from modelfleet_worker.oip import BadRequest, Decoded
from modelfleet_worker.wire.signature import Array, Signature, TensorSpec

VERB = "invocations"
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_CODES = {
    400: "BAD_REQUEST",
    404: "RESOURCE_DOES_NOT_EXIST",
    413: "BAD_REQUEST",
    415: "BAD_REQUEST",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_MAX_CELLS = 1 << 24
"""Values of a request, missing ones included: those take no room in its body, but in memory."""
_BOOLS = {"true": True, "1": True, "false": False, "0": False}
Columns = Mapping[str, Sequence[Any]]


class _Split(msgspec.Struct):
    data: list[list[Any]]
    columns: Optional[list[Union[str, int]]] = None
    index: Any = None


class _Params(msgspec.Struct):
    outputs: Optional[list[str]] = None


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    dataframe_split: Optional[_Split] = None
    dataframe_records: Optional[list[dict[str, Any]]] = None
    instances: Optional[list[Any]] = None
    inputs: Any = None
    params: Optional[_Params] = None


_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


def error_body(status: int, reason: str) -> bytes:
    """MLflow's shape of an error."""
    return _encode({"error_code": _CODES.get(status, "INTERNAL_ERROR"), "message": reason})


class Invocations:
    """The protocol for one model."""

    def __init__(self, signature: Signature, refuse_missing: bool) -> None:
        self._signature = signature
        self._refuse_missing = refuse_missing
        self._outputs = {spec.name: k for k, spec in enumerate(signature.outputs)}
        self._taken = {spec.name for spec in signature.inputs}
        self._taken.update(signature.inputs[0].features or ())

    def decode(self, body: bytes, content_type: bytes) -> Decoded:
        """The tensors of a request; BadRequest names what is wrong."""
        kind = content_type.partition(b";")[0].strip().lower()
        if kind == b"text/csv":
            return self._decoded(self._from_columns(_csv(body), texts=True), None)
        if kind not in (b"", b"application/json"):
            raise BadRequest("the Content-Type must be application/json or text/csv")
        try:
            request = _decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise BadRequest(f"not a scoring request: {error}") from error
        given = [name for name in _FORMS if getattr(request, name) is not None]
        if len(given) != 1:
            raise BadRequest(f"the body must have exactly one of {', '.join(_FORMS)}")
        outputs = request.params.outputs if request.params is not None else None
        return self._decoded(self._inputs(request), outputs)

    def encode(self, outputs: Sequence[Array], chosen: Optional[list[int]]) -> bytes:
        """The JSON body of an answer."""
        named = {
            self._signature.outputs[k].name: _plain(outputs[k])
            for k in (range(len(outputs)) if chosen is None else chosen)
        }
        if chosen is None and set(named) == {"label", "probability"}:
            return _encode({"predictions": named["label"]})
        if len(named) == 1:
            return _encode({"predictions": next(iter(named.values()))})
        return _encode({"predictions": named})

    def _decoded(self, inputs: list[Array], outputs: Optional[list[str]]) -> Decoded:
        rows = {len(array) for array in inputs}
        if len(rows) != 1 or 0 in rows:
            raise BadRequest(f"all inputs must have the same number of rows, not {sorted(rows)}")
        for spec, array in zip(self._signature.inputs, inputs):
            gaps = array.dtype.kind == "f" and not np.isfinite(array).all()
            if self._refuse_missing and gaps:
                raise BadRequest(f"input {spec.name!r} holds missing values, which are refused")
        chosen = None
        if outputs:
            unknown = [name for name in outputs if name not in self._outputs]
            if unknown:
                known = ", ".join(self._outputs)
                raise BadRequest(f"unknown output {unknown[0]!r}: the outputs are {known}")
            chosen = [self._outputs[name] for name in outputs]
        return Decoded(None, rows.pop(), inputs, chosen)

    def _inputs(self, request: _Body) -> list[Array]:
        if request.dataframe_split is not None:
            return self._from_split(request.dataframe_split)
        if request.dataframe_records is not None:
            return self._from_columns(self._columns(request.dataframe_records))
        if request.instances is not None:
            if request.instances and all(isinstance(one, dict) for one in request.instances):
                return self._from_columns(self._columns(request.instances))
            return [self._only(request.instances)]
        if isinstance(request.inputs, dict):
            return self._from_columns(request.inputs)
        return [self._only(request.inputs)]

    def _columns(self, records: Sequence[dict[str, Any]]) -> Columns:
        """Rows to the columns that the model takes; what a row lacks is null."""
        names = self._taken.intersection(name for record in records for name in record)
        if len(names) * len(records) > _MAX_CELLS:
            raise BadRequest(f"{len(records)} records of {len(names)} columns are too many")
        return {name: [record.get(name) for record in records] for name in names}

    def _from_split(self, table: _Split) -> list[Array]:
        width = len(table.columns) if table.columns is not None else None
        for k, row in enumerate(table.data):
            if width is not None and len(row) != width:
                raise BadRequest(f"row {k} has {len(row)} values, there are {width} columns")
        names = None if table.columns is None else [str(name) for name in table.columns]
        if names is None or (self._signature.is_matrix and names == _numbered(names)):
            return [self._only(table.data)]
        columns = list(zip(*table.data)) or [()] * len(names)
        return self._from_columns(dict(zip(names, columns)))

    def _from_columns(self, columns: Columns, texts: bool = False) -> list[Array]:
        """texts: values are words of a CSV file."""
        read = _from_texts if texts else _array
        first = self._signature.inputs[0]
        features = first.features
        if self._signature.is_matrix and features is not None and first.name not in columns:
            _all_there(features, columns)
            return [np.column_stack([read(first, columns[name], 1) for name in features])]
        _all_there([spec.name for spec in self._signature.inputs], columns)
        return [read(spec, columns[spec.name], len(spec.shape)) for spec in self._signature.inputs]

    def _only(self, values: Any) -> Array:
        if len(self._signature.inputs) != 1:
            names = ", ".join(spec.name for spec in self._signature.inputs)
            raise BadRequest(f"the model takes named columns: {names}")
        spec = self._signature.inputs[0]
        return _array(spec, values, len(spec.shape))


def _all_there(names: Sequence[str], columns: Columns) -> None:
    missing = [name for name in names if name not in columns]
    if missing:
        raise BadRequest(f"missing column {', '.join(repr(name) for name in missing[:20])}")


def _numbered(names: Sequence[str]) -> list[str]:
    return [str(k) for k in range(len(names))]


def _csv(body: bytes) -> Columns:
    try:
        rows = list(csv.reader(io.StringIO(body.decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRequest(f"not readable as CSV: {error}") from error
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise BadRequest("the CSV needs a header and at least one row")
    names = rows[0]
    for k, row in enumerate(rows[1:], 1):
        if len(row) != len(names):
            raise BadRequest(f"row {k} has {len(row)} values, the header has {len(names)}")
    return dict(zip(names, zip(*rows[1:])))


_TYPES: dict[str, Any] = {"f": Optional[float], "i": int, "u": int, "b": bool, "O": Optional[str]}


def _array(spec: TensorSpec, values: Any, depth: int) -> Array:
    """Strict: no text for a number, no fraction for an integer."""
    wanted: Any = _TYPES[spec.dtype.kind]
    for _ in range(depth):
        wanted = list[wanted]
    try:
        plain = msgspec.convert(values, wanted)
        if spec.dtype.kind == "f":
            plain = np.array(plain, dtype=np.float64)  # None becomes NaN
        array: Array = np.array(plain, dtype=spec.dtype)
    except (msgspec.ValidationError, ValueError, OverflowError, TypeError) as error:
        raise BadRequest(f"input {spec.name!r}: {error}") from error
    inner = spec.shape[1:] if depth == len(spec.shape) else ()
    sizes = array.shape[1:]
    if array.ndim != depth or 0 in sizes or any(w not in (-1, f) for w, f in zip(inner, sizes)):
        raise BadRequest(
            f"input {spec.name!r} has the shape {list(array.shape)}, "
            f"the model takes {list(spec.shape)}"
        )
    return array


def _from_texts(spec: TensorSpec, words: Sequence[str], depth: int) -> Array:
    kind = spec.dtype.kind
    if depth != 1:
        raise BadRequest(f"input {spec.name!r} has {depth} dimensions: CSV can't hold it")
    try:
        if kind == "f":
            values: list[Any] = [float(word) if word.strip() else None for word in words]
        elif kind in "iu":
            values = [int(word) for word in words]
        elif kind == "b":
            values = [_BOOLS[word.strip().lower()] for word in words]
        else:
            values = list(words)
    except (ValueError, KeyError) as error:
        raise BadRequest(f"column {spec.name!r}: {error}") from error
    return _array(spec, values, 1)


def _plain(array: Array) -> Any:
    """Nested lists; NaN becomes null, bytes become text."""
    if array.dtype.kind != "O":
        return array.tolist()
    return np.vectorize(_text, otypes=[object])(array).tolist() if array.size else array.tolist()


def _text(value: Any) -> Optional[str]:
    if value is None or isinstance(value, str):
        return value
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
