"""LightGBM (Booster text) and XGBoost (ubj, json): the boosters themselves, without their wrappers.

One thread each: workers hold many models and scale by processes. Classifiers give `label` and
`probability` [N, k]; a binary booster's single probability becomes two columns. Columns that were
categories of a pandas frame are text (or whole numbers), which become their codes here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from modelfleet_worker.runtimes.base import (
    BOTH,
    CLASSIFIER,
    Facts,
    LoadError,
    ModelFault,
    Tensors,
    framework,
    is_classifier,
    labels,
    matrix_facts,
    table,
)
from modelfleet_worker.wire.signature import Array, TensorSpec
from modelfleet_worker.wire.spec import BundleSpec

Categories = Mapping[int, Sequence[Any]]
"""what each code of a column stands for, by position of the column"""


class LightgbmRuntime:
    """A LightGBM Booster."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        self._booster = read_lightgbm(artifact)
        self._categories = _of_lightgbm(artifact, self._booster)
        self._spec = spec
        self._classifies = is_classifier(spec)

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        booster = read_lightgbm(artifact)
        objective = _line(artifact, "objective").split(" ")[0]
        classifies = objective in ("binary", "multiclass", "multiclassova", "cross_entropy")
        categories = _of_lightgbm(artifact, booster)
        return _facts(booster.feature_name(), classifies, categories, options)

    def predict(self, inputs: Tensors) -> Tensors:
        data = _floats(inputs, self._spec, self._categories)
        raw = self._booster.predict(data, num_threads=1)
        return _outputs(self._spec, self._classifies, raw)


class XgboostRuntime:
    """An XGBoost Booster, asked by `inplace_predict` (no DMatrix) where its kind can.

    `options.trees`: how many rounds answer (those before it was stopped early); `options.missing`:
    the number that stands for a missing value.
    """

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        self._booster, trees = read_xgboost(artifact, spec.options)
        self._rounds = (0, trees)
        self._missing = float(spec.options.get("missing", np.nan))
        self._categories = _of_xgboost(self._booster)
        self._linear = _booster_name(self._booster) == "gblinear"
        self._matrix = framework("xgboost").DMatrix
        self._spec = spec
        self._classifies = is_classifier(spec)

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        booster, _ = read_xgboost(artifact, options)
        learner = json.loads(booster.save_config())["learner"]
        said = learner["objective"]["name"]
        targets = int(learner["learner_model_param"].get("num_target") or 1)
        classifies = said in ("binary:logistic", "multi:softprob") and targets == 1
        names = booster.feature_names or [f"f{k}" for k in range(booster.num_features())]
        return _facts(names, classifies, _of_xgboost(booster), options)

    def predict(self, inputs: Tensors) -> Tensors:
        data = _floats(inputs, self._spec, self._categories)
        if self._linear:
            matrix = self._matrix(data, missing=self._missing, nthread=1)
            raw = self._booster.predict(matrix, validate_features=False)
        else:
            raw = self._booster.inplace_predict(
                data,
                iteration_range=self._rounds,
                missing=self._missing,
                validate_features=False,
            )
        return _outputs(self._spec, self._classifies, raw)


def read_lightgbm(artifact: Path) -> Any:
    """The booster of a text file. LoadError if it is none."""
    lightgbm = framework("lightgbm")
    try:
        return lightgbm.Booster(model_file=str(artifact))
    except lightgbm.basic.LightGBMError as error:
        raise LoadError(f"{artifact.name}: {error}") from error


def read_xgboost(artifact: Path, options: Mapping[str, Any]) -> tuple[Any, int]:
    """The booster, and how many of its rounds answer (0: all). LoadError if it can't be read.

    What XGBoost's estimators save remembers where training was stopped early, and they answer with
    the rounds until then.
    """
    xgboost = framework("xgboost")
    try:
        booster = xgboost.Booster(params={"nthread": 1})
        booster.load_model(str(artifact))
    except (xgboost.core.XGBoostError, ValueError) as error:
        raise LoadError(f"{artifact.name}: {str(error).splitlines()[0]}") from error
    booster.set_param({"nthread": 1})
    trees = int(options.get("trees") or 0)
    best = booster.attr("best_iteration")
    if not trees and best is not None and booster.attr("scikit_learn") is not None:
        trees = int(best) + 1
    return booster, trees


def _booster_name(booster: Any) -> str:
    found: str = json.loads(booster.save_config())["learner"]["gradient_booster"]["name"]
    return found


def _of_xgboost(booster: Any) -> Categories:
    """The categories that XGBoost 3.1 and newer keep in the model."""
    if "c" not in (booster.feature_types or ()):
        return {}
    model = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"].get("model", {})
    encoded = model.get("cats", {}).get("enc", [])
    return {k: _plain(one) for k, one in enumerate(encoded) if len(one.get("values", ()))}


def _plain(encoded: Mapping[str, Any]) -> list[Any]:
    """Numbers as they are; texts, which are written end to end, apart."""
    if "offsets" not in encoded:
        return list(encoded["values"])
    text, ends = bytes(value % 256 for value in encoded["values"]), encoded["offsets"]
    return [text[begin:end].decode() for begin, end in zip(ends, ends[1:])]


def _of_lightgbm(artifact: Path, booster: Any) -> Categories:
    """The categories that came with a pandas frame, in the order of the columns that had them."""
    known = booster.pandas_categorical
    if not known:
        return {}
    infos = _line(artifact, "feature_infos").split(" ")
    columns = [k for k, info in enumerate(infos) if info[:1] not in ("[", "n")]
    if len(columns) != len(known):
        raise LoadError(f"{artifact.name}: which columns its categories belong to can't be told")
    return dict(zip(columns, known))


def _line(artifact: Path, name: str) -> str:
    """What stands behind `name=` in a LightGBM text."""
    text = artifact.read_text("utf-8", "replace")
    return text.partition(f"\n{name}=")[2].partition("\n")[0]


def _facts(
    names: Sequence[str], classifies: bool, categories: Categories, options: Mapping[str, Any]
) -> Facts:
    if not categories:
        return matrix_facts(names, classifies, **options)
    specs = tuple(
        TensorSpec(name, _datatype(categories.get(k)), (-1,)) for k, name in enumerate(names)
    )
    if classifies:
        return Facts(specs, CLASSIFIER, BOTH, dict(options))
    return Facts(specs, options=dict(options))


def _datatype(categories: Optional[Sequence[Any]]) -> str:
    if categories is None:
        return "FP64"
    if all(isinstance(value, bool) for value in categories):
        return "BOOL"
    return "INT64" if all(isinstance(value, int) for value in categories) else "BYTES"


def _floats(inputs: Tensors, spec: BundleSpec, categories: Categories) -> Array:
    if categories:
        columns = spec.signature.columns([inputs[tensor.name] for tensor in spec.signature.inputs])
        known = spec.runtime == "xgboost"
        coded = [
            _codes(column, categories[k], known) if k in categories else column
            for k, column in enumerate(columns)
        ]
        return np.column_stack([column.astype(np.float64) for column in coded])
    data = table(inputs, spec.signature)
    return data if data.dtype.kind == "f" else data.astype(np.float64)


def _codes(column: Array, categories: Sequence[Any], all_known: bool) -> Array:
    """Positions of the values; NaN for none, and, as LightGBM does it, for unknown ones.

    all_known: ModelFault for these, as XGBoost does it.
    """
    places = {value: k for k, value in enumerate(categories)}
    values = column.tolist()
    codes = [places.get(value, np.nan) for value in values]
    if all_known:
        for code, value in zip(codes, values):
            if code != code and value is not None and value == value:
                raise ModelFault(f"the category {value!r} was not in its training data")
    return np.array(codes, dtype=np.float64)


def _outputs(spec: BundleSpec, classifies: bool, raw: Array) -> Tensors:
    if not classifies:
        return {spec.signature.outputs[0].name: raw}
    probability = raw if raw.ndim == 2 else np.column_stack([1.0 - raw, raw])
    return {"label": labels(spec, probability), "probability": probability}
