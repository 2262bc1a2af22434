"""Stock clients, unmodified, through the gateway: each calls all that it can, in its own Python."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from echo import EXAMPLE, Echo, Slow
from running import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("protocol")]
TRITON = "tritonclient[grpc,http]==2.73.0"
KSERVE = "kserve==0.21.0"


@pytest.fixture(scope="module")
def echo(platform: Platform) -> tuple[str, str]:
    """(address of the gateway, version of the model `echo`)"""
    platform.serve("echo", Echo(), EXAMPLE)
    (version,) = [v.version for v in platform.client.versions("echo")]
    return f"127.0.0.1:{platform.ports()['gateway']}", version


def call(python: Path, script: str, *arguments: str) -> None:
    command = [python, Path(__file__).with_name(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-3000:]


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
