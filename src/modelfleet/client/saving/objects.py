"""Objects that answer their example here and now: scikit-learn, LightGBM, XGBoost, plain Python."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelfleet.client.saving.installed import is_here, own_python, pinned
from modelfleet.client.saving.modules import Survey, pickled, survey

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
    python: str = field(default_factory=own_python)
    sandbox: Report | None = None

    def content(self, path: str) -> bytes:
        found = self.files[path]
        return found.read_bytes() if isinstance(found, Path) else found


def knows(model: object, example: object = None) -> bool:
    """Is this one for `save`? Boosters without their estimators, and those of frames with
    categories, are asked elsewhere: by the code that will serve them."""
    modules = {cls.__module__.split(".")[0] for cls in type(model).__mro__}
    if modules & {"catboost", "torch", "keras", "tensorflow", "onnx"}:
        return False
    if _kind_or_none(modules) in ("lightgbm", "xgboost"):
        categories = "category" in map(str, getattr(example, "dtypes", ()))
        return hasattr(model, "fit") and not categories
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
    from modelfleet_worker import rows
    from modelfleet_worker.describe import score_of
    from modelfleet_worker.wire import profile, signature, spec

    inputs = tensors(example)
    if set(inputs) == {"x"} and inputs["x"].ndim > 2:
        raise TypeError("An example of this model is a matrix or a mapping of columns.")
    kind = _kind(model)
    calls = kind == "python" and not rows.aligned(inputs, {})
    golden = {name: array if calls else array[:EXAMPLE_ROWS] for name, array in inputs.items()}
    found = Survey() if kind in ("lightgbm", "xgboost") else survey(model)
    outputs, options = _outputs(model, kind, golden)
    if kind == "python" and not calls:
        calls = not rows.aligned(golden, outputs) or not rows.independent(
            lambda some: _outputs(model, kind, some)[0], golden, outputs
        )
    if calls:  # it takes no rows, or not each for itself
        if reference is not None:
            raise TypeError("A model that does not answer row by row can't have a reference.")
        golden, outputs = rows.one_call(golden), rows.one_call(outputs)
        options["batch"] = rows.WHOLE
    by_name = features is not None and set(inputs) == {"x"} and not calls
    named = {"x": tuple(features or ())} if by_name else None
    if named is None and set(inputs) == {"x"} and not calls:
        named = {"x": tuple(f"f{k}" for k in range(inputs["x"].shape[1]))}
    score = score_of(outputs)
    artifact, content = _artifact(model, kind, found, work)
    if refuse_missing is None:
        refuse_missing = _raises_for_missing(model, kind, golden)
    described = spec.BundleSpec(
        runtime=kind,
        artifact=artifact,
        signature=rows.of_calls(golden, outputs)
        if calls
        else signature.infer(golden, outputs, named),
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
    if requirements is not None:
        return Saved(files, tuple(requirements))
    framed = kind == "sklearn" and _takes_frames(model, golden)
    return Saved(files, _requirements(kind, found, ("pandas",) if framed else ()))


def tensors(rows: object) -> dict[str, Array]:
    import numpy as np

    frame: Any = rows
    columns = getattr(rows, "columns", None)
    if columns is not None or isinstance(rows, Mapping):  # a polars or pandas frame
        names = frame if columns is None else columns
        found = {str(name): _column(np.asarray(frame[name])) for name in names}
        for name, column in found.items():
            if column.dtype.kind in "mM":
                raise TypeError(
                    f"The column {name!r} holds times, which can't be sent to a model: "
                    "let it take text or numbers."
                )
        return found
    matrix = np.asarray(rows)
    if matrix.ndim < 2:
        raise TypeError("An example is a matrix [rows, features] or a mapping of columns.")
    return {"x": matrix}


def _column(values: Array) -> Array:
    return values.astype(object) if values.dtype.kind in "US" else values


def _kind_or_none(modules: Collection[str]) -> str | None:
    return next((name for name in ("lightgbm", "xgboost", "sklearn") if name in modules), None)


def _kind(model: object) -> str:
    framework = _kind_or_none({cls.__module__.split(".")[0] for cls in type(model).__mro__})
    if framework is not None:
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
    if not hasattr(model, "predict"):
        raise TypeError(f"{type(model).__name__} has no predict: wrap it in an object that has.")
    table = _table(model, kind, inputs)
    options = rounds_of(model) if kind == "xgboost" else {}
    answers = _probability(model, table)
    classes = np.asarray(model.classes_) if kind != "sklearn" and answers is not None else None
    if answers is None or (classes is not None and answers.shape[1:] != classes.shape):
        found = _predicted(model, table) if answers is None else answers
        return {"prediction": found}, options
    if classes is None:
        labels = _predicted(model, table)
    else:
        options["classes"] = classes.tolist()
        labels = classes[answers.argmax(axis=1)]
    return {"label": _column(labels), "probability": answers}, options


def _predicted(model: Any, table: Any) -> Array:
    import numpy as np

    found = model.predict(table)
    return _column(np.asarray(found.toarray() if hasattr(found, "toarray") else found))


def _probability(model: Any, table: Any) -> Array | None:
    """[rows, classes]; None of what has no such thing, or has one for each of its outputs."""
    import numpy as np

    if not hasattr(model, "predict_proba"):
        return None
    found = model.predict_proba(table)
    return None if isinstance(found, list) else np.asarray(found, dtype=np.float64)


def rounds_of(model: Any) -> dict[str, Any]:
    """What an estimator of XGBoost knows beside its booster."""
    found: dict[str, Any] = {}
    try:
        found["trees"] = int(model.best_iteration) + 1
    except AttributeError:  # its training was not stopped early
        found = {}
    missing = getattr(model, "missing", None)
    if missing is not None and missing == missing:
        found["missing"] = float(missing)
    return found


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
    except Exception:  # noqa: BLE001  # it refuses them in its own way, source and compiled alike
        return True
    return False


def _takes_frames(model: Any, inputs: Mapping[str, Array]) -> bool:
    """Was it fitted on a frame, and are there columns to make one of? Then its worker does."""
    matrix = len(inputs) == 1 and next(iter(inputs.values())).ndim == 2
    return not matrix and hasattr(model, "feature_names_in_")


def _table(model: Any, kind: str, inputs: Mapping[str, Array]) -> Any:
    """The rows as the worker will hand them over."""
    import numpy as np

    if set(inputs) == {"x"} and inputs["x"].ndim > 1:
        return inputs["x"]
    columns = list(inputs.values())
    if kind == "sklearn" and _takes_frames(model, inputs) and is_here("pandas"):
        import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]

        return pandas.DataFrame(dict(inputs))
    if kind == "sklearn" and len(columns) == 1 and not hasattr(model, "n_features_in_"):
        return columns[0]  # texts, for a vectorizer
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


def _artifact(model: Any, kind: str, found: Survey, work: Path) -> tuple[str, bytes]:
    if kind == "sklearn" and not found.by_value:
        import joblib

        joblib.dump(model, work / "model.joblib")
        return "model.joblib", (work / "model.joblib").read_bytes()
    if kind == "lightgbm":
        booster = getattr(model, "booster_", model)
        return "model.txt", booster.model_to_string().encode()
    if kind == "xgboost":
        booster_of(model).save_model(work / "model.ubj")
        return "model.ubj", (work / "model.ubj").read_bytes()
    return "model.pkl", pickled(model, found.own)


def booster_of(model: Any) -> Any:
    """The booster of an estimator of XGBoost, or what is one."""
    return model.get_booster() if hasattr(model, "get_booster") else model


def requirements_of(model: object) -> tuple[str, ...]:
    """What `model` is made of, pinned to what is installed here."""
    kind = _kind(model)
    return _requirements(kind, Survey() if kind in ("lightgbm", "xgboost") else survey(model))


def _requirements(kind: str, found: Survey, extra: Sequence[str] = ()) -> tuple[str, ...]:
    if kind in ("lightgbm", "xgboost"):  # the booster alone is served
        cpu = kind == "xgboost" and _installed("xgboost-cpu")
        roots = {"numpy", "xgboost-cpu" if cpu else kind}
    else:
        framework = "cloudpickle" if kind == "python" else "scikit-learn"
        roots = {"numpy", framework, *found.distributions, *extra}
        roots |= {"cloudpickle"} if found.by_value else set()
    return tuple(sorted(one for name in roots for one in pinned(name)))


def _installed(name: str) -> bool:
    return pinned(name) != (name,)
