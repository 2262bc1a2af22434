"""The stock client of Triton, unmodified, through the gateway."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from echo import EXAMPLE, Echo
from running import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("protocol")]


def test_every_call_sync_and_aio(platform: Platform, stock_python: Path) -> None:
    platform.serve("echo", Echo(), EXAMPLE)
    (version,) = [v.version for v in platform.client.versions("echo")]
    url = f"127.0.0.1:{platform.ports()['gateway']}"
    script = Path(__file__).with_name("triton_calls.py")
    done = subprocess.run(
        [stock_python, script, url, platform.key, "echo", version],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-3000:]
