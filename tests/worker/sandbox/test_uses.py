"""Where model code runs outside of workers: described by the client, converted by the platform."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import msgspec
import numpy as np
import pytest
import xgboost
from sklearn.ensemble import RandomForestClassifier

import modelfleet_worker
from modelfleet.client.errors import ClientError
from modelfleet.client.saving import save
from modelfleet_worker.sandbox import landlock, seccomp
from modelfleet_worker.wire import bundle as bundles

PACKAGE = str(Path(modelfleet_worker.__file__).parent.parent)
pytestmark = [
    pytest.mark.skipif(landlock.abi() < 6, reason="the kernel lacks a part of Landlock"),
    pytest.mark.skipif(seccomp.machine() is None, reason="no filter for this machine"),
]
X = np.random.default_rng(0).normal(size=(40, 3))
Y = (X[:, 0] > 0).astype(int)


class MakesFolder:
    """Unpickled, it makes a folder: a mark that it ran where it could do harm."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("sandboxed", [True, False])
def test_a_description_reaches_nothing(tmp_path: Path, sandboxed: bool) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(MakesFolder(mark)))
    with pytest.raises(ClientError, match="Permission denied" if sandboxed else "no predict"):
        save(tmp_path / "evil.pkl", X, work=tmp_path, kind="python", sandboxed=sandboxed)
    assert mark.exists() != sandboxed


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("a.joblib", RandomForestClassifier(3, n_jobs=2)),
        ("a.pkl", lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=2)),
        ("a.ubj", xgboost.XGBClassifier(n_estimators=3, n_jobs=2)),
    ],
)
def test_models_are_described_in_it(tmp_path: Path, name: str, model: Any) -> None:
    model.fit(X, Y)
    if name.endswith("ubj"):
        model.save_model(tmp_path / name)
    else:
        joblib.dump(model, tmp_path / name)
    saved = save(tmp_path / name, X, reference=X, work=tmp_path)
    assert saved.sandbox is not None
    assert saved.sandbox.complete
    assert {"bundle.json", "example.json", "reference.json"} <= set(saved.files)
    example = json.loads(saved.content("example.json"))
    np.testing.assert_allclose(
        example["outputs"]["probability"], model.predict_proba(X), rtol=1e-5, atol=1e-6
    )


def made(folder: Path, artifact: bytes) -> tuple[Path, str]:
    """A bundle of a Python object."""
    place = folder / "bundle"
    (place / "files").mkdir(parents=True)
    said = {
        "runtime": "python",
        "artifact": "model.pkl",
        "signature": {
            "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}],
            "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1]}],
        },
    }
    (place / "files" / "bundle.json").write_bytes(msgspec.json.encode(said))
    (place / "files" / "example.json").write_text('{"inputs": {"x": []}, "outputs": {"y": []}}')
    (place / "files" / "model.pkl").write_bytes(artifact)
    return place, bundles.write_manifest(place)


def test_without_its_sandbox_no_model_is_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    place, digest = made(tmp_path, pickle.dumps(MakesFolder(mark)))
    order = {"bundle": str(place), "digest": digest, "out": str(tmp_path / "out" / "bundle")}
    broken = (
        "from modelfleet_worker.sandbox import system\n"
        "def prctl(*_):\n    raise OSError(1, 'not today')\n"
        "system.prctl = prctl\n"
        "from modelfleet_worker.compile.converter import serve\nserve()"
    )
    done = subprocess.run(
        [sys.executable, "-c", broken],
        input=json.dumps(order).encode() + b"\n",
        capture_output=True,
        env={"PYTHONPATH": PACKAGE},
        timeout=60,
        check=True,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert "can't be entered" in answer["reason"]
    assert "not today" in answer["reason"]
    assert (answer["loads"], mark.exists()) == (False, False)


@pytest.mark.parametrize("sandboxed", [True, False])
def test_a_conversion_reaches_nothing(tmp_path: Path, sandboxed: bool) -> None:
    mark = tmp_path / "mark"
    place, digest = made(tmp_path, pickle.dumps(MakesFolder(mark)))
    (tmp_path / "out").mkdir()
    order = {
        "bundle": str(place),
        "digest": digest,
        "out": str(tmp_path / "out" / "bundle"),
        "sandboxed": sandboxed,
    }
    done = subprocess.run(
        [sys.executable, "-m", "modelfleet_worker.convert"],
        input=json.dumps(order).encode() + b"\n",
        capture_output=True,
        env={"PYTHONPATH": PACKAGE},
        timeout=60,
        check=True,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["loads"] is False
    assert mark.exists() != sandboxed
    assert (answer["sandbox"] is not None) == sandboxed
    if sandboxed:
        assert answer["sandbox"]["missing"] == []
        assert "Permission denied" in answer["reason"]
