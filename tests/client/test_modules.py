"""What objects are made of, and what of it travels along."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from modelfleet.client.saving import requirements_of, save
from modelfleet.client.saving.modules import survey
from modelfleet.client.saving.pickles import distributions, framed, kind

X = np.random.default_rng(0).normal(size=(80, 3))
Y = (X[:, 0] > 0).astype(int)


@pytest.fixture
def own_module(tmp_path: Path) -> Any:
    """A module of nobody else's, as beside a notebook."""
    (tmp_path / "beside.py").write_text(
        "import numpy as np\n\n\ndef halves(x):\n    return np.divide(x, 2)\n"
    )
    spec = importlib.util.spec_from_file_location("beside", tmp_path / "beside.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["beside"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["beside"]


def test_what_is_nested_deep_becomes_a_requirement() -> None:
    light = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1)
    model = VotingClassifier([("a", light), ("b", LogisticRegression())], voting="soft").fit(X, Y)
    names = [one.partition("==")[0] for one in requirements_of(model)]
    assert {"lightgbm", "scikit-learn", "numpy"} <= set(names)
    assert not survey(model).by_value


@pytest.mark.parametrize("nameless", [True, False])
def test_functions_of_the_callers_own_travel_along(
    own_module: Any, tmp_path: Path, nameless: bool
) -> None:
    function = (lambda x: np.divide(x, 2)) if nameless else own_module.halves
    model = make_pipeline(FunctionTransformer(function), LogisticRegression()).fit(X, Y)
    found = survey(model)
    assert found.by_value
    assert ("beside" in found.own) is not nameless
    saved = save(model, X, work=tmp_path)
    assert any(one.startswith("cloudpickle==") for one in saved.requirements)
    (tmp_path / "model.pkl").write_bytes(saved.content("model.pkl"))
    code = f"import joblib, sys; joblib.load({str(tmp_path / 'model.pkl')!r}).predict([[0, 0, 0]])"
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, cwd="/", capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("packed", [0, ("zlib", 3), ("gzip", 3), ("xz", 3)])
def test_packed_files_tell_what_they_need(tmp_path: Path, packed: Any) -> None:
    light = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1)
    model = make_pipeline(light).fit(X, Y)
    path = tmp_path / "model.joblib"
    joblib.dump(model, path, compress=packed)
    assert kind(path) == "sklearn"
    assert {"lightgbm", "joblib"} <= set(distributions(path))


def test_a_file_remembers_that_it_was_fitted_on_a_frame(tmp_path: Path) -> None:
    import polars

    frame = polars.DataFrame(X, schema=["a", "b", "c"])
    joblib.dump(LogisticRegression().fit(frame, Y), tmp_path / "framed.joblib")
    joblib.dump(LogisticRegression().fit(X, Y), tmp_path / "plain.joblib")
    assert framed(tmp_path / "framed.joblib")
    assert not framed(tmp_path / "plain.joblib")


def test_large_arrays_are_walked_past() -> None:
    """They are handed to the file as buffers, not as bytes."""
    model = LogisticRegression().fit(X, Y)
    model.table = np.zeros(1_000_000)
    assert survey(model).distributions[:1] == ("numpy",)
