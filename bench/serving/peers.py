"""The other model servers, each as its documentation sets it up for production on one machine.

Every one runs in an environment of its own, with as many workers as there are cores, and serves
the same joblib files. How each is set up:

- MLServer 1.7: `mlserver start`, its scikit-learn runtime; with its default of parallel workers,
  and with `parallel_workers: 0`, which is faster for small models. Its JSON is the Open Inference
  Protocol.
- BentoML 1.4: `bentoml serve`, `workers: cpu_count`, one `@bentoml.api` on numpy arrays.
- LitServe 0.2: `LitServer(workers_per_device=cores)`, one API server process for each.
- Ray Serve 2: one deployment, `num_replicas` = cores, `max_ongoing_requests` 100, started by
  `serve run`; access log off, as its performance guide says.
- MLflow 3: `mlflow models serve --workers cores` (uvicorn), the scikit-learn flavour.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import httpx2
import psutil

from serving.models import FEATURES, ROW

CORES = os.cpu_count() or 1
HERE = Path(__file__).parent
TORCH = "2.13.0"
_OIP = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, FEATURES], "data": ROW}]}
)


@dataclass(frozen=True)
class Peer:
    """requires: for its environment, beside scikit-learn, joblib and the models' frameworks.
    path: of the URL, with `{model}`; start: its command line, and what it must be told."""

    name: str
    environment: str
    requires: tuple[str, ...]
    port: int
    path: str
    body: str
    prepare: Callable[[Path, Path, str, int], list[str]]
    """(bin folder, joblib file, model, port) to the command line; runs in the working folder"""


def _mlserver(workers: int) -> Callable[[Path, Path, str, int], list[str]]:
    def prepare(bin_: Path, model: Path, name: str, port: int) -> list[str]:
        folder = Path("mlserver").resolve() / f"{name}-{workers}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(model, folder / "model.joblib")
        described = {"name": name, "implementation": "mlserver_sklearn.SKLearnModel"}
        described |= {"parameters": {"uri": "./model.joblib"}}
        (folder / "model-settings.json").write_text(json.dumps(described))
        ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
        shared = {"debug": False, "parallel_workers": workers, "metrics_dir": str(folder)}
        (folder / "settings.json").write_text(json.dumps(ports | shared))
        return [str(bin_ / "mlserver"), "start", str(folder)]

    return prepare


def _own(script: str, *words: str) -> Callable[[Path, Path, str, int], list[str]]:
    """A server whose code is ours: `peer_<script>.py`."""

    def prepare(bin_: Path, model: Path, name: str, port: int) -> list[str]:
        file = HERE / f"peer_{script}.py"
        command = [word.format(bin=bin_, file=file, port=port) for word in words]
        return command or [str(bin_ / "python"), str(file), str(port)]

    return prepare


def _mlflow(bin_: Path, model: Path, name: str, port: int) -> list[str]:
    folder = Path("mlflow").resolve() / name
    shutil.rmtree(folder, ignore_errors=True)
    save = (
        "import joblib, sys, mlflow.sklearn as m; "
        "m.save_model(joblib.load(sys.argv[1]), sys.argv[2], serialization_format='cloudpickle')"
    )
    own = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [bin_ / "python", "-W", "ignore", "-c", save, model, folder]
    subprocess.run(command, check=True, env=own, stderr=subprocess.DEVNULL)
    serve = [str(bin_ / "mlflow"), "models", "serve", "-m", str(folder), "-p", str(port)]
    return [*serve, "--env-manager", "local", "--workers", str(CORES)]


PEERS = (
    Peer(
        "MLServer, no parallel workers",
        "mlserver",
        ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22"),  # crashes with newer ones
        18_100,
        "/v2/models/{model}/infer",
        _OIP,
        _mlserver(0),
    ),
    Peer(
        "MLServer",
        "mlserver",
        ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22"),
        18_110,
        "/v2/models/{model}/infer",
        _OIP,
        _mlserver(1),
    ),
    Peer(
        "LitServe",
        "litserve",
        ("litserve==0.2.19",),
        18_120,
        "/predict",
        json.dumps({"x": [ROW]}),
        _own("litserve"),
    ),
    Peer(
        "BentoML",
        "bentoml",
        ("bentoml==1.4.40",),
        18_130,
        "/predict",
        json.dumps({"x": [ROW]}),
        _own("bentoml", "{bin}/bentoml", "serve", "peer_bentoml:Peer", "--port", "{port}"),
    ),
    Peer(
        "MLflow",
        "mlflow",
        ("mlflow==3.17.2",),
        18_140,
        "/invocations",
        json.dumps({"inputs": [ROW]}),
        _mlflow,
    ),
    Peer(
        "Ray Serve",
        "ray",
        ("ray[serve]==2.60.0",),
        18_150,
        "/predict",
        json.dumps({"x": [ROW]}),
        _own("ray"),
    ),
)


def environment(peer: Peer, root: Path) -> Path:
    """The folder of its executables."""
    return isolated(peer.environment, peer.requires, root)


def wheels(root: Path) -> Path:
    """A folder with torch's CPU build, if pip can get one: the index's own has CUDA in it."""
    folder = root / "wheels"
    if not folder.exists():
        download = ["pip", "download", "-q", "--no-deps", "-d", str(folder), f"torch=={TORCH}"]
        subprocess.run([sys.executable, "-m", *download], check=True)
    return folder


def isolated(name: str, requires: Sequence[str], root: Path) -> Path:
    """The executables of an environment with these and the models' frameworks, made once."""
    place = root / "envs" / name
    if not (place / ".whole").exists():
        uv = str(Path(sys.executable).with_name("uv"))
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(place)], check=True)
        wheel = f"torch=={TORCH}"
        same = ["scikit-learn", "joblib", "numpy", "xgboost-cpu", "lightgbm"]
        pins = [f"{one}=={version(one)}" for one in same]
        python = str(place / "bin" / "python")
        install = [uv, "pip", "install", "-q", "--python", python]
        install += ["--find-links", str(wheels(root))]
        subprocess.run([*install, *requires, *pins, wheel], check=True)
        (place / ".whole").touch()
    return place / "bin"


@contextmanager
def serving(peer: Peer, model: str, file: Path, root: Path) -> Iterator[str]:
    """Start it with this one model, wait until it answers, yield its URL."""
    bin_ = environment(peer, root)
    work = root / "peers"
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    command = peer.prepare(bin_, file, model, peer.port)
    env = {k: v for k, v in os.environ.items() if not k.startswith("MODELFLEET_")}
    env |= {"MODEL": str(file), "CORES": str(CORES), "PYTHONPATH": str(HERE)}
    env |= {"PATH": f"{bin_}:{env['PATH']}", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    env |= {"BENTOML_DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with open(work / f"{peer.environment}.log", "ab") as log:
        server = subprocess.Popen(
            command, env=env, stdout=log, stderr=log, start_new_session=True, cwd=work
        )
    try:
        url = f"http://127.0.0.1:{peer.port}{peer.path.format(model=model)}"
        _wait(url, peer.body, server)
        yield url
    finally:
        _end(server)


def _wait(url: str, body: str, server: subprocess.Popen[bytes]) -> None:
    headers = {"content-type": "application/json"}
    said: object = None
    for _ in range(900):
        if server.poll() is not None:
            raise SystemExit(f"{server.args} ended with {server.returncode}")
        try:
            answer = httpx2.post(url, content=body, headers=headers, timeout=5)
            said = answer.text[-300:]
            if answer.status_code == 200:
                return
        except httpx2.TransportError as error:
            said = error
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer: {said}")


def _end(server: subprocess.Popen[bytes]) -> None:
    tree = [*psutil.Process(server.pid).children(recursive=True)] if server.poll() is None else []
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    for process in tree:
        if process.is_running():
            process.kill()
    psutil.wait_procs(tree, timeout=5)


def headers() -> Mapping[str, str]:
    return {"content-type": "application/json"}
