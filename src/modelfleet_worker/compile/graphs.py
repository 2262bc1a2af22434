"""Source artifacts to ONNX graphs: scikit-learn by skl2onnx, boosters by onnxmltools or by
themselves, networks (`compile.networks`) by their frameworks' exporters.

Inputs of trees are float32 (forests in float64 are off by up to 0.03 in ONNX Runtime) or strings,
one [N, 1] tensor per column; classifiers answer with tensors, not with ZipMap's lists of dicts.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelfleet_worker.compile import networks
from modelfleet_worker.compile.missing import write_missing
from modelfleet_worker.runtimes.base import WHOLE, is_classifier, optional_module
from modelfleet_worker.runtimes.boosters import read_xgboost
from modelfleet_worker.runtimes.catboost import read as read_catboost
from modelfleet_worker.runtimes.sklearn import read as read_sklearn
from modelfleet_worker.runtimes.tensorflow import quiet_tensorflow
from modelfleet_worker.wire.bundle import FILES
from modelfleet_worker.wire.signature import Signature
from modelfleet_worker.wire.spec import BundleSpec

MATRIX = "x"
TREES = ("sklearn", "lightgbm", "xgboost", "catboost")
KEPT = ("batch", "example")
"""options that a compiled bundle inherits"""
NEEDS = {
    "sklearn": ("sklearn", "skl2onnx"),
    "lightgbm": ("lightgbm", "onnxmltools"),
    "xgboost": ("xgboost", "onnxmltools"),
    "catboost": ("catboost",),
    "torch": ("torch", "onnxscript"),
    "keras": ("keras", "tf2onnx"),
    "tensorflow": ("tensorflow", "tf2onnx"),
}
UNCONVERTED = {
    "onnx": "it is an ONNX graph already",
    "python": "Python objects are not converted",
    "mlflow": "models that MLflow loads itself are not converted",
}


class NotConvertible(Exception):
    """No converter takes this model."""


def warm(runtime: str) -> None:
    """Import what converting this runtime needs. NotConvertible names what is missing."""
    if runtime not in NEEDS:
        other = f"models of the runtime {runtime!r} are not converted"
        raise NotConvertible(UNCONVERTED.get(runtime, other))
    if runtime in ("keras", "tensorflow"):
        quiet_tensorflow()
    for name in ("numpy", "onnx", "onnxruntime", *NEEDS[runtime]):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise NotConvertible(f"this environment does not have {name}") from error
        if name == "onnx":
            _accept_bool_attributes()


def convert(bundle: Path, spec: BundleSpec) -> tuple[bytes, dict[str, Any]]:
    """The serialized graph, and the `options` that let the ONNX runtime find its tensors."""
    if spec.options.get("batch") == WHOLE:
        raise NotConvertible("it takes no rows: what it gives was not compared on several")
    warm(spec.runtime)
    graph = _graph(bundle, spec)
    names = [node.name for node in graph.graph.input]
    if spec.runtime in TREES and len(names) == 1 and not spec.signature.is_matrix:
        _split_columns(graph, names[0], spec.signature)
        names = [node.name for node in graph.graph.input]
    options = {
        "inputs": dict(zip([tensor.name for tensor in spec.signature.inputs], names)),
        "outputs": _outputs(spec, [node.name for node in graph.graph.output]),
    }
    options.update({key: spec.options[key] for key in KEPT if key in spec.options})
    if spec.runtime in ("lightgbm", "xgboost") and "classes" in spec.options:
        options["classes"] = spec.options["classes"]  # the graph gives their positions
    graph.graph.name = "model"  # some converters write a random one: equal models, equal digests
    return graph.SerializeToString(deterministic=True), options


def _graph(bundle: Path, spec: BundleSpec) -> Any:
    artifact = bundle / FILES / spec.artifact
    if spec.runtime == "sklearn":
        model = read_sklearn(artifact, spec.options)
        made = _sklearn(model, spec)
        if not spec.refuse_missing:
            write_missing(made, model)
        return made
    if spec.runtime == "lightgbm":
        return _lightgbm(artifact, spec)
    if spec.runtime == "xgboost":
        return _xgboost(artifact, spec)
    if spec.runtime == "catboost":
        return _catboost(artifact)
    if spec.runtime == "torch":
        return networks.from_torch(bundle, spec)
    if spec.runtime == "keras":
        return networks.from_keras(bundle, spec)
    if spec.runtime == "tensorflow":
        return networks.from_tensorflow(artifact, spec)
    raise NotConvertible(f"models of the runtime {spec.runtime!r} are not converted")


def _sklearn(model: Any, spec: BundleSpec) -> Any:
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    framed = hasattr(model, "feature_names_in_") and optional_module("pandas") is not None
    text = any(tensor.datatype == "BYTES" for tensor in spec.signature.inputs)
    matrix = [(MATRIX, FloatTensorType([None, len(spec.signature.feature_names())]))]
    columns = [
        (
            tensor.name,
            (StringTensorType if tensor.datatype == "BYTES" else FloatTensorType)([None, 1]),
        )
        for tensor in spec.signature.inputs
    ]
    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    if not spec.signature.is_matrix and (framed or text):
        try:
            return _by_skl2onnx(model, columns, options)
        except Exception:
            if text:
                raise  # else it was fitted on a frame, but takes its columns as one matrix
    return _by_skl2onnx(model, matrix, options)


def _by_skl2onnx(model: Any, types: Sequence[Any], options: Any) -> Any:
    """In the newest operators, or, for models that it can't write in them yet, in older ones."""
    import skl2onnx

    try:
        return skl2onnx.convert_sklearn(model, initial_types=types, options=options)
    except RuntimeError as error:
        if "ai.onnx.ml" not in str(error):
            raise
        older = {"": skl2onnx.__max_supported_opset__, "ai.onnx.ml": 3}
        return skl2onnx.convert_sklearn(
            model, initial_types=types, options=options, target_opset=older
        )


def _lightgbm(artifact: Path, spec: BundleSpec) -> Any:
    import lightgbm
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    booster = lightgbm.Booster(model_file=str(artifact))
    if booster.pandas_categorical:
        raise NotConvertible("models with categories of text are not converted")
    types = [(MATRIX, FloatTensorType([None, booster.num_feature()]))]
    if not is_classifier(spec):
        return onnxmltools.convert_lightgbm(booster, initial_types=types)
    return onnxmltools.convert_lightgbm(booster, initial_types=types, zipmap=False)


def _xgboost(artifact: Path, spec: BundleSpec) -> Any:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    if "missing" in spec.options:
        raise NotConvertible("ONNX knows no other missing value than NaN")
    booster, trees = read_xgboost(artifact, spec.options)
    if "c" in (booster.feature_types or ()):
        raise NotConvertible("models with categories are not converted")
    if trees:
        booster = booster[:trees]
    booster.feature_names = None  # the converter wants f0, f1, ...
    types = [(MATRIX, FloatTensorType([None, booster.num_features()]))]
    return onnxmltools.convert_xgboost(booster, initial_types=types)


def _outputs(spec: BundleSpec, found: list[str]) -> dict[str, str]:
    """Graph outputs by name of the signature: a classifier's graph has the label first."""
    wanted = [tensor.name for tensor in spec.signature.outputs]
    if is_classifier(spec) and len(found) == 2:
        by_role = {"label": found[0], "probability": found[1]}
        if all(name in by_role for name in wanted):
            return {name: by_role[name] for name in wanted}
    if spec.runtime not in TREES and len(found) == len(wanted):
        same = set(found) == set(wanted)
        return {name: name for name in wanted} if same else dict(zip(wanted, found))
    if spec.runtime in TREES and spec.method == "predict" and found:
        return {wanted[0]: found[0]}
    raise NotConvertible(f"the graph gives {found}, the signature wants {wanted}")


def _catboost(artifact: Path) -> Any:
    """CatBoost's own export, without the ZipMap behind its probabilities."""
    import onnx

    model = read_catboost(artifact)
    if model.get_cat_feature_indices() or model.get_text_feature_indices():
        raise NotConvertible("CatBoost exports no models with categorical or text features")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        model.save_model(path, format="onnx", export_parameters={"onnx_graph_name": "model"})
        graph = onnx.load(path)
    for node in [one for one in graph.graph.node if one.op_type == "ZipMap"]:
        graph.graph.node.remove(node)
        for k, output in enumerate(graph.graph.output):
            if output.name == node.output[0]:
                plain = onnx.helper.make_tensor_value_info(
                    node.input[0], onnx.TensorProto.FLOAT, [None, None]
                )
                graph.graph.output[k].CopyFrom(plain)
    return graph


def _split_columns(graph: Any, matrix: str, signature: Signature) -> None:
    """Let a graph with one matrix take one [N, 1] tensor per column."""
    from onnx import TensorProto, helper

    names = [f"column_{k}" for k in range(len(signature.inputs))]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 1]) for n in names]
    del graph.graph.input[:]
    graph.graph.input.extend(inputs)
    graph.graph.node.insert(0, helper.make_node("Concat", names, [matrix], axis=1))


def _accept_bool_attributes() -> None:
    """skl2onnx 1.20 hands Python bools to `make_attribute`, which newer protobuf refuses, and
    tf2onnx 1.17 empty lists (of integers: shapes and paddings), which newer onnx does."""
    from onnx import AttributeProto, helper

    original = helper.make_attribute
    if getattr(original, "takes_bools", False):
        return

    def make_attribute(key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, (list, tuple)) and not value and not args:
            kwargs.setdefault("attr_type", AttributeProto.INTS)
        return original(key, _without_bools(value), *args, **kwargs)

    make_attribute.takes_bools = True  # type: ignore[attr-defined]
    helper.make_attribute = make_attribute


def _without_bools(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (list, tuple)):
        return [_without_bools(item) for item in value]
    return value
