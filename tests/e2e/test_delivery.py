"""A document from its first version to a better one: gates, a person's yes, the canary."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from load import rows
from running import Platform, eventually
from zoo import EXAMPLE, Linear

from modelfleet.client.errors import ApiError

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-delivery")]

FLEET = """\
apiVersion: modelfleet.dev/v1
kind: Fleet
metadata: {name: shop}
"""
DOCUMENT = """\
apiVersion: modelfleet.dev/v1
kind: Model
metadata: {name: churn, owner: e2e}
source: {registry: "models:/churn", version: latest}
gates:
  - infrastructure
  - signature: {compatible_with: champion}
  - run: {uses: ./small.py}
rollout:
  strategy: canary
  steps:
    - {shadow: 100%, for: 1s}
    - {approve: {role: approver}}
    - {weight: 50%, for: 1s}
    - {weight: 100%, bake: 1s}
  analysis: {without: [predictions], errors: {max_increase: 2%}, latency: {max_ratio: 50x}}
  on_inconclusive: {after: 10m, do: hold}
"""
SMALL = """\
import json, os, pathlib
model = pathlib.Path(os.environ["MODELFLEET_BUNDLE"])
size = sum(one.stat().st_size for one in model.rglob("*") if one.is_file())
good = size < 100_000
told = {"verdict": "pass" if good else "fail", "sentence": f"The files have {size} bytes."}
pathlib.Path("evidence.json").write_text(json.dumps(told))
raise SystemExit(0 if good else 1)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "fleet.yaml").write_text(FLEET)
    (folder / "churn.model.yaml").write_text(DOCUMENT)
    (folder / "small.py").write_text(SMALL)
    return folder


def heavy() -> Linear:
    """Answers as the others do, and carries much about."""
    made = Linear()
    made.ballast = np.arange(50_000, dtype=np.float64)  # type: ignore[attr-defined]
    return made


def apply(platform: Platform, files: Path) -> None:
    done = platform.run("apply", str(files), "--yes")
    assert done.returncode in (0, 1), done.stdout + done.stderr


def newest(platform: Platform) -> dict[str, Any]:
    found: Any = platform.client.api.get("/v1/rollouts", endpoint="churn")
    return dict(found[0])


def until(platform: Platform, state: str) -> None:
    seen: list[str] = []

    def reached() -> bool:
        now = newest(platform)
        seen[:] = [f"{now['state']}: {now['sentence']} {now.get('waits', '')}"]
        assert now["ended_at"] is None or now["state"] == state, seen
        return now["state"] == state

    try:
        eventually(reached, 60, 0.5)
    except AssertionError as error:
        raise AssertionError(seen) from error


def register(platform: Platform, model: object) -> None:
    platform.client.register(model, EXAMPLE, name="churn", team="e2e", reference=EXAMPLE, wait=True)


@pytest.fixture(scope="module")
def serving(platform: Platform, files: Path) -> None:
    """The first version has passed its gates, was approved, and serves."""
    register(platform, Linear())
    apply(platform, files)
    until(platform, "awaiting_approval")
    assert approve_as_another(platform) == 0
    until(platform, "succeeded")


@pytest.mark.usefixtures("serving")
def test_the_first_version_passes_its_gates_and_serves(platform: Platform, files: Path) -> None:
    assert platform.ask("churn", {"inputs": [TENSOR]}).status == 200
    shown = json.loads(platform.run("delivery", "churn", "--json").stdout)
    states = {one["name"]: one["state"] for one in shown["stages"]}
    assert states == {"develop": "done", "test": "done", "deploy": "done", "monitor": "done"}
    again = platform.run("plan", str(files))
    assert again.returncode == 0, again.stdout


TENSOR = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [0.1, 0.2, 0.3]}


@pytest.mark.usefixtures("serving")
def test_a_better_one_needs_gates_a_shadow_a_yes_and_proof(platform: Platform, files: Path) -> None:
    register(platform, Linear())
    changes = platform.run("plan", str(files))
    assert changes.returncode == 1, changes.stdout + changes.stderr
    apply(platform, files)
    with platform.load("churn", rows(3), connections=4, pause=0.005) as load:
        until(platform, "awaiting_approval")
        waits = json.loads(platform.run("delivery", "churn", "--json").stdout)["waits"]
        assert any("approver" in one for one in waits), waits
        own = platform.run("approvals", "approve", asked_for(platform))
        assert own.returncode != 0  # whoever asked for it does not approve it
        assert approve_as_another(platform) == 0
        until(platform, "succeeded")
    assert load.tally.bad == 0, load.tally.trouble
    assert newest(platform)["to_version"] == "1.0.1"


def asked_for(platform: Platform) -> str:
    said = platform.run("approvals", "list", "--state", "waiting", "--json").stdout
    [asked] = json.loads(said)
    return str(asked["id"])


def approve_as_another(platform: Platform) -> int:
    api, approval = platform.client.api, asked_for(platform)
    with contextlib.suppress(ApiError):  # she is there already
        api.post("/v1/principals", {"name": "grace", "kind": "person"})
    api.post("/v1/principals/grace/grants", {"role": "approver", "team": "e2e"})
    key: Any = api.post("/v1/keys", {"principal": "grace"})
    before = dict(platform.environment)
    platform.environment |= {"MODELFLEET_KEY": str(key["key"])}
    try:
        return platform.run("approvals", "approve", approval, "--reason", "looks good").returncode
    finally:
        platform.environment = before


@pytest.mark.usefixtures("serving")
def test_what_fails_a_gate_gets_no_request(platform: Platform, files: Path) -> None:
    register(platform, heavy())
    apply(platform, files)
    with platform.load("churn", rows(3), connections=2, pause=0.01) as load:
        eventually(lambda: newest(platform)["ended_at"], 120, 0.5)
    assert load.tally.bad == 0, load.tally.trouble
    ended = newest(platform)
    assert ended["state"] in ("rolled_back", "cancelled")
    assert "The files have" in ended["sentence"]
    endpoint = next(one for one in platform.client.endpoints() if one.name == "churn")
    assert [(route.weight, route.shadow) for route in endpoint.routes] == [(10_000, 0)]
    shown = json.loads(platform.run("delivery", "churn", "--json").stdout)
    assert {one["name"]: one["state"] for one in shown["stages"]}["test"] == "stopped"
    again = platform.run("plan", str(files))
    assert again.returncode == 0, again.stdout  # it is not tried again by itself
