"""Stock MLflow clients, the newest and an older one, at home: they track, register and load."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import SETTINGS, Platform

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("e2e-mlflow-clients"),
]
RELEASES = ("3.17.2", "3.12.0")
WITH = ("scikit-learn", "xgboost-cpu", "lightgbm")
TORCH = "torch==2.13.0"
FUNCTIONS = {
    "tracking": ("runs", "files", "logged_models", "autologging", "pytorch"),
    "registry": ("versions", "registry", "frozen", "webhooks", "prompts"),
}


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    settings = "\n[registry]\ncreate_namespaces = true\nprivate_webhooks = true\n"
    made = Platform(SETTINGS + settings)
    try:
        made.up()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def mlflow(
    platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str, str], None]:
    """Run a function of one of the `mlflow_*_calls.py` with that release, at that address."""
    uv = Path(sys.executable).with_name("uv")
    pythons: dict[str, Path] = {}

    def install(name: str, *what: str) -> None:
        command = [uv, "pip", "install", "-q", "--python", pythons[name], *what]
        subprocess.run(command, check=True, timeout=600)

    def call(release: str, calls: str, function: str, place: str) -> None:
        torch = function == "pytorch"  # apart: what is installed ends up in models' requirements
        name = f"{release}-torch" if torch else release
        if name not in pythons:
            folder = tmp_path_factory.mktemp(f"mlflow-{name}")
            pythons[name] = folder / "bin" / "python"
            subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
            install(name, f"mlflow=={release}", *WITH)
            if torch:
                install(name, TORCH, "lightning", f"--find-links={wheels()}")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{platform.ports()['api']}{place}"
        environment["MLFLOW_TRACKING_TOKEN"] = platform.key
        environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
        done = subprocess.run(
            [pythons[name], Path(__file__).with_name(f"mlflow_{calls}_calls.py"), function],
            env=environment,
            cwd=tmp_path_factory.mktemp("run"),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.stdout.endswith("done\n"), done.stderr[-3000:]

    return call


def wheels() -> Path:
    """A folder with PyTorch as pip finds it: for the processor alone, where that is to be had."""
    folder = Path(tempfile.gettempdir()) / f"modelfleet-wheels-{os.getuid()}"
    if not list(folder.glob("torch-*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "-d", str(folder), TORCH], check=True, timeout=600)
    return folder


@pytest.mark.parametrize(
    ("calls", "function"), [(k, one) for k, functions in FUNCTIONS.items() for one in functions]
)
@pytest.mark.parametrize("release", RELEASES)
def test_a_stock_client_is_at_home(
    mlflow: Callable[[str, str, str, str], None], release: str, calls: str, function: str
) -> None:
    mlflow(release, calls, function, f"/t/{function}-{release}")


def test_the_default_namespace_needs_no_path(
    mlflow: Callable[[str, str, str, str], None],
) -> None:
    mlflow(RELEASES[0], "tracking", "runs", "")


def test_what_a_stock_client_logged_deploys_with_one_command(
    mlflow: Callable[[str, str, str, str], None], platform: Platform
) -> None:
    mlflow(RELEASES[0], "registry", "deployable", "")
    done = platform.run("deploy", "deployed", "1", "--wait", timeout=300)
    assert done.returncode == 0, done.stderr
    rows = {"a": [1.0, -2.0], "b": [1.0, -1.0], "c": [0.0, 0.0]}
    answer = platform.client.predict("deployed", rows)
    outputs: Any = answer["outputs"]
    assert outputs[0]["data"] == [1, 0]
