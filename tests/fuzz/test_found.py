"""What fuzzing found, one test each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from target import Answer, Target, check

from modelfleet_worker import log

TEXTS, COLUMNS, GRID, MATRIX = 4, 6, 3, 1


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def ask(target: Target, index: int, *tensors: dict[str, Any], **more: Any) -> Answer:
    return target.infer(index, json.dumps({"inputs": tensors, **more}).encode())


def refused(answer: Answer, *words: str) -> None:
    check(answer)
    assert answer.status == 400, answer
    for word in words:
        assert word in json.loads(answer.body)["error"], answer


def test_a_column_without_a_shape(target: Target) -> None:
    refused(ask(target, COLUMNS, tensor("x0", "BYTES", [], ["a"])), "'x0' has the shape []")


@pytest.mark.parametrize("data", [[["a"], ["b", "c"]], [["a", "b"], "c"], [[], []]])
def test_texts_in_rows_of_different_lengths(target: Target, data: Any) -> None:
    """numpy makes lists of them, which no model expects."""
    good = tensor("x1", "BYTES", [2], ["a", "b"])
    refused(ask(target, COLUMNS, tensor("x0", "BYTES", [2, 1], data), good), "'x0'")


@pytest.mark.parametrize("index", [MATRIX, COLUMNS])
def test_text_that_is_no_utf_8(target: Target, index: int) -> None:
    body = b'{"inputs":[{"name":"\xff","datatype":"FP64","shape":[1,3],"data":[1,2,3]}]}'
    refused(target.infer(index, body), "not valid JSON")


def test_half_a_surrogate_pair_beside_nan(target: Target) -> None:
    body = json.dumps(
        {"inputs": [tensor("x", "FP64", [1, 3], [1, 2, float("nan")])], "id": "\ud800"}
    )
    refused(target.infer(MATRIX, body.encode()), "not valid JSON")


def test_a_shape_of_thousands_of_digits(target: Target) -> None:
    digits = b"9" * 4000
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[%s,%s,1],"data":[1]}]}'
    refused(target.infer(GRID, body % (digits, digits)), "shape")


def test_an_output_asked_for_a_hundred_thousand_times(target: Target) -> None:
    good = tensor("x", "FP64", [1, 3], [1, 2, 3])
    refused(ask(target, MATRIX, good, outputs=[{"name": "x_back"}] * 9000), "twice")


def test_an_error_does_not_repeat_the_whole_request(target: Target) -> None:
    refused(ask(target, MATRIX, tensor("y" * 150_000, "FP64", [1, 3], [1, 2, 3])), "unknown tensor")


def test_empty_records_do_not_fill_the_memory(target: Target) -> None:
    """Each is three bytes, and a value in each of a thousand columns."""
    names = {f"c{k}": 1 for k in range(5000)}
    records = b"[" + json.dumps(names).encode() + b",{}" * 40_000 + b"]"
    answer = target.infer(MATRIX, b'{"dataframe_records":' + records + b"}", verb="invocations")
    check(answer, scoring=True)
    assert answer.status == 400


def test_many_records_of_many_columns_are_refused() -> None:
    from modelfleet_worker.invocations import Invocations
    from modelfleet_worker.oip import BadRequest
    from modelfleet_worker.wire.signature import Signature, TensorSpec

    names = tuple(f"c{k}" for k in range(1000))
    signature = Signature(
        (TensorSpec("x", "FP64", (-1, 1000), names),), (TensorSpec("y", "FP64", (-1,)),)
    )
    first = json.dumps(dict.fromkeys(names, 1)).encode()
    body = b'{"dataframe_records":[' + first + b",{}" * 50_000 + b"]}"
    with pytest.raises(BadRequest, match="too many"):
        Invocations(signature, False).decode(body, b"")


def test_rows_without_columns(target: Target) -> None:
    answer = target.infer(5, b'{"instances":[[],[]]}', verb="invocations")
    check(answer, scoring=True)
    assert answer.status == 400


HEAD = b"POST /v2/models/m1/infer HTTP/1.1\r\nx-mf-version: 1\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("piece", [b"t: " + b"a" * 1000 + b"\r\n", b"x" * 1000])
def test_endless_trailers(target: Target, piece: bytes) -> None:
    answers, closed = target.feed([HEAD, b"2\r\n{}\r\n0\r\n", *[piece] * 200])
    assert [answer.status for answer in answers] in ([431], [400])
    assert closed


def test_an_endless_chunk_extension(target: Target) -> None:
    answers, closed = target.feed([HEAD, b"2;", *[b"a" * 1000] * 200])
    assert [answer.status for answer in answers] == [431]
    assert closed


def test_chunks_of_one_byte_are_no_flood(target: Target) -> None:
    body = json.dumps({"inputs": [tensor("x", "FP64", [1, 3], [1, 2, 3])]}).encode() + b" " * 99_000
    pieces = [b"1\r\n%c\r\n" % byte for byte in body] + [b"0\r\n\r\n"]
    joined = [b"".join(pieces[k : k + 100]) for k in range(0, len(pieces), 100)]
    answers, _ = target.feed([HEAD, *joined])
    assert [answer.status for answer in answers] == [200]


def test_an_error_of_a_model_may_hold_any_text(capfd: pytest.CaptureFixture[str]) -> None:
    log.failure("it failed", ValueError("\ud800"))
    assert json.loads(capfd.readouterr().err)["error"] == "ValueError: ?"
