"""Objects that answer their example here and now: scikit-learn, LightGBM, XGBoost, plain Python."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from modelfleet_worker.sandbox import Report
    from modelfleet_worker.wire.signature import Array
    from modelfleet_worker.wire.spec import BundleSpec

EXAMPLE_ROWS = 256
_FRAMEWORKS = {"sklearn": "scikit-learn", "lightgbm": "lightgbm", "xgboost": "xgboost"}


@dataclass(frozen=True)
class Saved:
    """The files of a bundle (path to content, or to a file in the working folder) and what its
    environment must hold.

    sandbox: what was denied to the model while it was asked (`modelfleet_worker.sandbox.Report`);
    None if it ran in this process, or without.
    """

    files: Mapping[str, bytes | Path]
    requirements: tuple[str, ...]
    python: str = field(default_factory=lambda: own_python())
    sandbox: Report | None = None

    def content(self, path: str) -> bytes:
        found = self.files[path]
        return found.read_bytes() if isinstance(found, Path) else found


def knows(model: object) -> bool:
    """Is this one for `save`?"""
    modules = {cls.__module__.split(".")[0] for cls in type(model).__mro__}
    if modules & {"catboost", "torch", "keras", "tensorflow", "onnx"}:
        return False
    return bool(modules & set(_FRAMEWORKS)) or callable(getattr(model, "predict", None))


def save(
    model: object,
    example: object,
    *,
    features: Sequence[str] | None = None,
    reference: object | None = None,
    requirements: Sequence[str] | None = None,
    refuse_missing: bool | None = None,
    work: Path,
) -> Saved:
    """Bundle files for `model`; the arguments are those of `saving.save`."""
    if example is None:
        raise TypeError("An example is needed: a matrix [rows, features] or a mapping of columns.")
    from modelfleet_worker.describe import score_of
    from modelfleet_worker.wire import profile, signature, spec

    inputs = tensors(example)
    if set(inputs) == {"x"} and inputs["x"].ndim > 2:
        raise TypeError("An example of this model is a matrix or a mapping of columns.")
    golden = {name: array[:EXAMPLE_ROWS] for name, array in inputs.items()}
    kind = _kind(model)
    outputs, options = _outputs(model, kind, golden)
    named = {"x": tuple(features)} if features is not None and set(inputs) == {"x"} else None
    if named is None and set(inputs) == {"x"}:
        named = {"x": tuple(f"f{k}" for k in range(inputs["x"].shape[1]))}
    score = score_of(outputs)
    artifact, content = _artifact(model, kind, work)
    if refuse_missing is None:
        refuse_missing = _raises_for_missing(model, kind, golden)
    described = spec.BundleSpec(
        runtime=kind,
        artifact=artifact,
        signature=signature.infer(golden, outputs, named),
        method="predict+predict_proba" if "probability" in outputs else "predict",
        score=score,
        options=options,
        refuse_missing=refuse_missing,
    )
    files = {
        artifact: content,
        spec.BUNDLE_FILE: msgspec.json.encode(described),
        spec.EXAMPLE_FILE: msgspec.json.encode(spec.example_of(golden, outputs)),
    }
    if reference is not None:
        files[spec.REFERENCE_FILE] = profile.encode(
            _profile(model, kind, described, tensors(reference))
        )
    needed = tuple(requirements) if requirements is not None else requirements_of(model)
    return Saved(files, needed)


def tensors(rows: object) -> dict[str, Array]:
    import numpy as np

    if isinstance(rows, Mapping):
        return {str(name): _column(np.asarray(values)) for name, values in rows.items()}
    columns = getattr(rows, "columns", None)
    if columns is not None:  # a polars or pandas frame
        return {str(name): _column(np.asarray(rows[name])) for name in columns}  # type: ignore[index]
    matrix = np.asarray(rows)
    if matrix.ndim < 2:
        raise TypeError("An example is a matrix [rows, features] or a mapping of columns.")
    return {"x": matrix}


def _column(values: Array) -> Array:
    return values.astype(object) if values.dtype.kind in "US" else values


def _kind(model: object) -> str:
    modules = [cls.__module__.split(".")[0] for cls in type(model).__mro__]
    for framework in ("lightgbm", "xgboost", "sklearn"):
        if framework in modules:
            return framework
    if callable(getattr(model, "predict", None)):
        return "python"
    raise TypeError(
        f"{type(model).__name__} can't be saved: it is no scikit-learn, LightGBM or XGBoost model "
        "and has no predict(dict of arrays) -> dict of arrays."
    )


def _outputs(
    model: Any, kind: str, inputs: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """What the model gives for these inputs, and the options that its runtime needs."""
    import numpy as np

    if kind == "python":
        return {name: np.asarray(found) for name, found in model.predict(dict(inputs)).items()}, {}
    table = _table(inputs)
    if not hasattr(model, "predict_proba"):
        return {"prediction": np.asarray(model.predict(table), dtype=np.float64)}, {}
    probability = np.asarray(model.predict_proba(table), dtype=np.float64)
    classes = np.asarray(model.classes_)
    label = classes[probability.argmax(axis=1)] if kind != "sklearn" else model.predict(table)
    options = {"classes": classes.tolist()} if kind != "sklearn" else {}
    label = np.asarray(label)
    return {"label": _column(label), "probability": probability}, options


def _raises_for_missing(model: Any, kind: str, inputs: Mapping[str, Array]) -> bool:
    """What a compiled graph would answer with a number: the source has to be asked."""
    import numpy as np

    if kind == "python" or not any(array.dtype.kind == "f" for array in inputs.values()):
        return False
    gaps = {
        name: np.full_like(array[:1], np.nan) if array.dtype.kind == "f" else array[:1]
        for name, array in inputs.items()
    }
    try:
        _outputs(model, kind, gaps)
    except ValueError:
        return True
    return False


def _table(inputs: Mapping[str, Array]) -> Array:
    import numpy as np

    if set(inputs) == {"x"}:
        return inputs["x"]
    columns = list(inputs.values())
    if all(column.dtype.kind != "O" for column in columns):
        return np.column_stack(columns)
    mixed: Array = np.empty((len(columns[0]), len(columns)), dtype=object)
    for k, column in enumerate(columns):
        mixed[:, k] = column
    return mixed


def _profile(model: Any, kind: str, described: BundleSpec, rows: Mapping[str, Array]) -> Any:
    from modelfleet_worker.wire import profile

    ordered = [rows[tensor.name] for tensor in described.signature.inputs]
    scores = None
    if described.score is not None:
        outputs, _ = _outputs(model, kind, rows)
        scores = described.score.of(outputs[described.score.output])
    names = described.signature.feature_names()
    return profile.build_profile(names, described.signature.columns(ordered), scores)


def _artifact(model: Any, kind: str, work: Path) -> tuple[str, bytes]:
    if kind == "sklearn":
        import joblib

        joblib.dump(model, work / "model.joblib")
        return "model.joblib", (work / "model.joblib").read_bytes()
    if kind == "lightgbm":
        booster = getattr(model, "booster_", model)
        return "model.txt", booster.model_to_string().encode()
    if kind == "xgboost":
        booster = model.get_booster() if hasattr(model, "get_booster") else model
        booster.save_model(work / "model.ubj")
        return "model.ubj", (work / "model.ubj").read_bytes()
    return "model.pkl", _pickled(model)


def _pickled(model: object) -> bytes:
    """The object and, unless it comes from an installed package, the code of its class."""
    import cloudpickle

    module = sys.modules[type(model).__module__]
    own = module.__name__.split(".")[0] not in importlib.metadata.packages_distributions()
    if not own or module.__name__ == "__main__":
        return bytes(cloudpickle.dumps(model))
    cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(model))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def requirements_of(model: object) -> tuple[str, ...]:
    """The framework of `model` and what it needs, pinned to what is installed here."""
    kind = _kind(model)
    roots = ["numpy"]
    if kind == "python":
        roots.append("cloudpickle")
    elif kind == "xgboost" and _installed("xgboost-cpu"):
        roots.append("xgboost-cpu")
    else:
        roots.append(_FRAMEWORKS[kind])
    if kind == "sklearn":
        roots += [m for m in _modules_of_steps(model) if m in _FRAMEWORKS.values()]
    return tuple(sorted({f"{name}=={importlib.metadata.version(name)}" for name in roots}))


def _modules_of_steps(model: object) -> list[str]:
    """Distributions of the steps of a pipeline."""
    found = []
    for _, step in getattr(model, "steps", ()):
        top = type(step).__module__.split(".")[0]
        found.append(_FRAMEWORKS.get(top, re.sub(r"[-_.]+", "-", top)))
    return found


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def own_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
