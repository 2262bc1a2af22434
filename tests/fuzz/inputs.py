"""Bodies that are nearly right. MODELFLEET_FUZZ=5000 tries that many of each instead of a few."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from target import SIGNATURES

from modelfleet_worker.wire.signature import DTYPES, Signature

_LONG = int(os.environ.get("MODELFLEET_FUZZ", "0"))
fuzz = settings(
    max_examples=_LONG or 150,
    deadline=None,
    derandomize=not _LONG,
    suppress_health_check=list(HealthCheck),
)

integers = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400]),
)
floats = st.one_of(st.floats(), st.sampled_from([1e308, -1e308, 5e-324]))
texts = st.text(st.characters(), max_size=12)  # halves of surrogate pairs, too
scalars = st.one_of(st.none(), st.booleans(), integers, floats, texts)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


def good_value(datatype: str) -> st.SearchStrategy[Any]:
    kind = DTYPES[datatype].kind
    if kind == "b":
        return st.booleans()
    if kind == "f":
        return st.one_of(st.integers(-5, 5), st.floats(-100, 100), st.none())
    if kind == "O":
        return st.one_of(st.text(max_size=5), st.none())
    return st.integers(0, 100)


@st.composite
def nested(draw: st.DrawFn, shape: list[int], value: st.SearchStrategy[Any]) -> Any:
    if not shape:
        return draw(value)
    return [draw(nested(shape[1:], value)) for _ in range(shape[0])]


@st.composite
def good_tensors(draw: st.DrawFn, signature: Signature) -> list[dict[str, Any]]:
    rows = draw(st.integers(1, 3))
    made = []
    for spec in signature.inputs:
        shape = [rows, *(draw(st.integers(1, 3)) if n < 0 else n for n in spec.shape[1:])]
        data = draw(nested(shape, good_value(spec.datatype)))
        made.append({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data})
    return made


shapes = st.lists(integers, max_size=5)
placed = st.one_of(anything, st.fixed_dictionaries({"binary_data_size": integers | scalars}))
wanted = st.one_of(
    anything,
    st.lists(
        st.fixed_dictionaries(
            {"name": st.sampled_from(["x_back", "fp64_back", "bytes_back", "no"])},
            optional={"parameters": st.fixed_dictionaries({"binary_data": st.booleans()})},
        ),
        max_size=3,
    ),
)


@st.composite
def requests(draw: st.DrawFn, index: int) -> dict[str, Any]:
    """A good request of that model with up to three changes."""
    tensors = draw(good_tensors(SIGNATURES[index]))
    body: dict[str, Any] = {"inputs": tensors}
    for _ in range(draw(st.integers(0, 3))):
        tensor = draw(st.sampled_from(tensors)) if tensors else {}
        change = draw(st.integers(0, 10))
        if change == 0:
            tensor["datatype"] = draw(st.sampled_from([*DTYPES, "FP128", ""]) | anything)
        elif change == 1:
            tensor["shape"] = draw(shapes | anything)
        elif change == 2:
            tensor["data"] = draw(anything)
        elif change == 3:
            tensor["parameters"] = draw(placed)
        elif change == 4:
            tensor["name"] = draw(texts)
        elif change == 5:
            body["outputs"] = draw(wanted)
        elif change == 6:
            body["parameters"] = draw(
                st.fixed_dictionaries({"binary_data_output": st.booleans()}) | anything
            )
        elif change == 7:
            body["id"] = draw(anything)
        elif change == 8 and tensor:
            tensor.pop(draw(st.sampled_from(sorted(tensor))))
        elif change == 9:
            tensors.append(dict(tensor))
        elif tensor:
            tensors.remove(tensor)
    return body


@st.composite
def mangled(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with a few put in, left out or said twice."""
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        upto = draw(st.integers(at, min(len(content), at + 20)))
        what = draw(
            st.one_of(
                st.binary(max_size=4),
                st.just(content[at:upto] * 2),
                st.sampled_from(
                    [b"NaN", b"Infinity", b"\\ud800", b"1e999", b"[" * 2000, b"9" * 50]
                ),
            )
        )
        content = content[:at] + what + content[upto:]
    return content


@st.composite
def json_bodies(draw: st.DrawFn, index: int) -> bytes:
    plain = json.dumps(draw(requests(index)), ensure_ascii=draw(st.booleans()))
    return draw(mangled(plain.encode("utf-8", "surrogatepass")))


@st.composite
def binary_bodies(draw: st.DrawFn, index: int) -> tuple[bytes, str]:
    """A body with raw tensors behind it, and the header; each may be wrong."""
    request = draw(requests(index))
    tail = b""
    for tensor in request["inputs"]:
        if draw(st.integers(0, 3)) == 0:
            continue
        raw = draw(_raw(tensor))
        tensor.pop("data", None)
        tensor["parameters"] = {"binary_data_size": draw(st.just(len(raw)) | integers)}
        tail += raw
    head = draw(mangled(json.dumps(request).encode()))
    size = draw(st.just(str(len(head))) | st.sampled_from(["-1", "", "99999", "1e3", "\xb2", "0"]))
    return head + tail, size


@st.composite
def _raw(draw: st.DrawFn, tensor: dict[str, Any]) -> bytes:
    if tensor.get("datatype") == "BYTES":
        parts = draw(st.lists(st.binary(max_size=6), max_size=8))
        size = struct.Struct("<I")
        made = b"".join(size.pack(len(part)) + part for part in parts)
        return draw(st.just(made) | st.just(made + b"\xff\xff\xff\x7f") | mangled(made))
    return draw(st.binary(max_size=48) | st.sampled_from([bytes(n) for n in (1, 8, 24, 48, 72)]))
