"""scikit-learn estimators (and everything with its `predict` and `predict_proba`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelfleet_worker.runtimes.base import (
    BOTH,
    CLASSIFIER,
    Facts,
    LoadError,
    ModelFault,
    Tensors,
    framework,
    matrix_facts,
    optional_module,
    table,
    unpickle,
)
from modelfleet_worker.wire.signature import Array
from modelfleet_worker.wire.spec import BundleSpec

_TIE = 1e-9
_BY_VOTE = {
    "BaseGradientBoosting",
    "BaseHistGradientBoosting",
    "BaseNB",
    "DecisionTreeClassifier",
    "ForestClassifier",
    "LGBMClassifier",
    "LinearDiscriminantAnalysis",
    "LogisticRegression",
    "MLPClassifier",
    "QuadraticDiscriminantAnalysis",
    "XGBClassifier",
    "_BaseNB",
}


class SklearnRuntime:
    """Outputs: `label` and `probability` of classifiers; otherwise the first output.

    A model that was fitted on a pandas frame gets one if its inputs are columns.
    """

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        self._model = read(artifact, spec.options)
        self._spec = spec
        self._method = spec.method
        for method in spec.method.split("+"):
            if not hasattr(self._model, method):
                kind = type(self._model).__name__
                raise LoadError(f"{artifact.name}: {kind} has no {method}")
        self._label_by_vote = _predicts_by_vote(self._model)
        self._pandas = None
        if not spec.signature.is_matrix and hasattr(self._model, "feature_names_in_"):
            self._pandas = optional_module("pandas")
        self._series = takes_series(self._model, spec)

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        model = read(artifact, options)
        if not hasattr(model, "predict"):
            raise LoadError(f"{artifact.name}: {type(model).__name__} has no predict")
        count = getattr(model, "n_features_in_", None)
        names = getattr(model, "feature_names_in_", None)
        several = isinstance(getattr(model, "classes_", None), list)
        classifies = hasattr(model, "predict_proba") and not several
        if count is None:
            return Facts(None, CLASSIFIER, BOTH) if classifies else Facts()
        columns = [str(n) for n in names] if names is not None else [f"f{k}" for k in range(count)]
        return matrix_facts(columns, classifies)

    def predict(self, inputs: Tensors) -> Tensors:
        data = self._data(inputs)
        if self._method == "predict":
            return {self._spec.signature.outputs[0].name: _dense(self._model.predict(data))}
        probability = self._probability(data)
        if self._method == "predict_proba":
            return {self._spec.signature.outputs[0].name: probability}
        return {"label": self._label(data, probability), "probability": probability}

    def _probability(self, data: Any) -> Array:
        probability: Any = self._model.predict_proba(data)
        if isinstance(probability, list):
            raise ModelFault("a classifier of several outputs has no single probability")
        return probability  # type: ignore[no-any-return]

    def _label(self, data: Any, probability: Array) -> Array:
        if self._label_by_vote:
            ordered = np.sort(probability, axis=1)
            if probability.shape[1] < 2 or (ordered[:, -1] - ordered[:, -2] > _TIE).all():
                return self._model.classes_[probability.argmax(axis=1)]  # type: ignore[no-any-return]
        return _dense(self._model.predict(data))

    def _data(self, inputs: Tensors) -> Any:
        if self._series:
            return next(iter(inputs.values()))
        if self._pandas is None:
            return table(inputs, self._spec.signature)
        return self._pandas.DataFrame({name: inputs[name] for name in self._names()})

    def _names(self) -> list[str]:
        return [spec.name for spec in self._spec.signature.inputs]


def read(artifact: Path, options: Mapping[str, Any]) -> Any:
    """The estimator of a joblib, pickle or skops file.

    skops: no types but those that it trusts itself and those of `options.trusted`.
    """
    if artifact.suffix != ".skops":
        return unpickle(artifact)
    skops = framework("skops.io")
    try:
        return skops.load(artifact, trusted=list(options.get("trusted") or ()))
    except Exception as error:  # its own errors share no base class
        raise LoadError(f"{artifact.name}: {error}") from error


def takes_series(model: Any, spec: BundleSpec) -> bool:
    """Does it begin with what takes one series of texts, as vectorizers do?"""
    inputs = spec.signature.inputs
    alone = len(inputs) == 1 and len(inputs[0].shape) == 1
    return alone and not hasattr(model, "n_features_in_")


def _dense(found: Any) -> Array:
    array: Array = found.toarray() if hasattr(found, "toarray") else found
    return array


def _predicts_by_vote(model: Any) -> bool:
    """Is `predict` the argmax of `predict_proba`, but for ties? Then it need not be asked, too."""
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    names = {kind.__name__ for kind in type(last).__mro__}
    return bool(names & _BY_VOTE) and getattr(last, "n_outputs_", 1) == 1
