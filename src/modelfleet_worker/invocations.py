"""MLflow's scoring protocol: the bodies of `/invocations` to arrays, arrays to its answers.

One of `dataframe_split`, `dataframe_records`, `instances` and `inputs` as JSON, or CSV with a
header. Columns are found by name, for a matrix by its feature names, for one without by their
order; columns that the model does not take are passed over. JSON may hold NaN and Infinity, which
MLflow's own client writes. A model that gives `label` and `probability` answers the labels, as
MLflow's own flavours do; `params.outputs` names others. What answers a frame is answered by rows.
Parameters that the model declares are passed to it. A model that takes no rows gets the tensors of
one call.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import msgspec
import numpy as np

from modelfleet_worker import csvtable
from modelfleet_worker.cells import from_json, from_texts
from modelfleet_worker.oip import Decoded, readable, without_nan
from modelfleet_worker.runtimes.base import Habits, Own, bare
from modelfleet_worker.wire.signature import Array, Signature, TensorSpec
from modelfleet_worker.wishes import BadRequest, UnsupportedMedia, filled, read_parameters

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
_NAMES: Any = Optional[list[str]]
_MAX_CELLS = 1 << 24
"""Values of a request, missing ones included: those take no room in its body, but in memory."""
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")
Columns = Mapping[str, Sequence[Any]]


class _Split(msgspec.Struct):
    data: list[list[Any]]
    columns: Optional[list[Union[str, int]]] = None
    index: Any = None


class _Body(msgspec.Struct):
    """Other fields mean nothing to MLflow either."""

    dataframe_split: Optional[_Split] = None
    dataframe_records: Optional[list[dict[str, Any]]] = None
    instances: Any = None
    inputs: Any = None
    params: Optional[dict[str, Any]] = None


_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


def error_body(status: int, reason: str) -> bytes:
    """MLflow's shape of an error."""
    return _encode({"error_code": _CODES.get(status, "INTERNAL_ERROR"), "message": reason})


class Invocations:
    """The protocol for one model. habits: what its signature does not tell."""

    def __init__(
        self,
        signature: Signature,
        refuse_missing: bool,
        habits: Optional[Habits] = None,
        whole: bool = False,
    ) -> None:
        """whole: the model takes no rows."""
        self._calls = signature.inputs if whole else None
        if whole:
            signature = bare(signature)
        self._signature = signature
        self._refuse_missing = refuse_missing
        self._habits = habits or Habits()
        self._parameters = {one.name: one for one in self._habits.parameters}
        self._optional = any(spec.optional for spec in signature.inputs)
        self._outputs = {spec.name: k for k, spec in enumerate(signature.outputs)}
        self._taken = {spec.name for spec in signature.inputs}
        self._taken.update(signature.inputs[0].features or ())
        first = signature.inputs[0]
        self._by_order = signature.is_matrix and first.features is None
        self._features = [
            TensorSpec(name, first.datatype, (-1,))
            for name in (first.features if signature.is_matrix else None) or ()
        ]

    def decode(self, body: bytes, content_type: bytes) -> Decoded:
        """The tensors of a request; BadRequest names what is wrong."""
        kind, _, parameters = content_type.lower().partition(b";")
        kind = kind.strip()
        if parameters:
            _check_charset(parameters)
        if kind == b"text/csv":
            try:
                names, columns = csvtable.parse(body)
            except ValueError as error:
                raise BadRequest(str(error)) from error
            return self._decoded(self._from_named(names, columns, texts=True), None, None)
        if kind not in (b"", b"application/json"):
            raise UnsupportedMedia("the Content-Type must be application/json or text/csv")
        request = _read(body)
        given = [name for name in _FORMS if getattr(request, name) is not None]
        if len(given) != 1:
            raise BadRequest(f"the body must have exactly one of {', '.join(_FORMS)}")
        outputs = params = None
        if request.params is not None:
            outputs, params = self._wanted(request.params)
        return self._decoded(self._inputs(request), outputs, params)

    def encode(self, outputs: Sequence[Array], chosen: Optional[list[int]]) -> bytes:
        """The JSON body of an answer."""
        named = {
            self._signature.outputs[k].name: _plain(outputs[k])
            for k in (range(len(outputs)) if chosen is None else chosen)
        }
        for name in self._habits.structured:
            if name in named:
                named[name] = [None if one is None else json.loads(one) for one in named[name]]
        if self._habits.columns:
            return _encode({"predictions": _records(self._habits.columns, named)})
        if chosen is None and set(named) == {"label", "probability"}:
            return _encode({"predictions": named["label"]})
        if len(named) == 1 and not self._habits.named:
            return _encode({"predictions": next(iter(named.values()))})
        return _encode({"predictions": named})

    def _decoded(
        self,
        found: Sequence[Optional[Array]],
        outputs: Optional[list[str]],
        params: Optional[dict[str, Any]],
    ) -> Decoded:
        own = None if params is None else Own(params)
        inputs = [array for array in found if array is not None]
        if len(inputs) < len(found):
            inputs, absent = filled(self._signature.inputs, found, "column")
            own = Own(params, absent)
        rows = {len(array) for array in inputs}
        if self._calls is not None:
            inputs, own = self._one_call(inputs), Own(params, bare=True)
            rows = {1}
        if rows == {0}:
            raise BadRequest("there are no rows")
        if len(rows) != 1:
            raise BadRequest(f"all inputs must have the same number of rows, not {sorted(rows)}")
        for spec, array in zip(self._signature.inputs, inputs):
            gaps = array.dtype.kind == "f" and not np.isfinite(array).all()
            if self._refuse_missing and gaps and not spec.optional:
                raise BadRequest(f"input {spec.name!r} holds missing values, which are refused")
        chosen = None
        if outputs:
            unknown = [name for name in outputs if name not in self._outputs]
            if unknown:
                known = ", ".join(self._outputs)
                raise BadRequest(f"unknown output {unknown[0]!r}: the outputs are {known}")
            chosen = [self._outputs[name] for name in outputs]
        return Decoded(None, rows.pop(), inputs, chosen, own=own)

    def _one_call(self, inputs: Sequence[Array]) -> list[Array]:
        """Its tensors with a dimension for the rows, of which it is one."""
        assert self._calls is not None
        return [
            array.reshape(1, *array.shape) if len(spec.shape) > 1 else self._scalar(spec, array)
            for spec, array in zip(self._calls, inputs)
        ]

    @staticmethod
    def _scalar(spec: TensorSpec, array: Array) -> Array:
        if array.size != 1:
            raise BadRequest(f"input {spec.name!r} is a single value")
        return array.reshape(1)

    def _wanted(
        self, params: dict[str, Any]
    ) -> tuple[Optional[list[str]], Optional[dict[str, Any]]]:
        """Names of the outputs that are asked for, and values for parameters of the model."""
        known = {name: value for name, value in params.items() if name in self._parameters}
        unknown = [name for name in params if name not in known and name != "outputs"]
        if unknown and self._parameters:  # of a model without any, MLflow passes them over
            has = ", ".join(map(repr, self._parameters))
            raise BadRequest(f"unknown parameter {unknown[0]!r}: the model has {has}")
        given = read_parameters(self._parameters, known) if known else None
        if "outputs" in known:
            return None, given
        try:
            wanted: Optional[list[str]] = msgspec.convert(params.get("outputs"), _NAMES)
        except msgspec.ValidationError as error:
            raise BadRequest(f"params.outputs: {error}") from error
        return wanted, given

    def _inputs(self, request: _Body) -> Sequence[Optional[Array]]:
        if request.dataframe_split is not None:
            return self._from_split(request.dataframe_split)
        if request.dataframe_records is not None:
            return self._from_records(request.dataframe_records)
        given = request.inputs if request.instances is None else request.instances
        if isinstance(given, dict):
            if self._calls is not None or not any(isinstance(v, list) for v in given.values()):
                given = {n: v if isinstance(v, list) else [v] for n, v in given.items()}  # one row
            return self._from_columns(given)
        if isinstance(given, list) and given and all(isinstance(one, dict) for one in given):
            return self._from_records(given)
        return [self._only(given)]

    def _from_records(self, records: Sequence[dict[str, Any]]) -> Sequence[Optional[Array]]:
        """Rows to the columns that the model takes; what a row lacks is null."""
        if self._by_order and records and self._taken.isdisjoint(records[0]):
            names = list(records[0])
            for k, record in enumerate(records):
                for name in names:
                    if name not in record:
                        raise BadRequest(f"row {k} has no {name!r}, which row 0 has")
        else:
            names = list(self._taken.intersection(name for one in records for name in one))
        if len(names) * len(records) > _MAX_CELLS:
            raise BadRequest(f"{len(records)} records of {len(names)} columns are too many")
        return self._from_named(names, [[one.get(name) for one in records] for name in names])

    def _from_split(self, table: _Split) -> Sequence[Optional[Array]]:
        width = len(table.columns) if table.columns is not None else None
        for k, row in enumerate(table.data):
            if width is not None and len(row) != width:
                raise BadRequest(f"row {k} has {len(row)} values, there are {width} columns")
        names = None if table.columns is None else [str(name) for name in table.columns]
        if names is None or (self._signature.is_matrix and names == _numbered(names)):
            return [self._only(table.data)]
        return self._from_named(names, list(zip(*table.data)) or [()] * len(names))

    def _from_named(
        self, names: Sequence[str], columns: Sequence[Sequence[Any]], texts: bool = False
    ) -> Sequence[Optional[Array]]:
        """texts: values are words of a CSV file."""
        if len(set(names)) < len(names):
            counts = Counter(name for name in names if name in self._taken)
            for name, count in counts.most_common(1):
                if count > 1:
                    raise BadRequest(f"column {name!r} is given twice")
        if self._by_order and self._taken.isdisjoint(names):
            return [self._in_order(names, columns, texts)]
        return self._from_columns(dict(zip(names, columns)), texts)

    def _in_order(
        self, names: Sequence[str], columns: Sequence[Sequence[Any]], texts: bool
    ) -> Array:
        """A matrix whose columns have no names of their own."""
        spec = self._signature.inputs[0]
        if not names or spec.shape[1] not in (-1, len(names)):
            raise BadRequest(f"there are {len(names)} columns, the model takes {spec.shape[1]}")
        numbered = _numbered(names)
        if list(names) != numbered and sorted(names) == sorted(numbered):
            raise BadRequest("the columns are numbered, but not in their order")
        specs = [TensorSpec(name, spec.datatype, (-1,)) for name in names]
        return _stacked(specs, columns, texts)

    def _from_columns(self, columns: Columns, texts: bool = False) -> Sequence[Optional[Array]]:
        """texts: values are words of a CSV file."""
        inputs = self._signature.inputs
        if self._features and inputs[0].name not in columns:
            names = [spec.name for spec in self._features]
            _all_there(names, columns)
            return [_stacked(self._features, [columns[name] for name in names], texts)]
        read = from_texts if texts else from_json
        if self._optional:
            return [
                read(spec, columns[spec.name], len(spec.shape)) if spec.name in columns else None
                for spec in inputs
            ]
        _all_there([spec.name for spec in inputs], columns)
        return [read(spec, columns[spec.name], len(spec.shape)) for spec in inputs]

    def _only(self, values: Any) -> Array:
        if len(self._signature.inputs) != 1:
            names = ", ".join(spec.name for spec in self._signature.inputs)
            raise BadRequest(f"the model takes named columns: {names}")
        spec = self._signature.inputs[0]
        return from_json(spec, values, len(spec.shape))


def _stacked(specs: Sequence[TensorSpec], columns: Sequence[Any], texts: bool) -> Array:
    """A matrix of those columns. texts: of words."""
    read = from_texts if texts else from_json
    arrays = [read(spec, column, 1) for spec, column in zip(specs, columns)]
    sizes = {len(array) for array in arrays}
    if len(sizes) > 1:
        raise BadRequest(f"all columns must have the same number of rows, not {sorted(sizes)}")
    return np.column_stack(arrays)


def _all_there(names: Sequence[str], columns: Columns) -> None:
    missing = [name for name in names if name not in columns]
    if missing:
        raise BadRequest(f"missing column {', '.join(repr(name) for name in missing[:20])}")


def _numbered(names: Sequence[str]) -> list[str]:
    return [str(k) for k in range(len(names))]


def _check_charset(parameters: bytes) -> None:
    """Those of a Content-Type, in lower case."""
    for one in parameters.split(b";"):
        name, _, value = one.strip().partition(b"=")
        if name == b"charset" and value.strip(b'"') not in _CHARSETS:
            raise UnsupportedMedia("the body must be UTF-8")


def _read(body: bytes) -> _Body:
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"not a scoring request: {error}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        plain = without_nan(body)
        if plain is None:
            raise BadRequest(f"not a scoring request: {error}") from error
    try:
        return msgspec.convert(plain, _Body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"not a scoring request: {error}") from error


def _records(columns: Sequence[str], named: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows by the names of the frame's columns, which an output alone has lost."""
    names = list(columns) if len(columns) == 1 else list(named)
    return [dict(zip(names, row)) for row in zip(*named.values())]


def _plain(array: Array) -> Any:
    """Nested lists; NaN becomes null, bytes become text."""
    if array.dtype.kind != "O" or not array.size:
        return array.tolist()
    texts = np.empty(array.size, dtype=object)
    texts[:] = [readable(value) for value in array.ravel().tolist()]
    return texts.reshape(array.shape).tolist()
