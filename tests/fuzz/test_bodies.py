"""Whatever a body holds: an answer in the protocol's shape, never the server's fault."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inputs import anything, binary_bodies, fuzz, good_value, json_bodies, mangled, nested, scalars
from target import SIGNATURES, Target, check

from modelfleet_worker.wire.signature import DTYPES

MODELS = sorted(SIGNATURES)


@pytest.mark.parametrize("index", MODELS)
@fuzz
@given(data=st.data())
def test_json(target: Target, index: int, data: st.DataObject) -> None:
    check(target.infer(index, data.draw(json_bodies(index))))


@pytest.mark.parametrize("index", MODELS)
@fuzz
@given(data=st.data())
def test_json_through_a_lane(threaded: Target, index: int, data: st.DataObject) -> None:
    check(threaded.infer(index, data.draw(json_bodies(index))))


@pytest.mark.parametrize("index", MODELS)
@fuzz
@given(data=st.data())
def test_raw_tensors(target: Target, index: int, data: st.DataObject) -> None:
    body, size = data.draw(binary_bodies(index))
    check(target.infer(index, body, {"inference-header-content-length": size}))


@fuzz
@given(content=st.binary(max_size=300), size=st.integers(0, 300))
def test_random_bytes(target: Target, content: bytes, size: int) -> None:
    check(target.infer(2, content))
    check(target.infer(2, content, {"inference-header-content-length": str(size)}))


@fuzz
@given(
    data=st.data(),
    coding=st.sampled_from(["gzip", "deflate", "GZIP", "br", "identity", "gzip, gzip", ""]),
    level=st.integers(0, 9),
)
def test_compressed(target: Target, data: st.DataObject, coding: str, level: int) -> None:
    plain = data.draw(json_bodies(1))
    packed = zlib.compress(plain, level) if coding == "deflate" else gzip.compress(plain, level)
    check(target.infer(1, data.draw(mangled(packed)), {"content-encoding": coding}))


@st.composite
def scoring(draw: st.DrawFn) -> bytes:
    form = draw(
        st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs", "no"])
    )
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "x", "fp64", "bytes"]), max_size=5))
    rows = draw(nested([draw(st.integers(0, 3)), len(names)], scalars))
    table: Any = rows
    if form == "dataframe_split":
        table = {"data": rows, "columns": names}
    elif form == "dataframe_records":
        table = [dict(zip(names, row, strict=True)) for row in rows]
    elif form == "inputs":
        table = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    body = {form: draw(st.just(table) | anything)}
    if draw(st.booleans()):
        body["params"] = draw(st.just({"outputs": names}) | anything)
    return draw(mangled(json.dumps(body).encode()))


@pytest.mark.parametrize("index", MODELS)
@fuzz
@given(body=scoring())
def test_invocations(target: Target, index: int, body: bytes) -> None:
    check(target.infer(index, body, verb="invocations"), scoring=True)


@pytest.mark.parametrize("index", MODELS)
@fuzz
@given(
    lines=st.lists(
        st.sampled_from(["a,b,c", "x", "1,2,3", '"1', '"', ",,", "1_0,inf,nan", "\0,\r,1", "١,2,3"])
        | st.text(max_size=20),
        max_size=5,
    ),
    coding=st.sampled_from(["utf-8", "utf-16", "latin-1"]),
)
def test_csv(target: Target, index: int, lines: list[str], coding: str) -> None:
    body = "\n".join(lines).encode(coding, "replace")
    answer = target.infer(index, body, {"content-type": "text/csv"}, verb="invocations")
    check(answer, scoring=True)


@pytest.mark.parametrize("datatype", list(DTYPES))
@fuzz
@given(data=st.data())
def test_what_is_good_comes_back(target: Target, datatype: str, data: st.DataObject) -> None:
    """The other half: nothing good is refused by the checks."""
    tensors = []
    for spec in SIGNATURES[2].inputs:
        value = good_value(spec.datatype) if spec.datatype == datatype else st.just(1)
        one: dict[str, Any] = {"BOOL": True, "BYTES": "a"}
        if spec.datatype != datatype:
            value = st.just(one.get(spec.datatype, 1))
        tensors.append(
            {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": [2],
                "data": data.draw(nested([2], value)),
            }
        )
    answer = target.infer(2, json.dumps({"inputs": tensors}).encode())
    assert answer.status == 200, answer
    back = {o["name"]: o["data"] for o in json.loads(answer.body)["outputs"]}
    sent = next(t["data"] for t in tensors if t["datatype"] == datatype)
    if DTYPES[datatype].kind == "f":
        assert [v is None for v in back[f"{datatype.lower()}_back"]] == [v is None for v in sent]
    else:
        assert back[f"{datatype.lower()}_back"] == sent
