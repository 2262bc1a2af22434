"""The names that bundles may use: runtimes, methods, datatypes. The one list of each.

Nothing is imported here, so that whoever only checks names needs neither numpy nor a framework.
"""

from __future__ import annotations

from typing import NamedTuple


class Framework(NamedTuple):
    """What one runtime stands for.

    title: as people write it. module: what must be importable. distribution: what brings it.
    converters: requirements that turn its models into ONNX; empty if that is not done.
    """

    title: str
    module: str
    distribution: str
    converters: tuple[str, ...] = ()


_ONNX = ("onnx>=1.17", "onnxruntime>=1.20")
_TREES = (*_ONNX, "skl2onnx>=1.18", "onnxmltools>=1.13")
_KERAS = (*_ONNX, "tf2onnx>=1.16")

RUNTIMES = {
    "sklearn": Framework("scikit-learn", "sklearn", "scikit-learn", _TREES),
    "lightgbm": Framework("LightGBM", "lightgbm", "lightgbm", _TREES),
    "xgboost": Framework("XGBoost", "xgboost", "xgboost", _TREES),
    "catboost": Framework("CatBoost", "catboost", "catboost", _ONNX),
    "onnx": Framework("ONNX", "onnxruntime", "onnxruntime"),
    "torch": Framework("PyTorch", "torch", "torch", (*_ONNX, "onnxscript>=0.5")),
    "tensorflow": Framework("TensorFlow", "tensorflow", "tensorflow-cpu", _KERAS),
    "keras": Framework("Keras", "keras", "keras", _KERAS),
    "mlflow": Framework("MLflow", "mlflow", "mlflow-skinny"),
    "python": Framework("Python", "cloudpickle", "cloudpickle"),
}
METHODS = ("predict", "predict_proba", "predict+predict_proba")
DATATYPES = tuple(
    "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BYTES".split()
)
