"""What thousands of endpoints cost the gateway: a change of one route, memory, CPU of a request.

Envoy runs as in production (keys, scopes, body limits, retries) before a second Envoy that answers
at once. A change is measured from the call of `GatewayFiles.write` until Envoy acknowledged it.
Needs `wrk` (Debian: apt-get install wrk).

    python bench/gateway.py                          a table
    python bench/gateway.py --endpoints 100 1000     only these
    python bench/gateway.py --json                   one JSON document
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import psutil

from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.serving.gateway import (
    EndpointRoutes,
    GatewayConfig,
    GatewayFiles,
    PoolAddress,
    Target,
    command,
    envoy_binary,
)
from modelfleet.serving.gateway.routes import RouteRenderer

INPUT = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [1, 2, 3, 4]}
BODY = json.dumps({"inputs": [INPUT]}).replace('"', '\\"')
CHANGES = 7
CONNECTIONS = 16


@dataclass
class Result:
    endpoints: int
    render_all_ms: float
    render_change_ms: float
    """after a change of one endpoint"""
    change_ms: float
    """of one endpoint's version, until Envoy acknowledged it; median"""
    change_max_ms: float
    change_cpu_ms: float
    """of Envoy and of ourselves"""
    routes_kb: int
    memory_mb: int
    requests_per_second: int
    cpu_us: float
    """of Envoy, per request; median of three rounds"""
    p50_ms: float
    p99_ms: float
    failed: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def upstream(path: Path) -> dict[str, object]:
    """An Envoy that answers at once."""
    types = "type.googleapis.com/envoy.extensions.filters"
    answer = {"status": 200, "body": {"inline_string": '{"outputs":[]}'}}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "upstream",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{types}.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": answer}],
                }
            ]
        },
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    address = {"pipe": {"path": str(path)}}
    listener = {"name": "upstream", "address": address, "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener]}}


@contextmanager
def running(home: Path) -> Iterator[tuple[GatewayFiles, SigningKey, int, psutil.Process, str]]:
    layout = Layout(home)
    key, files, port = SigningKey(layout), GatewayFiles(layout), free_port()
    layout.sockets.mkdir(parents=True, exist_ok=True)
    worker = layout.sockets / "worker.sock"
    config = home / "upstream.json"
    config.write_text(json.dumps(upstream(worker)))
    files.bootstrap(
        host="127.0.0.1",
        port=port,
        control_plane=("127.0.0.1", free_port()),
        jwks=layout.jwks.read_text(),
    )
    quiet = ["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"]
    behind = subprocess.Popen([str(envoy_binary()), "--config-path", str(config), *quiet])
    envoy = subprocess.Popen([*command(layout.gateway)[:-1], "error"])
    try:
        until = time.monotonic() + 20
        while not worker.exists() or files.statistics() is None:
            assert time.monotonic() < until, "Envoy does not start"
            time.sleep(0.02)
        yield files, key, port, psutil.Process(envoy.pid), str(worker)
    finally:
        for process in (envoy, behind):
            process.send_signal(signal.SIGKILL)
            process.wait()


def endpoints(count: int, changed: int = 0) -> tuple[EndpointRoutes, ...]:
    """One version each; that of the first is another one for each value of `changed`."""
    return tuple(
        EndpointRoutes(
            f"model-{n}", (Target(1000 + n + changed * (n == 0), "1.2.0", 3, "p", 10_000),)
        )
        for n in range(count)
    )


def measure(count: int) -> Result:
    with (
        tempfile.TemporaryDirectory(prefix="mfb-") as folder,
        running(Path(folder)) as (files, key, port, envoy, worker),
    ):
        pool = (PoolAddress("p", (worker,)),)
        renderer = RouteRenderer()
        started = time.perf_counter()
        content = msgspec.json.encode(renderer.render(GatewayConfig(1, endpoints(count), pool), ""))
        whole = time.perf_counter() - started
        started = time.perf_counter()
        renderer.render(GatewayConfig(2, endpoints(count, 1), pool), "")
        part = time.perf_counter() - started
        files.write(GatewayConfig(1, endpoints(count), pool))
        waits = []
        busy = time.process_time() + sum(envoy.cpu_times()[:2])
        for revision in range(2, 2 + CHANGES):
            config = GatewayConfig(revision, endpoints(count, revision), pool)
            started = time.perf_counter()
            files.write(config)
            waits.append(time.perf_counter() - started)
            assert files.acknowledged() == revision
        busy = time.process_time() + sum(envoy.cpu_times()[:2]) - busy
        middle = f"model-{count // 2}"
        token, _ = key.issue("bench", "bench", models=(middle,), seconds=600)
        rounds = [request(port, middle, token, envoy) for _ in range(3)]
        middle_of = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        return Result(
            endpoints=count,
            render_all_ms=round(whole * 1e3, 1),
            render_change_ms=round(part * 1e3, 1),
            change_ms=round(statistics.median(waits) * 1e3, 1),
            change_max_ms=round(max(waits) * 1e3, 1),
            change_cpu_ms=round(busy / CHANGES * 1e3, 1),
            routes_kb=len(content) // 1024,
            memory_mb=envoy.memory_info().rss >> 20,
            requests_per_second=round(middle_of["rps"]),
            cpu_us=round(middle_of["cpu"], 1),
            p50_ms=middle_of["p50"],
            p99_ms=middle_of["p99"],
            failed=round(sum(one["failed"] for one in rounds)),
        )


def request(port: int, name: str, token: str, envoy: psutil.Process) -> dict[str, float]:
    """Three seconds of load."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "POST"\nwrk.body = "{BODY}"\n')
        script.write(f'wrk.headers["authorization"] = "Bearer {token}"\n')
        script.write(
            "done = function(s, l) io.write(string.format('%d %d %d %d\\n', s.requests, "
            "s.errors.status + s.errors.read + s.errors.timeout, l:percentile(50), "
            "l:percentile(99))) end\n"
        )
        script.flush()
        url = f"http://127.0.0.1:{port}/v2/models/{name}/infer"
        before = sum(envoy.cpu_times()[:2])
        argv = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d3s", "-s", script.name, url]
        said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
        used = sum(envoy.cpu_times()[:2]) - before
    found = re.search(r"^(\d+) (\d+) (\d+) (\d+)$", said, re.MULTILINE)
    assert found, said
    count, failed, p50, p99 = map(int, found.groups())
    return {
        "rps": count / 3,
        "failed": failed,
        "p50": p50 / 1e3,
        "p99": p99 / 1e3,
        "cpu": used / count * 1e6,
    }


def table(results: Sequence[Result]) -> str:
    rows = [asdict(one) for one in results]
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--endpoints", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results = []
    for count in given.endpoints:
        print(f"{count} endpoints ...", file=sys.stderr)
        results.append(measure(count))
    print(json.dumps([asdict(one) for one in results]) if given.json else table(results))


if __name__ == "__main__":
    main()
