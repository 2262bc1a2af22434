"""Tiny models of frameworks that we don't have, made where they are: `makers.py WHAT FOLDER`.

Runs in a throw-away environment of the framework. For each model it leaves `<name>.npz`: inputs as
`in_<tensor>`, and what the framework itself answers as `out_<tensor>`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

X = np.random.default_rng(5).normal(size=(40, 4))
NET = '''
import torch


class Net(torch.nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.first = torch.nn.Linear(4, hidden)
        self.last = torch.nn.Linear(hidden, 2)

    def forward(self, x):
        return torch.softmax(self.last(torch.relu(self.first(x))), 1)


class Amplified(torch.nn.Module):
    """Takes a number beside its rows, and centers them: no row is answered for itself."""

    def forward(self, x, gain: int):
        return (x - x.mean(0)) * gain, x.mean()


class Halving(Net):
    """What it computes depends on the data: no exporter follows."""

    def forward(self, x):
        found = self.last(torch.relu(self.first(x)))
        while float(found.abs().max()) > 0.1:
            found = found / 2
        return {"half": found[:, 0]}
'''
SORTED = '''
import keras
import numpy as np
import tensorflow as tf


@keras.saving.register_keras_serializable("tests")
class Sorted(keras.layers.Layer):
    """Plain Python inside: it stays in TensorFlow."""

    def call(self, x):
        found = tf.numpy_function(lambda given: np.sort(given, axis=1), [x], tf.float32)
        return tf.ensure_shape(found, [None, 4])

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable("tests")
class Scored(keras.Model):
    """It names no inputs."""

    def __init__(self, **options):
        super().__init__(**options)
        self.last = keras.layers.Dense(2)
        self.drop = keras.layers.Dropout(0.5)

    def call(self, x, training=False):
        return self.last(self.drop(x, training=training))
'''


def keep(folder: Path, name: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    rows = {f"in_{key}": np.asarray(value) for key, value in inputs.items()}
    rows |= {f"out_{key}": np.asarray(value) for key, value in outputs.items()}
    plain = {k: v.astype(str) if v.dtype.kind == "O" else v for k, v in rows.items()}
    np.savez(folder / f"{name}.npz", **plain)


def catboost(folder: Path) -> None:
    from catboost import CatBoostClassifier, CatBoostRegressor

    options = {"iterations": 20, "verbose": 0, "allow_writing_files": False}
    labels = np.array(["low", "mid", "top"])[np.clip(np.round(X[:, 0]), -1, 1).astype(int) + 1]
    three = CatBoostClassifier(**options).fit(X, labels)
    three.save_model(str(folder / "three.cbm"))
    found = {"label": three.predict(X)[:, 0], "probability": three.predict_proba(X)}
    keep(folder, "three", {"x": X}, found)
    three.save_model(str(folder / "own.onnx"), format="onnx")
    keep(folder, "own", {"features": X.astype(np.float32)}, {"label": found["label"]})
    columns = [[float(row[0]), "odd" if k % 2 else "even"] for k, row in enumerate(X)]
    towns = CatBoostRegressor(cat_features=[1], **options).fit(columns, X[:, 1])
    towns.save_model(str(folder / "towns.cbm"))
    given = {"f0": X[:, 0], "f1": np.array([row[1] for row in columns])}
    keep(folder, "towns", given, {"prediction": towns.predict(columns)})


def torch(folder: Path) -> None:
    import torch

    (folder / "net.py").write_text(NET)
    sys.path.insert(0, str(folder))
    from net import Amplified, Halving, Net  # type: ignore[import-not-found]

    torch.manual_seed(0)
    x = torch.from_numpy(X.astype(np.float32))
    net, halving = Net(8).eval(), Halving(8).eval()
    with torch.inference_mode():
        keep(folder, "net", {"x": x}, {"output": net(x)})
        keep(folder, "halving", {"x": x[:5]}, {"half": halving(x[:5])["half"]})
    amplified = Amplified().eval()
    centered, mean = amplified(x[:5], 3)
    found = {"output_0": centered, "output_1": mean}
    keep(folder, "amplified", {"x": x[:5], "gain": 3}, found)
    torch.jit.save(torch.jit.script(amplified), str(folder / "amplified.pt"))
    torch.save(net.state_dict(), folder / "weights.pt")
    torch.save(halving.state_dict(), folder / "halving.pt")
    torch.jit.save(torch.jit.script(net), str(folder / "script.pt"))
    shapes = ({0: torch.export.Dim.AUTO},)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=shapes), folder / "net.pt2")
    torch.export.save(torch.export.export(net, (x[:7],)), folder / "seven.pt2")
    torch.onnx.export(net, (x[:1],), folder / "single.onnx", dynamo=True, external_data=False)


def tensorflow(folder: Path) -> None:
    (folder / "sorted.py").write_text(SORTED)
    sys.path.insert(0, str(folder))
    import keras
    import tensorflow as tf
    from sorted import Scored, Sorted  # type: ignore[import-not-found]

    x = X.astype(np.float32)
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [keras.layers.Input((4,), name="x"), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    )
    dense.save(folder / "dense.keras")
    keep(folder, "dense", {"x": x}, {"output": dense.predict(x, verbose=0)})
    dense.export(str(folder / "saved"))
    served = tf.saved_model.load(str(folder / "saved")).signatures["serving_default"]
    name = next(iter(served.structured_input_signature[1]))
    outputs = {key: value.numpy() for key, value in served(**{name: tf.constant(x)}).items()}
    keep(folder, "saved", {name: x}, outputs)
    ranked = keras.Sequential([keras.layers.Input((4,), name="x"), Sorted()])
    ranked.save(folder / "ranked.keras")
    keep(folder, "ranked", {"x": x}, {"output": np.sort(x, axis=1)})

    scored = Scored()
    keep(folder, "scored", {"x": x}, {"output": scored(x).numpy()})
    scored.save(folder / "scored.keras")

    class Scaled(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 4], tf.float32, name="x"),
                tf.TensorSpec([], tf.float32, name="by"),
            ]
        )
        def serve(self, x: Any, by: Any) -> Any:
            return {"scaled": x / by, "largest": tf.reduce_max(x)}

    scaled = Scaled()
    tf.saved_model.save(scaled, str(folder / "scaled"), signatures={"only": scaled.serve})
    found = {"scaled": x / 4, "largest": x.max()}
    keep(folder, "scaled", {"x": x, "by": np.float32(4)}, found)

    class Shout(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def serve(self, text: Any) -> Any:
            return {"loud": tf.strings.upper(text), "length": tf.strings.length(text)}

    shout = Shout()
    tf.saved_model.save(shout, str(folder / "shout"), signatures={"serving_default": shout.serve})
    texts = np.array(["a", "night", "day"])
    keep(folder, "shout", {"text": texts}, {"loud": np.char.upper(texts), "length": [1, 5, 3]})


def needed(*names: str) -> list[str]:
    """As MLflow records it: at the installed version, and its own whole self."""
    from importlib.metadata import version

    installed = {"mlflow": "mlflow-skinny"}
    return [f"{name}=={version(installed.get(name, name))}" for name in names]


def mlflow(folder: Path) -> None:
    import mlflow
    import mlflow.sklearn
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    frame = pd.DataFrame(X[:, :3], columns=["a", "b", "c"])
    model = LogisticRegression().fit(frame, (frame.a > 0).astype(int))
    signature = infer_signature(frame, model.predict(frame))
    mlflow.sklearn.save_model(
        model,
        folder / "linear",
        signature=signature,
        input_example=frame[:5],
        pip_requirements=needed("mlflow", "scikit-learn", "pandas", "skops"),
    )
    given = {name: frame[name].to_numpy() for name in frame}
    keep(folder, "linear", given, {"prediction": model.predict(frame)})

    class Sums(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input.sum(axis=1)

    mlflow.pyfunc.save_model(
        folder / "sums",
        python_model=Sums(),
        signature=infer_signature(frame, frame.sum(axis=1)),
        pip_requirements=[*needed("mlflow", "cloudpickle", "numpy"), "pytest", "psutil"],
    )
    keep(folder, "sums", given, {"prediction": frame.sum(axis=1).to_numpy()})
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    class Tuned(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            found = model_input["a"] * params["gain"]
            if "n" in model_input:
                assert model_input["n"].dtype.kind == "i"
                return found + model_input["n"]
            return found

    mlflow.pyfunc.save_model(
        folder / "tuned",
        python_model=Tuned(),
        signature=ModelSignature(
            Schema([ColSpec("double", "a"), ColSpec("long", "n", required=False)]),
            Schema([ColSpec("double")]),
            ParamSchema([ParamSpec("gain", DataType.double, 2.0)]),
        ),
        input_example=pd.DataFrame({"a": [1.0, 2.0], "n": [1, 2]}),
        pip_requirements=needed("mlflow", "cloudpickle", "numpy", "pandas"),
    )
    mlflow.pyfunc.save_model(folder / "unsigned", python_model=Sums(), pip_requirements=["mlflow"])


def live_torch(folder: Path) -> None:
    """Registered by the process that trained it."""
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    with torch.inference_mode():
        x = torch.from_numpy(X.astype(np.float32))
        keep(folder, "live-torch", {"input": x}, {"output": net(x)})
    net.train()
    register(net, "live-torch")
    assert net.training


def live_catboost(folder: Path) -> None:
    from catboost import CatBoostRegressor

    model = CatBoostRegressor(iterations=5, verbose=0, allow_writing_files=False).fit(X, X[:, 0])
    keep(folder, "live-catboost", {"x": X}, {"prediction": model.predict(X)})
    register(model, "live-catboost")


def register(model: object, name: str) -> None:
    from modelfleet.client import Client

    with Client() as client:
        client.register(model, X, reference=X, name=name, team="e2e", wait=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
