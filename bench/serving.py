"""Requests per second, latency and CPU of the whole path, beside the bare worker and MLServer.

The whole path has everything on: gateway, key check, prediction log, window states, metrics. All
sides run the same two scikit-learn models on the same machine in the same run, in interleaved
rounds; MLServer in an environment of its own. Needs `wrk` (Debian: apt-get install wrk).

    make bench                       a table
    make bench ARGS='--json'         one JSON document
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import psutil
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelfleet.client import Client
from modelfleet.core.layout import Layout

ROOT = Path(".bench").resolve()
MLSERVER = ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22")  # crashes with newer ones
CONNECTIONS = (1, 16, 64)


@dataclass(frozen=True)
class Side:
    name: str
    url: Callable[[str], str]
    headers: dict[str, str]
    mark: str
    """what the command lines of its processes contain"""


@dataclass
class Result:
    side: str
    model: str
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_us: float
    """of all its processes, per request"""
    memory_mb: float
    """of all its processes: resident, shared pages counted once for each"""


def train() -> dict[str, object]:
    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, :4]
    return {
        "logistic": make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y),
        "forest100": RandomForestClassifier(100, random_state=0).fit(x, y),
    }


@contextmanager
def platform(models: dict[str, object]) -> Iterator[tuple[Side, Path]]:
    home = ROOT / "home"
    shutil.rmtree(home, ignore_errors=True)
    up = subprocess.Popen(
        [sys.executable, "-m", "modelfleet.cli.main", "up", "--home", str(home)]
        + ["--port", "0", "--gateway-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert up.stdout is not None
    try:
        for line in up.stdout:
            if line.startswith("Key"):
                break
        x, _ = load_breast_cancer(return_X_y=True)
        with Client(home=home) as client:
            for name, model in models.items():
                client.register(
                    model, x[:256, :4], name=name, team="bench", reference=x[:, :4], wait=True
                )
                client.deploy(name, wait=True)
            gateway = client.gateway_url
        key = (home / "admin.key").read_text().strip()
        headers = {"authorization": f"Bearer {key}"}
        yield (
            Side(
                "modelfleet (whole path)",
                lambda name: f"{gateway}/v2/models/{name}/infer",
                headers,
                str(home),
            ),
            home,
        )
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()


@contextmanager
def bare_worker(home: Path) -> Iterator[dict[str, Side]]:
    """One worker of the same bundles, without gateway and key."""
    layout, own = Layout(home), Layout(ROOT / "bare")
    shutil.rmtree(own.home, ignore_errors=True)
    for folder in (own.desired, own.control, own.segments, own.sockets):
        folder.mkdir(parents=True, exist_ok=True)
    spec = json.loads(layout.pool("onnx").read_bytes())
    own.pool("onnx").write_text(json.dumps({**spec, "replicas": 1}))
    indexes = {one["model"]: one["index"] for one in spec["versions"]}
    port = 18_080
    worker = subprocess.Popen(
        [sys.executable, "-m", "modelfleet_worker", "--home", str(own.home), "--pool", "onnx"]
        + ["--replica", "0", "--socket", str(own.worker_socket("onnx", 0)), "--incarnation", "1"]
        + ["--control", str(own.control_block("onnx", 0)), "--tcp", f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert worker.stdout is not None
    try:
        worker.stdout.readline()
        yield {
            name: Side(
                "bare worker",
                lambda model: f"http://127.0.0.1:{port}/v2/models/{model}/infer",
                {"x-mf-version": str(index)},
                str(own.home),
            )
            for name, index in indexes.items()
        }
    finally:
        worker.terminate()
        worker.wait()


@contextmanager
def mlserver(models: dict[str, object], workers: int) -> Iterator[Side]:
    python = ROOT / "mlserver" / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "-q", str(ROOT / "mlserver")], check=True)
        subprocess.run(
            ["uv", "pip", "install", "-q", "--python", str(python), *MLSERVER], check=True
        )
    port = 18_090 + 10 * workers
    folder = ROOT / f"mlserver-{workers}"
    shutil.rmtree(folder, ignore_errors=True)
    for name, model in models.items():
        (folder / name).mkdir(parents=True)
        joblib.dump(model, folder / name / "model.joblib")
        settings = {"name": name, "implementation": "mlserver_sklearn.SKLearnModel"}
        settings |= {"parameters": {"uri": "./model.joblib"}}
        (folder / name / "model-settings.json").write_text(json.dumps(settings))
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    shared = {"debug": False, "parallel_workers": workers, "metrics_dir": str(folder)}
    (folder / "settings.json").write_text(json.dumps(ports | shared))
    server = subprocess.Popen(
        [str(python.parent / "mlserver"), "start", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}/v2/models"
        _wait(f"{url}/forest100/ready")
        name = "MLServer" if workers else "MLServer, no parallel workers"
        mark = str(folder) if not workers else str(ROOT / "mlserver" / "bin")
        yield Side(name, lambda model: f"{url}/{model}/infer", {}, mark)
    finally:
        _end_group(server)


def _wait(url: str) -> None:
    import httpx2

    for _ in range(600):
        try:
            if httpx2.get(url).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait()


def processes(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if mark in line and "wrk" not in line.split()[0] and "bench/serving" not in line:
            found += [process, *process.children(recursive=True)]
    return list(set(found))


def measure(side: Side, model: str, connections: int, seconds: float) -> Result:
    row = [17.9, 10.3, 122.8, 1001]
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 4], "data": row}
    body = json.dumps({"inputs": [tensor]})
    lines = [f"wrk.method = 'POST'\nwrk.body = '{body}'"]
    headers = {"content-type": "application/json", **side.headers}
    lines += [f"wrk.headers['{name}'] = '{value}'" for name, value in headers.items()]
    script = ROOT / "post.lua"
    script.write_text("\n".join(lines))
    measured = processes(side.mark)
    before = sum(_cpu(one) for one in measured)
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
        + [side.url(model)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    cpu = sum(_cpu(one) for one in measured) - before
    total = int(re.search(r"(\d+) requests in", done)[1])  # type: ignore[index]
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    return Result(
        side=side.name,
        model=model,
        connections=connections,
        requests_per_second=float(re.search(r"Requests/sec:\s+([\d.]+)", done)[1]),  # type: ignore[index]
        p50_ms=_latency(done, "50%"),
        p99_ms=_latency(done, "99%"),
        failed=int(bad[1]) if bad else 0,
        cpu_us=1e6 * cpu / max(total, 1),
        memory_mb=sum(_memory(one) for one in measured) / 2**20,
    )


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _memory(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0.0


def _latency(text: str, name: str) -> float:
    value, unit = re.search(rf"{name}\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def merge(rounds: list[Result]) -> Result:
    """The median of each figure; failures add up."""
    figures = {
        name: statistics.median(getattr(one, name) for one in rounds)
        for name in ("requests_per_second", "p50_ms", "p99_ms", "cpu_us", "memory_mb")
    }
    first = rounds[0]
    failed = sum(one.failed for one in rounds)
    return Result(first.side, first.model, first.connections, failed=failed, **figures)


def run(seconds: float, rounds: int) -> list[Result]:
    models = train()
    ROOT.mkdir(exist_ok=True)
    found: dict[tuple[str, str, int], list[Result]] = {}
    with ExitStack() as stack:
        whole, home = stack.enter_context(platform(models))
        bare = stack.enter_context(bare_worker(home))
        peers = [stack.enter_context(mlserver(models, workers)) for workers in (0, 1)]
        for _ in range(rounds):
            for model in models:
                for connections in CONNECTIONS:
                    for side in (whole, bare[model], *peers):
                        one = measure(side, model, connections, seconds)
                        found.setdefault((side.name, model, connections), []).append(one)
                        sys.stderr.write(".")
                        sys.stderr.flush()
    sys.stderr.write("\n")
    return [merge(results) for results in found.values()]


def print_table(results: list[Result]) -> None:
    best = {
        key: max(
            r.requests_per_second
            for r in results
            if (r.model, r.connections) == key and r.side.startswith("MLServer")
        )
        for key in {(r.model, r.connections) for r in results}
    }
    print(
        "| model | c | side | requests/s | vs MLServer | p50 ms | p99 ms | CPU us | MB | failed |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in sorted(results, key=lambda r: (r.model, r.connections, -r.requests_per_second)):
        ratio = r.requests_per_second / best[(r.model, r.connections)]
        print(
            f"| {r.model} | {r.connections} | {r.side} | {r.requests_per_second:,.0f} "
            f"| {ratio:.1f}x | {r.p50_ms:.2f} | {r.p99_ms:.2f} | {r.cpu_us:,.0f} "
            f"| {r.memory_mb:,.0f} | {r.failed} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    results = run(given.seconds, given.rounds)
    if given.json:
        print(json.dumps([asdict(one) for one in results]))
    else:
        print_table(results)


if __name__ == "__main__":
    main()
