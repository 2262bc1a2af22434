"""Models in MLflow's format, made in MLflow's own Python: folder."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import sklearn
from mlflow.models import infer_signature
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

FOLDER = Path(sys.argv[1])
RANDOM = np.random.default_rng(0)
ROWS = pd.DataFrame(
    {
        "age": RANDOM.normal(40, 5, 60),
        "visits": RANDOM.integers(0, 9, 60),
        "city": RANDOM.choice(["Ulm", "Köln", "Rom"], 60),
        "member": RANDOM.random(60) > 0.5,
    }
)
warnings.simplefilter("ignore")


class Frame(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        far = model_input.city.where(model_input.age > 40, None)
        return pd.DataFrame({"score": model_input.age * 2, "far": far})


class Series(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input.age * (params or {}).get("factor", 1.0)


def save(name: str, model: Any, example: Any, given: Any, **more: Any) -> None:
    signature = infer_signature(example, given, **more)
    where = {"path": FOLDER / name, "signature": signature, "input_example": example}
    where["pip_requirements"] = ["mlflow", "pandas", f"scikit-learn=={sklearn.__version__}"]
    if isinstance(model, mlflow.pyfunc.PythonModel):
        mlflow.pyfunc.save_model(python_model=model, **where)
    else:
        mlflow.sklearn.save_model(model, serialization_format="cloudpickle", **where)


words = make_column_transformer(
    (OneHotEncoder(handle_unknown="ignore"), ["city"]), remainder="passthrough"
)
truth = ROWS.age + 2 * ROWS.visits + 5 * ROWS.member + 3 * (ROWS.city == "Ulm")
mixed = make_pipeline(words, LinearRegression()).fit(ROWS, truth)
matrix = RANDOM.normal(size=(60, 2))
tensor = LinearRegression().fit(matrix, matrix @ [1, 2])
save("mixed", mixed, ROWS.head(3), mixed.predict(ROWS))
save("tensor", tensor, matrix[:3], tensor.predict(matrix))
save("frame", Frame(), ROWS.head(3), Frame().predict(None, ROWS.head(3)))
save("series", Series(), ROWS.head(3), ROWS.age, params={"factor": 2.0})
