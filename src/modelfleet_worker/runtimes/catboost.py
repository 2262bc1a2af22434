"""CatBoost models (.cbm), asked through the one class that reads all of them; one thread."""

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
    Tensors,
    framework,
    is_classifier,
    labels,
    matrix_facts,
    table,
)
from modelfleet_worker.wire.signature import TensorSpec
from modelfleet_worker.wire.spec import BundleSpec


class CatboostRuntime:
    """Classifiers give `label` and `probability`. Categorical columns are text."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        self._model = read(artifact)
        self._spec = spec
        self._kind = "Probability" if is_classifier(spec) else "RawFormulaVal"

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
        if self._kind != "Probability":
            return {self._spec.signature.outputs[0].name: raw}
        return {"label": labels(self._spec, raw), "probability": raw}


def read(artifact: Path) -> Any:
    """The model of a .cbm file. LoadError if it is none."""
    catboost = framework("catboost")
    model = catboost.CatBoost()
    try:
        model.load_model(str(artifact))
    except catboost.CatBoostError as error:
        raise LoadError(f"{artifact.name}: {error}") from error
    return model
