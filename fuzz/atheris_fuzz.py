"""Coverage-guided fuzzing with atheris, in an environment of its own: `make fuzz`.

One target for each process: `decoder` (JSON bodies), `binary` (raw tensors behind them), `http`
(a connection's bytes), `scoring` (`/invocations`). Ends by itself after --seconds; what breaks an
invariant of `target.check` is printed and kept in the corpus folder as `crash-...`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["modelfleet_worker"]):
    from target import SIGNATURES, Target, check

SEEDS = {
    "decoder": [
        b'\x01{"inputs":[{"name":"x","datatype":"FP64","shape":[1,3],"data":[1,2,NaN]}],"id":"a"}',
        b'\x03{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1,2],"data":[[[1,null]]]}]}',
        b'\x04{"inputs":[{"name":"x","datatype":"BYTES","shape":[1,2],"data":[["a","b"]]}],'
        b'"outputs":[{"name":"x_back","parameters":{"binary_data":true}}]}',
    ],
    "binary": [
        b'\x05\x5f{"inputs":[{"name":"x","datatype":"INT64","shape":[1,1],"parameters":'
        b'{"binary_data_size":8}}]}12345678',
        b'\x04\x60{"inputs":[{"name":"x","datatype":"BYTES","shape":[1,2],"parameters":'
        b'{"binary_data_size":10}}]}\x01\0\0\0a\x01\0\0\0b',
    ],
    "http": [
        b"\x09POST /v2/models/m1/infer HTTP/1.1\r\nx-mf-version: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"\x20POST /v2/models/m1/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        b"2;a=b\r\n{}\r\n0\r\nx: y\r\n\r\nGET /v2 HTTP/1.1\r\nexpect: 100-continue\r\n\r\n",
    ],
    "scoring": [
        b'\x01{"dataframe_split":{"columns":["a","b","c"],"data":[[1,2,3]]}}',
        b'\x01{"dataframe_records":[{"a":1,"b":2,"c":3}],"params":{"outputs":["x_back"]}}',
        b"\x81a,b,c\n1,2,3\n",
    ],
}


def _model(byte: int) -> int:
    return sorted(SIGNATURES)[byte % len(SIGNATURES)]


def targets(target: Target) -> dict[str, Callable[[bytes], None]]:
    def decoder(data: bytes) -> None:
        check(target.infer(_model(data[0] - 1), data[1:]))

    def binary(data: bytes) -> None:
        size = str(data[1])
        check(
            target.infer(_model(data[0] - 1), data[2:], {"inference-header-content-length": size})
        )

    def http(data: bytes) -> None:
        step = data[0] or 1
        content = data[1:]
        pieces = [content[k : k + step] for k in range(0, len(content), step)]
        for answer in target.feed(pieces)[0]:
            check(answer, anywhere=True)

    def scoring(data: bytes) -> None:
        kind = {"content-type": "text/csv"} if data[0] & 0x80 else {}
        found = target.infer(_model((data[0] & 0x7F) - 1), data[1:], kind, verb="invocations")
        check(found, scoring=True)

    return {"decoder": decoder, "binary": binary, "http": http, "scoring": scoring}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(SEEDS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"))
    arguments = parser.parse_args()
    corpus = arguments.corpus / arguments.name
    corpus.mkdir(parents=True, exist_ok=True)
    for k, seed in enumerate(SEEDS[arguments.name]):
        (corpus / f"seed-{k}").write_bytes(seed)
    with tempfile.TemporaryDirectory() as folder:
        one = targets(Target(Path(folder)))[arguments.name]
        options = [
            f"-max_total_time={arguments.seconds}",
            *("-max_len=2000", "-timeout=10", "-rss_limit_mb=2000", "-print_final_stats=1"),
            f"-artifact_prefix={corpus}/",
            str(corpus),
        ]
        atheris.Setup([sys.argv[0], *options], lambda data: one(data) if len(data) > 2 else None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
