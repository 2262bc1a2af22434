"""Fills an MLflow server by its own client: `mlflow_filler.py URL FOLDER`.

Leaves in FOLDER what the models themselves answer, as `<model>-<version>.npz`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlflow  # type: ignore[import-not-found,unused-ignore]
import mlflow.pyfunc  # type: ignore[import-not-found,unused-ignore]
import mlflow.sklearn  # type: ignore[import-not-found,unused-ignore]
import mlflow.xgboost  # type: ignore[import-not-found,unused-ignore]
import numpy as np
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
import xgboost
from sklearn.linear_model import LogisticRegression

X = np.random.default_rng(0).normal(size=(60, 3))
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
Y = (FRAME.a > 0).astype(int)


class Sum(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input.sum(axis=1)


def keep(folder: Path, name: str, outputs: Any) -> None:
    given = {f"in_{column}": FRAME[column].to_numpy()[:5] for column in FRAME}
    np.savez(folder / f"{name}.npz", **given, out_prediction=np.asarray(outputs)[:5])


def main(url: str, folder: Path) -> None:
    mlflow.set_tracking_uri(url)
    mlflow.set_experiment("training")
    for number in (1, 2, 3):
        with mlflow.start_run(run_name=f"try-{number}"):
            mlflow.log_param("C", 0.1 * number)
            for step in range(3):
                mlflow.log_metric("auc", 0.8 + 0.05 * number + 0.001 * step, step=step)
            mlflow.log_metric("odd", float("nan") if number == 2 else float("inf"))
            mlflow.set_tag("who", "ann")
            mlflow.log_input(mlflow.data.from_pandas(FRAME, name="customers"), "training")
            with mlflow.start_run(run_name=f"part-{number}", nested=True):
                mlflow.log_param("fold", number)
            mlflow.log_text("hello", "notes/readme.txt")
            model = LogisticRegression(C=0.1 * number).fit(FRAME, Y)
            answers = model.predict(FRAME)
            mlflow.sklearn.log_model(
                model,
                name="model",
                registered_model_name="churn",
                signature=mlflow.models.infer_signature(FRAME, answers),
                input_example=FRAME[:5],
            )
            keep(folder, f"churn-{number}", answers)
    with mlflow.start_run(run_name="boosted"):
        boosted = xgboost.XGBRegressor(n_estimators=4).fit(FRAME, X[:, 0])
        mlflow.xgboost.log_model(
            boosted, name="model", registered_model_name="price", input_example=FRAME[:5]
        )
        keep(folder, "price-1", boosted.predict(FRAME))
    with mlflow.start_run(run_name="own code"):
        mlflow.pyfunc.log_model(
            name="model",
            python_model=Sum(),
            registered_model_name="sums",
            signature=mlflow.models.infer_signature(FRAME, FRAME.sum(axis=1)),
            input_example=FRAME[:4],
        )
    client = mlflow.MlflowClient()
    with mlflow.start_run(run_name="no model") as run:
        mlflow.log_metric("loss", 0.3)
        mlflow.log_text("no model here", "other/readme.txt")
    client.create_registered_model("notes")
    client.create_model_version("notes", f"runs:/{run.info.run_id}/other", run.info.run_id)
    with mlflow.start_run(run_name="foreign") as run:
        text = "flavors:\n  homegrown:\n    data: weights.bin\n"
        mlflow.log_text(text, "odd/MLmodel")
        mlflow.log_text("1 2 3", "odd/weights.bin")
    client.create_registered_model("odd")
    client.create_model_version("odd", f"runs:/{run.info.run_id}/odd", run.info.run_id)
    client.create_registered_model("far")
    client.create_model_version("far", "s3://bucket/far/model")
    client.set_model_version_tag("price", "1", "modelfleet.semver", "4.2.0")
    client.set_registered_model_alias("churn", "champion", 2)
    client.set_registered_model_tag("churn", "owner", "growth")
    client.update_registered_model("churn", "who leaves")
    client.update_model_version("churn", "2", "the good one")
    client.set_model_version_tag("churn", "2", "approved", "yes")
    client.transition_model_version_stage("churn", "2", "Production")
    client.delete_model_version("churn", "1")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
