"""The registry beside `mlflow server`: CPU of the server for each operation, of one stock client.

Both servers run with SQLite and one process that answers, and are filled the same way: MODELS
models of 5 versions, one alias and one tag each. The stock client (mlflow, in an environment of
its own, made here) drives both; what is compared is the CPU time of the server's process tree for
one call, as wall times are too noisy. Then ours alone is filled with 10,000 models of 10 versions.

    python bench/registry.py                 tables, and one JSON line at the end
    python bench/registry.py --models 100    smaller, to try it
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

MLFLOW = "3.17.2"
CALLS = 200
WRITERS = 100
DRIVER = Path(__file__).with_name("registry_driver.py")


@dataclass
class Server:
    name: str
    url: str
    process: psutil.Process
    token: str = ""
    cpu: dict[str, float] = field(default_factory=dict)
    """milliseconds for each operation"""

    def seconds(self) -> float:
        """CPU used so far by the process and all below it."""
        total = 0.0
        for one in [self.process, *self.process.children(recursive=True)]:
            try:
                used = one.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += used.user + used.system
        return total

    def memory_mb(self) -> float:
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(one.memory_info().rss for one in processes) / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while True:
        if process.poll() is not None:
            raise SystemExit(f"{url} did not start.")
        try:
            if httpx2.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        if time.monotonic() > end:
            raise SystemExit(f"{url} did not answer.")
        time.sleep(0.2)


@contextmanager
def mlflow_server(python: Path, home: Path) -> Iterator[Server]:
    port = free_port()
    command = [str(python.parent / "mlflow"), "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home}/mlflow.db"]
    command += ["--artifacts-destination", str(home / "artifacts")]
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }
    with (home / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield Server("MLflow", f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def our_server(home: Path) -> Iterator[Server]:
    """The whole platform runs; measured is its control plane, which answers all of this."""
    command = [sys.executable, "-m", "modelfleet.cli.main", "up", "--home", str(home)]
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", "0", "--gateway-port", "0"], stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + 120
        while "Metrics" not in (home / "up.log").read_text():
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit((home / "up.log").read_text())
            time.sleep(0.2)
        port = json.loads((home / "run" / "ports.json").read_text())["api"]
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process)
        control = next(
            one
            for one in psutil.Process(process.pid).children(recursive=True)
            if "modelfleet.app" in one.cmdline()
        )
        yield Server("modelfleet", url, control, (home / "admin.key").read_text().strip())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def drive(server: Server, python: Path, operation: str, calls: int, models: int) -> float:
    """CPU milliseconds of the server for one call."""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    environment |= {"MLFLOW_TRACKING_TOKEN": server.token} if server.token else {}
    command = [str(python), str(DRIVER), server.url, operation, str(calls), str(models)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        if driver.stdout.readline().strip() != "ready":
            raise SystemExit(f"{operation} failed at {server.name}.")
        before = server.seconds()
        driver.stdin.write("\n")
        driver.stdin.flush()
        if driver.stdout.readline().strip() != "done":
            raise SystemExit(f"{operation} failed at {server.name}.")
        used = server.seconds() - before
        driver.stdin.write("\n")
    return used * 1000 / calls


def writers(server: Server, models: int) -> dict[str, int]:
    """100 at once create versions of a few models: every number once, no 5xx."""
    headers = {"authorization": f"Bearer {server.token}"} if server.token else {}
    numbers: list[tuple[str, str]] = []
    errors: list[int] = []

    def write(writer: int) -> None:
        with httpx2.Client(base_url=server.url, headers=headers, timeout=120) as client:
            for turn in range(5):
                name = f"model-{(writer * 7 + turn) % min(10, models):05d}"
                answer = client.post(
                    "/api/2.0/mlflow/model-versions/create",
                    json={"name": name, "source": "s3://bucket/x"},
                )
                if answer.status_code == 200:
                    numbers.append((name, answer.json()["model_version"]["version"]))
                else:
                    errors.append(answer.status_code)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "made": len(numbers),
        "duplicates": len(numbers) - len(set(numbers)),
        "failed": len(errors),
        "failed_5xx": sum(code >= 500 for code in errors),
    }


def large(home: Path) -> dict[str, float]:
    """Ours with 10,000 models of 10 versions: pages, and a search by tag."""
    subprocess.run([sys.executable, __file__, "--fill", str(home)], check=True)
    found: dict[str, float] = {}
    with our_server(home) as server:
        headers = {"authorization": f"Bearer {server.token}"}
        with httpx2.Client(base_url=server.url, headers=headers, timeout=120) as client:
            link = client.post("/v1/login-links").json()["path"]
            search = {"filter": "tags.batch = 'b77'", "max_results": "100"}
            calls: dict[str, tuple[str, dict[str, str]]] = {
                "search_100000_by_tag": ("/api/2.0/mlflow/model-versions/search", search),
                "list_1000_of_10000": (
                    "/api/2.0/mlflow/registered-models/search",
                    {"max_results": "1000"},
                ),
                "api_versions_of_one": ("/v1/models/model-00077/versions", {}),
                "page_fleet": ("/", {}),
                "page_model": ("/models/model-00077", {}),
            }
            pages = httpx2.Client(base_url=server.url, timeout=120, follow_redirects=True)
            _log_in(pages, link)
            for name, (path, query) in calls.items():
                times, before = [], server.seconds()
                for _ in range(10):
                    start = time.perf_counter()
                    answer = (pages if name.startswith("page") else client).get(path, params=query)
                    times.append(time.perf_counter() - start)
                if answer.status_code != 200 or "/login" in str(answer.url):
                    raise SystemExit(f"{path} answered {answer.status_code}.")
                found[f"{name}_ms"] = round(sorted(times)[5] * 1000, 1)
                found[f"{name}_cpu_ms"] = round((server.seconds() - before) * 100, 1)
        found["memory_mb"] = round(server.memory_mb())
    return found


def _log_in(pages: httpx2.Client, link: str) -> None:
    """As a person does who opens the link: a page with one button."""
    form = pages.get(link)
    token = re.search(r'name="csrf" value="([^"]*)"', form.text)
    pages.post(link, data={"csrf": token[1] if token else ""})


def fill(home: Path, models: int = 10_000, versions: int = 10) -> None:
    """Rows straight into the tables: by calls it would take an hour."""
    import sqlalchemy as sa

    from modelfleet.core.clock import now_us
    from modelfleet.core.ids import new_id
    from modelfleet.core.settings import load_settings
    from modelfleet.registry.semver import Semver
    from modelfleet.registry.tables import alias, model, model_tag, model_version, version_tag
    from modelfleet.registry.types import DEFAULT_NAMESPACE_ID
    from modelfleet.wiring import build

    database = build(load_settings(home)).database
    now = now_us()
    rows: dict[sa.Table, list[dict[str, object]]] = {
        table: [] for table in (model, model_version, model_tag, version_tag, alias)
    }
    for number in range(models):
        model_id, made = new_id(), [new_id() for _ in range(versions)]
        rows[model].append(
            {
                "id": model_id,
                "namespace_id": DEFAULT_NAMESPACE_ID,
                "name": f"model-{number:05d}",
                "owner_team": f"team{number % 20}",
                "business_function": "",
                "criticality": "normal",
                "description": "",
                "next_sequence": versions + 1,
                "latest_version_id": made[-1],
                "created_at": now,
                "updated_at": now,
            }
        )
        rows[model_tag].append({"model_id": model_id, "key": "team", "value": f"t{number % 10}"})
        rows[alias].append({"model_id": model_id, "name": "champion", "version_id": made[-1]})
        for sequence, version_id in enumerate(made, 1):
            semver = Semver(1, sequence, 0)
            rows[model_version].append(
                {
                    "id": version_id,
                    "model_id": model_id,
                    "sequence": sequence,
                    "semver": str(semver),
                    "semver_sort_key": semver.sort_key,
                    "status": "external",
                    "reason": "",
                    "requested_environment": {},
                    "serving": "",
                    "metrics": {"auc": 0.9},
                    "created_by": "bench",
                    "created_at": now,
                    "updated_at": now,
                    "source_uri": "s3://bucket/x",
                }
            )
            rows[version_tag].append(
                {"version_id": version_id, "key": "batch", "value": f"b{number % 500}"}
            )
    with database.begin() as connection:
        for table, values in rows.items():
            connection.execute(sa.insert(table), values)
    database.close()


OPERATIONS = {
    "create_model": CALLS,
    "create_version": CALLS,
    "get_by_alias": CALLS,
    "get_version": CALLS,
    "get_model": CALLS,
    "search_by_name": CALLS,
    "search_by_tag": 50,
    "list_100": 30,
    "list_1000": 5,
}


def compare(models: int) -> dict[str, object]:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is None:
        raise SystemExit("uv is needed: make .venv/.installed")
    with tempfile.TemporaryDirectory(prefix="mfbench") as folder:
        root = Path(folder)
        root.chmod(0o755)
        venv = root / "mlflow"
        subprocess.run([uv, "venv", "--quiet", str(venv)], check=True)
        python = venv / "bin" / "python"
        install = [uv, "pip", "install", "--quiet", "--python", str(python), f"mlflow=={MLFLOW}"]
        subprocess.run(install, check=True)
        homes = {}
        for name in ("theirs", "ours", "large"):
            homes[name] = root / name
            homes[name].mkdir(mode=0o755)
        with mlflow_server(python, homes["theirs"]) as theirs, our_server(homes["ours"]) as ours:
            for server in (theirs, ours):
                server.cpu["fill"] = drive(server, python, "fill", models, models)
            for operation, calls in OPERATIONS.items():
                for server in (theirs, ours):
                    server.cpu[operation] = drive(server, python, operation, calls, models)
                    print(f"{operation:16} {server.name:11} {server.cpu[operation]:8.2f} ms of CPU")
            result: dict[str, object] = {
                f"{name}_ratio": round(ours.cpu[name] / theirs.cpu[name], 3) for name in OPERATIONS
            }
            result["list_1000_cpu_ms"] = round(ours.cpu["list_1000"], 1)
            result["memory_mb"] = round(ours.memory_mb())
            result["mlflow_memory_mb"] = round(theirs.memory_mb())
            result["writers"] = writers(ours, models)
        result["large"] = large(homes["large"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fill is not None:
        fill(given.fill)
        return
    print(json.dumps(compare(given.models)))


if __name__ == "__main__":
    main()
