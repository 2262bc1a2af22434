"""Stock clients, unmodified, through the gateway: each calls all that it can, in its own Python."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
from echo import EXAMPLE, Echo, Slow
from running import Platform
from sklearn.linear_model import LogisticRegression

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("protocol")]
TRITON = "tritonclient[grpc,http]==2.73.0"
KSERVE = "kserve==0.21.0"
MLFLOW = "mlflow==3.17.2"


@pytest.fixture(scope="module")
def echo(platform: Platform) -> tuple[str, str]:
    """(address of the gateway, version of the model `echo`)"""
    platform.serve("echo", Echo(), EXAMPLE)
    (version,) = [v.version for v in platform.client.versions("echo")]
    return f"127.0.0.1:{platform.ports()['gateway']}", version


def call(python: Path, script: str, *arguments: str) -> str:
    """What it printed."""
    command = [python, Path(__file__).with_name(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_triton_http(
    platform: Platform, echo: tuple[str, str], stock: Callable[[str], Path]
) -> None:
    address, version = echo
    call(stock(TRITON), "triton_calls.py", address, platform.key, "echo", version)


def test_triton_grpc(
    platform: Platform, echo: tuple[str, str], stock: Callable[[str], Path]
) -> None:
    address, version = echo
    platform.serve("slow", Slow(), {"float64": EXAMPLE["float64"]})
    call(stock(TRITON), "triton_grpc_calls.py", address, platform.key, "echo", version)


def test_kserve(platform: Platform, echo: tuple[str, str], stock: Callable[[str], Path]) -> None:
    address, _ = echo
    call(stock(KSERVE), "kserve_calls.py", address, platform.key, "echo")


def test_mlflow_scores_the_same(
    platform: Platform, stock: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same bodies to MLflow's own scoring server."""
    python = stock(MLFLOW)
    call(python, "scoring_models.py", str(tmp_path))
    for name in ("mixed", "tensor", "frame", "series"):
        done = platform.run(
            *("versions", "register", str(tmp_path / name), "--name", name),
            *("--team", "e2e", "--wait"),
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert platform.run("deploy", name, "--wait").returncode == 0
    address = f"127.0.0.1:{platform.ports()['gateway']}"
    compared = int(call(python, "scoring_calls.py", str(tmp_path), address, platform.key))
    assert compared > 150


def test_mlflow_invocations(platform: Platform) -> None:
    """As MLflow's scoring server is called: a frame in, labels out; errors in its shape."""
    rows = np.random.default_rng(0).normal(size=(100, 2))
    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    platform.serve("scored", model, {"age": rows[:, 0], "income": rows[:, 1]})
    url = f"http://127.0.0.1:{platform.ports()['gateway']}/v2/models/scored"
    (version,) = [v.version for v in platform.client.versions("scored")]
    split = {"columns": ["income", "age"], "data": rows[:5, ::-1].tolist()}
    with httpx2.Client(headers={"authorization": f"Bearer {platform.key}"}) as http:
        for path in ("/invocations", f"/versions/{version}/invocations"):
            answer = http.post(f"{url}{path}", json={"dataframe_split": split})
            assert answer.status_code == 200, answer.text
            assert answer.json() == {"predictions": model.predict(rows[:5]).tolist()}
        text = "age,income\n" + "\n".join(f"{a},{b}" for a, b in rows[:5].tolist())
        csv = {"content-type": "text/csv"}
        answer = http.post(f"{url}/invocations", content=text, headers=csv)
        assert answer.json() == {"predictions": model.predict(rows[:5]).tolist()}
        answer = http.post(
            f"{url}/invocations", json={"dataframe_split": {"columns": ["age"], "data": [[1]]}}
        )
        assert answer.status_code == 400
        assert answer.json()["error_code"] == "BAD_REQUEST"
        assert "missing column 'income'" in answer.json()["message"]
