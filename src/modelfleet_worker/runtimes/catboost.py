"""CatBoost models (.cbm), asked through the one class that reads all of them; one thread."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelfleet_worker.runtimes.base import (
    BOTH,
    CLASSIFIER,
    Facts,
    LoadError,
    Tensors,
    framework,
    is_classifier,
    labels,
    matrix_facts,
    table,
)
from modelfleet_worker.wire.signature import Array, TensorSpec
from modelfleet_worker.wire.spec import BundleSpec

_KINDS = {
    "Poisson": "Exponent",
    "Tweedie": "Exponent",
    "RMSEWithUncertainty": "RMSEWithUncertainty",
}
_SEVERAL = ("MultiLogloss", "MultiCrossEntropy")


class CatboostRuntime:
    """Classifiers give `label` and `probability`, regressors what their own class gives (for
    Poisson and Tweedie the exponent of the raw value). Categorical columns are text."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        self._model = read(artifact)
        self._spec = spec
        self._classifies = is_classifier(spec)
        loss = _loss(self._model)
        self._kind = "Probability" if self._classifies else _KINDS.get(loss, "RawFormulaVal")
        self._several = loss in _SEVERAL
        threshold = dict(self._model.get_metadata()).get("binclass_probability_threshold")
        self._threshold = None if threshold is None else float(threshold)

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        model = read(artifact)
        classes = np.asarray(model.classes_).tolist()
        names = [str(name) for name in model.feature_names_]
        names = [f"f{name}" if name.isdigit() else name for name in names]
        extra = {**options, **({"classes": classes} if classes else {})}
        text = {*model.get_cat_feature_indices(), *model.get_text_feature_indices()}
        if not text:
            return matrix_facts(names, bool(classes), **extra)
        specs = tuple(
            TensorSpec(name, "BYTES" if k in text else "FP64", (-1,))
            for k, name in enumerate(names)
        )
        if classes:
            return Facts(specs, CLASSIFIER, BOTH, extra)
        return Facts(specs, options=extra)

    def predict(self, inputs: Tensors) -> Tensors:
        data = table(inputs, self._spec.signature)
        raw = self._model.predict(data, prediction_type=self._kind, thread_count=1)
        if not self._classifies:
            return {self._spec.signature.outputs[0].name: raw}
        return {"label": self._label(data, raw), "probability": raw}

    def _label(self, data: Array, probability: Array) -> Array:
        if self._several:  # a label for each output
            return np.asarray(self._model.predict(data, prediction_type="Class", thread_count=1))
        if self._threshold is None or probability.shape[1] != 2:
            return labels(self._spec, probability)
        above = (probability[:, 1] > self._threshold).astype(np.int64)
        named: Array = np.asarray(self._spec.options.get("classes", (0, 1)))
        return named[above]


def _loss(model: Any) -> str:
    """The name of its loss function, without that one's own parameters."""
    said: dict[str, Any] = {}
    with contextlib.suppress(framework("catboost").CatBoostError):  # a sum of models has none
        said = model.get_all_params()
    return str(said.get("loss_function", "")).partition(":")[0]


def read(artifact: Path) -> Any:
    """The model of a .cbm or .json file. LoadError if it is none."""
    catboost = framework("catboost")
    model = catboost.CatBoost()
    try:
        model.load_model(str(artifact), format="json" if artifact.suffix == ".json" else "cbm")
    except catboost.CatBoostError as error:
        raise LoadError(f"{artifact.name}: {error}") from error
    return model
