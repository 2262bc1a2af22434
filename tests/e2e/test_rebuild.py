"""A version is rebuilt from its lock, beside the environment in use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Platform

from modelfleet.client.types import Version

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("e2e-rebuild"),
]


class Rooted:
    """Its answer depends on the environment it runs in: on a file that no lock knows."""

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        import os
        import sys

        shift = 0.25 if os.path.exists(os.path.join(sys.prefix, "patched")) else 0.0
        return {"score": np.asarray(inputs["x"])[:, 0] + shift}


def rebuild(platform: Platform, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = platform.run("versions", "rebuild", *arguments, "--json", timeout=200)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def folders(platform: Platform) -> set[str]:
    return {one.name for one in platform.layout().environments.iterdir()}


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """With environments of its own: one is changed by hand."""
    made = Platform(shared=False)
    try:
        made.up()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def made(platform: Platform) -> Version:
    example = np.random.default_rng(1).normal(size=(30, 3))
    here = Path(__file__)
    return platform.client.register(
        Rooted(), example, name="rooted", team="e2e", code=[here], wait=True
    )


def test_equal_answers_different_ones_and_none(platform: Platform, made: Version) -> None:
    before = folders(platform)
    code, found = rebuild(platform, "rooted", made.version)
    assert (code, found["state"]) == (0, "equal"), found
    evidence = found["result"]["evidence"]
    assert evidence["rows"] == 30
    assert evidence["packages"]["numpy"]
    assert evidence["changed_packages"] == {}
    assert evidence["build_s"] > 0
    assert evidence["outputs"] == evidence["before"]
    assert folders(platform) == before

    details: Any = platform.client.api.get(f"/v1/models/rooted/versions/{made.version}")
    environment = platform.layout().environment(details["version"]["environment_digest"])
    (environment / "patched").write_text("by hand")
    code, found = rebuild(platform, "rooted", made.version)
    assert (code, found["state"]) == (1, "different"), found
    assert found["result"]["evidence"]["differences"] == {"score": "at most 0.25"}
    assert (environment / "patched").exists()
    assert folders(platform) == before

    gates = [one["verdict"] for one in _gates(platform, made.version) if one["gate"] == "rebuild"]
    assert gates == ["pass", "fail"]
    said = platform.run("models", "history", "rooted").stdout
    assert "bitwise as before" in said
    assert "differ: score by at most 0.25" in said


def _gates(platform: Platform, version: str) -> list[dict[str, Any]]:
    found: Any = platform.client.api.get(f"/v1/models/rooted/versions/{version}")
    return list(found["gates"])


def test_the_code_comes_back(platform: Platform, made: Version, tmp_path: Path) -> None:
    done = platform.run("versions", "code", "rooted", made.version, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    found: Any = platform.client.api.get(f"/v1/models/rooted/versions/{made.version}/code")
    path = found["files"][0]["path"]
    assert path.endswith("test_rebuild.py")
    assert (tmp_path / "out" / path).read_bytes() == Path(__file__).read_bytes()


def test_what_has_no_lock_is_refused(platform: Platform) -> None:
    platform.client.ensure_model("far", team="e2e")
    code, found = rebuild(platform, "far", "latest")
    assert code == 5
    assert "no version" in found["error"]
