"""`modelfleet doctor` on a modelfleet that serves, and on one that is half gone."""

from __future__ import annotations

import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killers import Gossip
from running import Platform, eventually
from sklearn.linear_model import LogisticRegression
from zoo import EXAMPLE

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-doctor")]
X = np.random.default_rng(1).normal(size=(200, 4))


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    made = Platform()
    try:
        made.up()
        made.serve("churn", LogisticRegression().fit(X, (X[:, 0] > 0).astype(int)), X[:5])
        yield made
    finally:
        made.end()


def findings(platform: Platform, *options: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    done = platform.run("doctor", "--json", *options)
    report = json.loads(done.stdout)
    found: dict[str, list[dict[str, Any]]] = {}
    for one in report["findings"]:
        found.setdefault(one["check"], []).append(one)
    assert report["ok"] == (done.returncode == 0)
    return done.returncode, found


def row(first: float) -> object:
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [first, 0.0, 0.0]}
    return {"inputs": [tensor]}


def states(found: list[dict[str, Any]]) -> set[str]:
    return {one["status"] for one in found}


def test_all_is_well(platform: Platform) -> None:
    code, found = findings(platform, "--deep", "--probe")
    failing = [one for many in found.values() for one in many if one["status"] == "fail"]
    assert (code, failing) == (0, [])
    assert "churn: answers its example" in found["probe"][0]["says"]
    assert states(found["workers"]) == states(found["gateway"]) == states(found["blobs"]) == {"ok"}

    def recorded() -> bool:
        rows = platform.client.api.get("/v1/models/churn/versions/1/predictions")
        return any(row["caller"] == "doctor" for row in rows)  # type: ignore[union-attr,call-overload,index]

    eventually(recorded)


def test_a_bundle_for_support_tells_nothing_private(platform: Platform, tmp_path: Path) -> None:
    platform.serve("gossip", Gossip(), EXAMPLE)
    secret, worse = 815.162342, 108815.162342
    assert platform.ask("gossip", row(secret)).status == 200
    assert platform.ask("gossip", row(worse)).status == 500
    told = "".join(path.read_text() for path in (platform.home / "logs").glob("worker-*.log"))
    assert "815.162342" in told  # it is where it could be found
    archive = tmp_path / "support.tar.gz"
    done = platform.run("support-bundle", "--output", str(archive), "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["omitted"] == []
    with tarfile.open(archive) as opened:
        streams = [opened.extractfile(member) for member in opened.getmembers()]
        found = b"".join(stream.read() for stream in streams if stream is not None)
    gateway_secret = (platform.home / "keys" / "gateway.key").read_bytes()
    signing = (platform.home / "keys" / "signing.pem").read_bytes().splitlines()[1]
    dump = (platform.home / "run" / "gateway" / "rds.json").read_bytes()
    assert gateway_secret in dump  # it is where it could be found
    for private in (b"815.162342", platform.key.encode(), gateway_secret, signing, b"eyJ"):
        assert private not in found
    assert b"churn" in found
    assert {"gateway/config_dump.json", "gateway/stats.txt", "evidence.json"} <= set(made["files"])
    assert platform.run("support-bundle", "--output", str(archive)).returncode == 5


def test_a_process_that_is_stopped_is_found(platform: Platform) -> None:
    pid = platform.pid_of("gateway")
    os.kill(pid, signal.SIGSTOP)
    try:
        code, found = findings(platform, "--probe")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert code == 1
    assert found["gateway"][0]["status"] == "fail"
    assert states(found["probe"]) == {"fail"}
    assert states(found["workers"]) == {"ok"}


def test_without_an_agent(platform: Platform) -> None:
    """The last one: it leaves the home without anybody who would bring things back."""
    for name in ("keeper", "agent"):
        record = json.loads((platform.home / "run" / f"{name}.json").read_text())
        os.kill(record["pid"], signal.SIGKILL)
    eventually(lambda: platform.run("status").returncode == 1)
    code, found = findings(platform)
    assert code == 1
    assert "nobody brings them back" in found["agent"][0]["says"]
    assert platform.run("down").returncode == 0
    code, found = findings(platform)
    assert [c for c, many in found.items() if "fail" in states(many)] == ["agent"]
