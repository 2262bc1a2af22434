"""What is served: the same trained objects on every side.

Peers get each of them as one joblib file; whatever its framework, it answers `predict(rows)`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np

ROW = [17.9, 10.3, 122.8, 1001.0]
FEATURES = len(ROW)


@dataclass(frozen=True)
class Subject:
    """One model of the benchmark. connections: how many clients ask at a time."""

    name: str
    connections: int
    train: Callable[[Any, Any], Any] | None
    """None: by `torch_mlp`, elsewhere"""
    ratio: str = ""
    """its figure in the closing line"""


def _logistic(x: Any, y: Any) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)


def _forest(x: Any, y: Any) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, random_state=0).fit(x, y)


def _xgboost(x: Any, y: Any) -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=100, n_jobs=1, random_state=0).fit(x, y)


def _lightgbm(x: Any, y: Any) -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=100, n_jobs=1, random_state=0, verbose=-1).fit(x, y)


def torch_mlp(folder: Path, python: Path) -> None:
    """`torch.joblib` for the peers and `torch.pt2` for us, made where there is torch."""
    script = Path(__file__).with_name("torch_mlp.py")
    subprocess.run([python, script, folder], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


SUBJECTS = (
    Subject("logistic", 16, _logistic, ratio="small_ratio"),
    Subject("forest100", 16, _forest, ratio="forest_ratio"),
    Subject("xgboost", 16, _xgboost, ratio="xgboost_ratio"),
    Subject("lightgbm", 16, _lightgbm, ratio="lightgbm_ratio"),
    Subject("torch", 64, None, ratio="torch_ratio"),
)


def training_data() -> tuple[Any, Any]:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return np.ascontiguousarray(x[:, :FEATURES]), y


def train(folder: Path) -> dict[str, Any]:
    """All models, each also as `<folder>/<name>.joblib`."""
    folder.mkdir(parents=True, exist_ok=True)
    x, y = training_data()
    made = {one.name: one.train(x, y) for one in SUBJECTS if one.train is not None}
    for name, model in made.items():
        joblib.dump(model, folder / f"{name}.joblib")
    return made
