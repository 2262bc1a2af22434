"""Run in an environment of its own, with MLflow as its users install it: `calls.py FUNCTION`.

What is not as it should be is an AssertionError; each function prints `done` at its end.
"""

from __future__ import annotations

import math
import os
import pathlib
import sys
import tempfile
import warnings

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
warnings.filterwarnings("ignore")


def rows():
    made = np.random.default_rng(7)
    x = pd.DataFrame(made.normal(size=(80, 3)), columns=["a", "b", "c"])
    return x, (x["a"] + x["b"] > 0).astype(int)


def refused(code, call, *arguments, **named):
    told = None
    try:
        call(*arguments, **named)
    except MlflowException as error:
        told = error
    assert told is not None, f"{call} was not refused"
    assert told.error_code == code, told
    return str(told)


def autologging():
    import lightgbm
    import xgboost
    from sklearn.ensemble import RandomForestClassifier

    x, y = rows()
    mlflow.set_experiment("autologging")

    def sklearn():
        mlflow.sklearn.autolog(log_input_examples=True)
        RandomForestClassifier(n_estimators=3).fit(x, y)
        mlflow.sklearn.autolog(disable=True)

    def xgb():
        mlflow.xgboost.autolog()
        data = xgboost.DMatrix(x, label=y)
        xgboost.train({"objective": "binary:logistic"}, data, 4, evals=[(data, "train")])
        mlflow.xgboost.autolog(disable=True)

    def lgb():
        mlflow.lightgbm.autolog()
        data = lightgbm.Dataset(x, label=y)
        options = {"objective": "binary", "verbose": -1, "metric": "auc"}
        lightgbm.train(options, data, 4, valid_sets=[data])
        mlflow.lightgbm.autolog(disable=True)

    for train in (sklearn, xgb, lgb):
        with mlflow.start_run(run_name=train.__name__) as run:
            train()
        found = mlflow.get_run(run.info.run_id)
        assert found.info.status == "FINISHED"
        assert found.info.run_name == train.__name__
        assert found.data.metrics
        assert found.data.params
        assert found.inputs.dataset_inputs[0].tags[0].value == "train"
        [output] = found.outputs.model_outputs
        logged = mlflow.get_logged_model(output.model_id)
        assert logged.status == "READY"
        for uri in (f"models:/{output.model_id}", f"runs:/{run.info.run_id}/model"):
            assert len(mlflow.pyfunc.load_model(uri).predict(x)) == len(x)
    history = MlflowClient().get_metric_history(run.info.run_id, "training-auc")
    assert [point.step for point in history] == [0, 1, 2, 3]


def pytorch():
    import lightning
    import torch

    class Line(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x):
            return self.layer(x)

        def training_step(self, batch, _index):
            loss = ((self(batch[0]) - batch[1]) ** 2).mean()
            self.log("loss", loss, on_epoch=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    x = torch.randn(64, 3)
    data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))
    quiet = dict.fromkeys(("enable_progress_bar", "enable_checkpointing", "logger"), False)
    mlflow.set_experiment("pytorch")
    mlflow.pytorch.autolog()
    with mlflow.start_run() as run:
        trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", **quiet)
        trainer.fit(Line(), torch.utils.data.DataLoader(data, 16))
    found = mlflow.get_run(run.info.run_id)
    [output] = found.outputs.model_outputs
    loaded = mlflow.pytorch.load_model(f"models:/{output.model_id}")
    assert loaded(x[:2]).shape == (2, 1)
    history = MlflowClient().get_metric_history(run.info.run_id, "loss_epoch")
    assert [point.step for point in history] == [0, 1, 2]


def runs():
    client = MlflowClient()
    x, _ = rows()
    default = client.get_experiment("0")
    assert (default.name, default.artifact_location) == ("Default", "mlflow-artifacts:/0")
    place = mlflow.set_experiment("runs")
    with mlflow.start_run(tags={"team": "growth"}, description="said") as parent:
        mlflow.log_params({"depth": 3, "kind": "tree"})
        for step in range(5):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metrics({"nothing": math.nan, "much": math.inf, "little": -math.inf})
        mlflow.log_metric("loss", 9.0, step=1)
        with mlflow.start_run(nested=True) as child:
            mlflow.log_metric("loss", 0.9)
            mlflow.log_param("depth", 4)
        iris = mlflow.data.from_pandas(x, name="iris", source="https://example.org/iris.csv")
        mlflow.log_input(iris, context="training", tags={"kept": "yes"})
        mlflow.log_input(mlflow.data.from_numpy(x.to_numpy(), name="plain"), context="eval")
        mlflow.log_input(iris, context="again")
    found = client.get_run(parent.info.run_id)
    assert found.data.metrics["loss"] == 0.2
    assert math.isnan(found.data.metrics["nothing"])
    assert found.data.metrics["much"] == sys.float_info.max
    assert found.data.metrics["little"] == -sys.float_info.max
    assert found.data.params == {"depth": "3", "kind": "tree"}
    assert found.data.tags["mlflow.note.content"] == "said"
    read = {one.dataset.name: one for one in found.inputs.dataset_inputs}
    assert sorted(read) == ["iris", "plain"]
    assert {t.key: t.value for t in read["iris"].tags} == {
        "mlflow.data.context": "training",
        "kept": "yes",
    }
    assert read["iris"].dataset.digest == iris.digest
    history = client.get_metric_history(parent.info.run_id, "loss")
    assert sorted((p.step, p.value) for p in history) == [
        (0, 1.0), (1, 0.5), (1, 9.0), (2, 1 / 3), (3, 0.25), (4, 0.2),
    ]  # fmt: skip
    search(client, place.experiment_id, parent.info.run_id, child.info.run_id)
    changes(client, parent.info.run_id, child.info.run_id)
    paging(client)


def search(client, place, parent, child):
    def ids(text="", **options):
        return [run.info.run_id for run in client.search_runs([place], text, **options)]

    assert ids() == [child, parent]
    assert ids(order_by=["metrics.loss DESC"]) == [child, parent]
    assert ids(order_by=["params.depth ASC", "start_time DESC"]) == [parent, child]
    assert ids("metrics.loss < 0.5 and tags.team = 'growth'") == [parent]
    assert ids(f"tags.mlflow.parentRunId = '{parent}'") == [child]
    assert ids("params.depth != '3'") == [child]
    assert ids("params.kind IS NULL") == [child]
    assert ids("tags.`team` LIKE 'gr%'") == [parent]
    assert ids("tags.team LIKE 'GR%'") == []
    assert ids("tags.team ILIKE 'GR%'") == [parent]
    assert ids("dataset.name = 'iris' AND dataset.context = 'training'") == [parent]
    assert ids("dataset.context = 'other'") == []
    assert ids("metrics.nothing > -1") == []
    assert ids("metrics.nothing != 1") == [parent]
    assert ids(f"attributes.run_id IN ('{child}')") == [child]
    assert ids("attributes.status = 'FINISHED'") == [child, parent]
    frame = mlflow.search_runs([place], "metrics.loss < 0.5")
    assert frame["metrics.loss"].tolist() == [0.2]
    for text in ("metrics.loss > 'a'", "params.depth > 3", "a OR b", "metrics.loss > 1 OR 1 = 1"):
        refused("INVALID_PARAMETER_VALUE", ids, text)
    refused("INVALID_PARAMETER_VALUE", ids, order_by=["loss upwards"])


def changes(client, parent, child):
    text = refused("INVALID_PARAMETER_VALUE", client.log_param, parent, "depth", "4")
    assert "was already logged with value='3'" in text
    client.log_param(parent, "depth", "3")
    refused("INVALID_PARAMETER_VALUE", client.log_metric, parent, "a@b", 1.0)
    refused("RESOURCE_DOES_NOT_EXIST", client.get_run, "0" * 32)
    refused("RESOURCE_DOES_NOT_EXIST", client.delete_tag, parent, "nothing")
    client.set_tag(parent, "mlflow.runName", "renamed")
    client.update_run(child, status="FAILED", name="kid")
    assert client.get_run(parent).info.run_name == "renamed"
    found = client.get_run(child)
    assert (found.info.status, found.info.run_name) == ("FAILED", "kid")
    assert found.data.tags["mlflow.runName"] == "kid"
    client.set_tag(parent, "gone", "1")
    client.delete_tag(parent, "gone")
    assert "gone" not in client.get_run(parent).data.tags
    client.delete_run(child)
    assert client.get_run(child).info.lifecycle_stage == "deleted"
    refused("INVALID_PARAMETER_VALUE", client.log_metric, child, "x", 1.0)
    client.restore_run(child)
    client.log_metric(child, "x", 1.0)


def paging(client):
    place = client.create_experiment("paged", tags={"kept": "yes"})
    for number in range(7):
        client.create_run(place, run_name=f"r{number}", start_time=number + 1)
    seen, token = [], None
    while True:
        page = client.search_runs([place], max_results=3, page_token=token)
        seen += [run.info.run_name for run in page]
        token = page.token
        if not token:
            break
    assert seen == [f"r{number}" for number in reversed(range(7))]
    first = client.search_runs([place], max_results=3)
    for wrong in (
        {"page_token": "?"},
        {"page_token": first.token, "order_by": ["run_id"]},
        {"page_token": client.search_experiments(max_results=1).token},
    ):
        refused("INVALID_PARAMETER_VALUE", client.search_runs, [place], max_results=3, **wrong)
    assert client.get_experiment(place).tags == {"kept": "yes"}
    client.set_experiment_tag(place, "more", "x")
    named = client.search_experiments(filter_string="tags.more = 'x' AND name LIKE 'pa%'")
    assert [one.experiment_id for one in named] == [place]
    client.rename_experiment(place, "renamed")
    assert client.get_experiment_by_name("paged") is None
    client.delete_experiment(place)
    assert client.get_experiment(place).lifecycle_stage == "deleted"
    assert client.search_runs([place]) == []
    refused("RESOURCE_ALREADY_EXISTS", client.create_experiment, "renamed")
    refused("INVALID_PARAMETER_VALUE", client.create_run, place)
    client.restore_experiment(place)
    assert len(client.search_runs([place])) == 7


def files():
    client = MlflowClient()
    mlflow.set_experiment("files")
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("hello")
    (folder / "sub" / "größe 1.bin").write_bytes(b"\0" * 5_000_000)
    (folder / "sub" / "deep" / "empty").write_bytes(b"")
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(folder), "tree")
        mlflow.log_artifact(str(folder / "a.txt"))
        mlflow.log_dict({"a": [1]}, "made/d.json")
        mlflow.log_text("old", "t.txt")
        mlflow.log_text("new", "t.txt")
        mlflow.log_table({"n": [1, 2]}, "table.json")
    run_id = run.info.run_id
    listed = {one.path: one for one in client.list_artifacts(run_id)}
    assert sorted(listed) == ["a.txt", "made", "t.txt", "table.json", "tree"]
    assert listed["tree"].is_dir
    assert listed["a.txt"].file_size == 5
    assert [one.path for one in client.list_artifacts(run_id, "tree/sub")] == [
        "tree/sub/deep",
        "tree/sub/größe 1.bin",
    ]
    assert client.list_artifacts(run_id, "nothing") == []
    got = pathlib.Path(client.download_artifacts(run_id, "tree"))
    found = {p.relative_to(got): p.read_bytes() for p in got.rglob("*") if p.is_file()}
    put = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == put
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/t.txt") == "new"
    assert mlflow.artifacts.load_dict(f"runs:/{run_id}/made/d.json") == {"a": [1]}
    assert mlflow.load_table("table.json", run_ids=[run_id]).shape == (2, 1)
    everything = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="")
    assert (pathlib.Path(everything) / "tree" / "a.txt").read_text() == "hello"


def logged_models():
    from sklearn.linear_model import LogisticRegression

    client = MlflowClient()
    x, y = rows()
    place = mlflow.set_experiment("models").experiment_id
    iris = mlflow.data.from_pandas(x, name="iris")
    made = []
    for number in range(3):
        with mlflow.start_run() as run:
            model = LogisticRegression(C=number + 1).fit(x, y)
            info = mlflow.sklearn.log_model(
                model, name=f"m{number}", input_example=x[:2], params={"c": str(number)}
            )
            mlflow.log_metric("acc", number / 10, step=1, model_id=info.model_id, dataset=iris)
            mlflow.log_metric("acc", number / 10 + 0.5, step=2, model_id=info.model_id)
        made.append(info.model_id)
        assert (mlflow.sklearn.load_model(info.model_uri).predict(x) == model.predict(x)).all()
    found = mlflow.get_logged_model(made[2])
    assert (found.name, found.status, found.source_run_id) == ("m2", "READY", run.info.run_id)
    assert found.params == {"c": "2"}
    assert sorted((m.step, m.value, m.dataset_name) for m in found.metrics) == [
        (1, 0.2, "iris"),
        (2, 0.7, None),
    ]

    def names(text="", **options):
        listed = client.search_logged_models([place], text or None, **options)
        return [one.name for one in listed]

    assert names() == ["m2", "m1", "m0"]
    assert names("metrics.acc >= 0.6") == ["m2", "m1"]
    assert names("metrics.acc >= 0.6", datasets=[{"dataset_name": "iris"}]) == []
    assert names(order_by=[{"field_name": "metrics.acc", "ascending": True}]) == ["m0", "m1", "m2"]
    assert names(order_by=[{"field_name": "name"}]) == ["m0", "m1", "m2"]
    assert names("params.c = '1' AND name LIKE 'm%'") == ["m1"]
    client.set_logged_model_tags(made[0], {"kept": "yes"})
    assert names("tags.kept = 'yes'") == ["m0"]
    client.delete_logged_model_tag(made[0], "kept")
    assert names("tags.kept = 'yes'") == []
    first = client.search_logged_models([place], max_results=2)
    second = client.search_logged_models([place], max_results=2, page_token=first.token)
    assert [one.name for one in (*first, *second)] == ["m2", "m1", "m0"]
    refused("INVALID_PARAMETER_VALUE", names, order_by=[{"field_name": "params.c"}])

    before = client.list_logged_model_artifacts(made[1])
    assert "MLmodel" in {one.path for one in before}
    (pathlib.Path("MLmodel")).write_text("other")
    told = ""
    try:
        client.log_model_artifact(made[1], "MLmodel")
    except Exception as error:  # noqa: BLE001 - not a class of MLflow's
        told = str(error)
    assert "is READY" in told, told
    mlflow.sklearn.load_model(f"models:/{made[1]}")
    client.delete_logged_model(made[1])
    assert names() == ["m2", "m0"]
    refused("RESOURCE_DOES_NOT_EXIST", mlflow.get_logged_model, made[1])
    failed = mlflow.initialize_logged_model(name="unfinished")
    assert failed.status == "PENDING"
    assert client.finalize_logged_model(failed.model_id, "FAILED").status == "FAILED"
    nothing = mlflow.create_external_model(name="elsewhere", params={"a": "b"})
    assert mlflow.get_logged_model(nothing.model_id).status == "READY"


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    sys.stdout.write("done\n")
