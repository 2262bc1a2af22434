"""What bad neighbours do to a good client: its p50 and p99, without and with them by turns.

A real platform, one small model, one paced client (open loop) and one kind of trouble at a time.
Trouble is bounded: all of it comes from this process's children and goes to 127.0.0.1.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import resource
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))

from running import Platform
from zoo import EXAMPLE, Linear

MODEL = "good"
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [0.1, 0.2, 0.3]}]}
).encode()


def head(key: str, *lines: str, path: str = f"/v2/models/{MODEL}/infer") -> bytes:
    known = [f"POST {path} HTTP/1.1", "host: fleet", f"authorization: Bearer {key}", *lines]
    return "\r\n".join(known).encode() + b"\r\n\r\n"


def measure(port: int, key: str, seconds: float, rate: float) -> list[float]:
    """Milliseconds of each request of one client that asks `rate` times a second, whether or not
    the last answer was slow."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    sent = {"authorization": f"Bearer {key}"}
    found: list[float] = []
    began = time.perf_counter()
    for k in range(int(seconds * rate)):
        due = began + k / rate
        time.sleep(max(due - time.perf_counter(), 0))
        connection.request("POST", f"/v2/models/{MODEL}/infer", BODY, sent)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"the good client got {answer.status}")
        found.append((time.perf_counter() - due) * 1e3)
    connection.close()
    return found


_UNDER_WAY = multiprocessing.Event()


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def idle(port: int, key: str) -> None:
    crowd = [_connect(port) for _ in range(10_000)]
    _UNDER_WAY.set()
    time.sleep(600)
    del crowd


def slow_headers(port: int, key: str) -> None:
    _drip(port, head(key, "content-length: 1000")[:-2], b"x: y\r\n")


def slow_bodies(port: int, key: str) -> None:
    _drip(port, head(key, "content-length: 100000"), b" ")


def _drip(port: int, start: bytes, drop: bytes) -> None:
    """200 connections that send a little every second, made anew when they are cut."""
    crowd: list[socket.socket | None] = [None] * 200
    while True:
        for k, one in enumerate(crowd):
            try:
                if one is None:
                    crowd[k] = one = _connect(port)
                    one.sendall(start)
                one.sendall(drop)
            except OSError:
                crowd[k] = None
        _UNDER_WAY.set()
        time.sleep(1.0)


def floods(port: int, key: str) -> None:
    """Fifty heads of 100 kB and fifty of 200 headers a second."""
    large = head(key, "x: " + "a" * 100_000)
    many = head(key, *(f"x-{k}: y" for k in range(200)))
    _shots(port, [large, many], 100)


def malformed(port: int, key: str) -> None:
    bodies = [BODY[:-3], BODY.replace(b"[1, 3]", b"[9223372036854775807, 3]"), b"[" * 20_000]
    _shots(port, [head(key, f"content-length: {len(b)}") + b for b in bodies], 100)


def smuggling(port: int, key: str) -> None:
    lines = ("content-length: 4", "transfer-encoding: chunked")
    _shots(port, [head(key, *lines) + b"0\r\n\r\n" + head(key, "content-length: 0")], 100)


def quitters(port: int, key: str) -> None:
    _shots(port, [head(key, f"content-length: {len(BODY)}") + BODY], 100, read=False)


def large(port: int, key: str) -> None:
    """A body of 20 MB each second: more than may be."""
    _shots(port, [head(key, "content-length: 20000000") + b" " * 20_000_000], 1)


def _shots(port: int, contents: list[bytes], rate: float, read: bool = True) -> None:
    k = 0
    _UNDER_WAY.set()
    while True:
        with contextlib.suppress(OSError), _connect(port) as one:
            one.sendall(contents[k % len(contents)])
            if read:
                one.recv(1 << 16)
        k += 1
        time.sleep(1 / rate)


TROUBLE: dict[str, Callable[[int, str], None]] = {
    "10,000 idle connections": idle,
    "200 slow headers": slow_headers,
    "200 slow bodies": slow_bodies,
    "100 header floods/s": floods,
    "100 malformed bodies/s": malformed,
    "100 smuggling attempts/s": smuggling,
    "100 quitters/s": quitters,
    "1 body of 20 MB/s": large,
}


def row(name: str, before: list[float], during: list[float]) -> dict[str, Any]:
    def p(values: list[float], share: float) -> float:
        return sorted(values)[int(len(values) * share)]

    return {
        "trouble": name,
        "p50_before": statistics.median(before),
        "p50": statistics.median(during),
        "p99_before": p(before, 0.99),
        "p99": p(during, 0.99),
        "change": p(during, 0.99) / p(before, 0.99) - 1,
    }


@contextlib.contextmanager
def in_trouble(
    name: str, trouble: Callable[[int, str], None], port: int, key: str
) -> Iterator[None]:
    child = multiprocessing.Process(target=trouble, args=(port, key), daemon=True)
    _UNDER_WAY.clear()
    child.start()
    if not _UNDER_WAY.wait(60):
        raise SystemExit(f"{name}: it did not begin within a minute")
    time.sleep(2)
    yield
    child.kill()
    child.join()
    time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=4, help="without and with each trouble")
    parser.add_argument("--rate", type=float, default=300.0, help="of the good client, per second")
    parser.add_argument("--only", default="", help="troubles whose names hold this")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    platform = Platform()
    found = []
    try:
        platform.up()
        platform.serve(MODEL, Linear(), EXAMPLE)
        port = platform.ports()["gateway"]
        measure(port, platform.key, 3, arguments.rate)
        for name, trouble in TROUBLE.items():
            if arguments.only not in name:
                continue
            before: list[float] = []
            during: list[float] = []
            for _ in range(arguments.turns):
                before += measure(port, platform.key, arguments.seconds, arguments.rate)
                with in_trouble(name, trouble, port, platform.key):
                    during += measure(port, platform.key, arguments.seconds, arguments.rate)
            found.append(row(name, before, during))
            if not arguments.json:
                one = found[-1]
                sys.stdout.write(
                    f"{name:26} p50 {one['p50_before']:6.2f} -> {one['p50']:6.2f} ms   "
                    f"p99 {one['p99_before']:6.2f} -> {one['p99']:6.2f} ms   "
                    f"{one['change']:+7.0%}\n"
                )
                sys.stdout.flush()
        if arguments.json:
            sys.stdout.write(json.dumps(found) + "\n")
    finally:
        platform.end()


if __name__ == "__main__":
    main()
