"""LightGBM (Booster text) and XGBoost (ubj): the boosters themselves, without their wrappers.

One thread each: workers hold many models and scale by processes. Classifiers give `label` and
`probability` [N, k]; a binary booster's single probability becomes two columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelfleet_worker.runtimes.base import (
    Facts,
    LoadError,
    Tensors,
    framework,
    is_classifier,
    labels,
    matrix_facts,
    table,
)
from modelfleet_worker.wire.signature import Array
from modelfleet_worker.wire.spec import BundleSpec


class LightgbmRuntime:
    """A LightGBM Booster."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        try:
            import lightgbm
        except ModuleNotFoundError as error:
            raise LoadError("this environment does not have lightgbm") from error
        try:
            self._booster: Any = lightgbm.Booster(model_file=str(artifact))
        except lightgbm.basic.LightGBMError as error:
            raise LoadError(f"{artifact.name}: {error}") from error
        self._spec = spec
        self._classifies = is_classifier(spec)

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        booster = framework("lightgbm").Booster(model_file=str(artifact))
        text = artifact.read_text("utf-8", "replace")
        objective = text.partition("objective=")[2].partition("\n")[0].split(" ")[0]
        classifies = objective in ("binary", "multiclass", "multiclassova", "cross_entropy")
        return matrix_facts(booster.feature_name(), classifies, **options)

    def predict(self, inputs: Tensors) -> Tensors:
        raw = self._booster.predict(_floats(inputs, self._spec), num_threads=1)
        return _outputs(self._spec, self._classifies, raw)


class XgboostRuntime:
    """An XGBoost Booster, asked by `inplace_predict` (no DMatrix)."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        try:
            import xgboost
        except ModuleNotFoundError as error:
            raise LoadError("this environment does not have xgboost") from error
        try:
            self._booster: Any = xgboost.Booster(params={"nthread": 1})
            self._booster.load_model(str(artifact))
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise LoadError(f"{artifact.name}: {str(error).splitlines()[0]}") from error
        self._booster.set_param({"nthread": 1})
        self._spec = spec
        self._classifies = is_classifier(spec)

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        booster = framework("xgboost").Booster(params={"nthread": 1})
        booster.load_model(str(artifact))
        said = json.loads(booster.save_config())["learner"]["objective"]["name"]
        names = booster.feature_names or [f"f{k}" for k in range(booster.num_features())]
        return matrix_facts(names, said in ("binary:logistic", "multi:softprob"), **options)

    def predict(self, inputs: Tensors) -> Tensors:
        data = _floats(inputs, self._spec)
        raw = self._booster.inplace_predict(data, validate_features=False)
        return _outputs(self._spec, self._classifies, raw)


def _floats(inputs: Tensors, spec: BundleSpec) -> Array:
    data = table(inputs, spec.signature)
    return data if data.dtype.kind == "f" else data.astype(np.float64)


def _outputs(spec: BundleSpec, classifies: bool, raw: Array) -> Tensors:
    if not classifies:
        return {spec.signature.outputs[0].name: raw}
    probability = raw if raw.ndim == 2 else np.column_stack([1.0 - raw, raw])
    return {"label": labels(spec, probability), "probability": probability}
