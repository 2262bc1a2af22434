"""The same raw requests for every server that speaks MLflow's protocol.

`same` asks and keeps status and body; `code` keeps only status and error code, where the words are
not MLflow's own. Both return the body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Ask = Callable[..., Any]
_FILES = "/api/2.0/mlflow-artifacts/artifacts"


def script(same: Ask, code: Ask) -> None:
    experiments(same, code)
    run, other = logging(same, code)
    histories(same, run)
    searches(same, code)
    life(same, code, run)
    inputs(same, other)
    models(same, code, other)
    files(same, code, other)


def experiments(same: Ask, code: Ask) -> None:
    same("GET", "experiments/get?experiment_id=0")
    for body in ({"name": "a"}, {}, {"name": ""}, {"name": 3}, {"name": "x" * 501}):
        same("POST", "experiments/create", body)
    code("POST", "experiments/create", {"name": "a"})
    tags = [{"key": "k", "value": "v"}]
    far = {"name": "far", "tags": tags, "artifact_location": "s3://b/x"}
    same("POST", "experiments/create", far)
    same("POST", "experiments/create", {"name": "b", "artifact_location": "s3://b/x?y#z"})
    for number in ("1", "2", "77", "abc", ""):
        same("GET", f"experiments/get?experiment_id={number}")
    same("GET", "experiments/get")
    same("GET", "experiments/get-by-name?experiment_name=far")
    same("GET", "experiments/get-by-name?experiment_name=nope")
    same("POST", "experiments/search", {})
    same("GET", "experiments/search?max_results=1")
    for query in (
        {},
        {"max_results": 50_001},
        {"order_by": ["name"]},
        {"order_by": ["name DESC"]},
        {"order_by": ["experiment_id ASC"]},
        {"view_type": "ALL"},
        {"view_type": 2},
        {"filter": "name = 'a'"},
        {"filter": "name LIKE 'A'"},
        {"filter": "name ILIKE 'A'"},
        {"filter": "tags.k = 'v'"},
        {"filter": "tags.k IS NULL"},
        {"filter": "tag.k IS NOT NULL"},
        {"filter": "experiment_id IN ('0', '1')"},
        {"filter": "experiment_id != '1'"},
        {"filter": "experiment_id = 'abc'"},
        {"filter": "creation_time > 5"},
        {"filter": "creation_time > 1.5"},
    ):
        same("POST", "experiments/search", {"max_results": 10, **query})
    for query in (
        {"order_by": ["x"]},
        {"order_by": ["tags.k"]},
        {"filter": "zork = 'x'"},
        {"filter": "foo.x = 'y'"},
        {"filter": "name = 1"},
        {"filter": "name = 'a' OR name = 'b'"},
        {"filter": "creation_time = 'a'"},
        {"page_token": "abc"},
        {"page_token": "e30="},
    ):
        code("POST", "experiments/search", {"max_results": 10, **query})


def logging(same: Ask, code: Ask) -> tuple[str, str]:
    def create(**body: Any) -> Any:
        return same("POST", "runs/create", {"experiment_id": "1", **body})

    run: str = create(start_time=5)["run"]["info"]["run_id"]
    create(start_time="x")
    create(run_name="n", tags=[{"key": "mlflow.runName", "value": "m"}])
    tags = [{"key": "mlflow.user", "value": "z"}, {"key": "mlflow.runName", "value": "n"}]
    create(run_name="n", user_id="u", start_time=3, tags=tags)
    for query in ("", f"?run_id={run}", f"?run_uuid={run}", "?run_id=nope"):
        same("GET", f"runs/get{query}")

    def log(what: str, **body: Any) -> None:
        same("POST", f"runs/{what}", {"run_id": run, **body})

    for value, step in ((1.5, 1), (1.5, 1), ("NaN", 2), (0.25, 3), ("7", 2)):
        log("log-metric", key="m", value=value, timestamp=10, step=step)
    log("log-metric", key="inf", value="Infinity", timestamp="10")
    log("log-metric", key="ninf", value="-Infinity", timestamp=10, step=-3)
    log("log-metric", key="z", value=0, timestamp=0)
    for body in (
        {"key": "z", "value": "abc", "timestamp": 0},
        {"key": "z", "timestamp": 0},
        {"key": "z", "value": 1},
        {"value": 1, "timestamp": 1},
        {"key": "z", "value": 1, "timestamp": -1},
        {"key": "../z", "value": 1, "timestamp": 1},
        {"key": "z@", "value": 1, "timestamp": 1},
        {"key": "z" * 251, "value": 1, "timestamp": 1},
    ):
        log("log-metric", **body)
    same("POST", "runs/log-metric", {"key": "z", "value": 1, "timestamp": 1})
    for body in (
        {"key": "p", "value": "1"},
        {"key": "p", "value": "1"},
        {"key": "p", "value": "2"},
        {"key": "p2"},
        {"key": "p3", "value": 5},
        {"value": "5"},
        {"key": "long", "value": "x" * 6001},
        {"key": "a//b", "value": "x"},
    ):
        log("log-parameter", **body)
    for body in (
        {"key": "t", "value": "x" * 8001},
        {"key": "t"},
        {"key": "t" * 251, "value": "1"},
        {"key": "", "value": "1"},
        {"key": "mlflow.runName", "value": "viatag"},
    ):
        log("set-tag", **body)
    log("delete-tag", key="nope")
    log("delete-tag", key="t")
    _batches(same, log)
    same("GET", f"runs/get?run_id={run}")
    other = create(start_time=7, run_name="second")["run"]["info"]["run_id"]
    second = {
        "run_id": other,
        "metrics": [
            {"key": "m", "value": 3, "timestamp": 1, "step": 3},
            {"key": "b", "value": -1, "timestamp": 1},
        ],
        "params": [{"key": "bp", "value": "Q"}, {"key": "sp ace", "value": "v"}],
        "tags": [{"key": "bt", "value": "w2"}, {"key": "a.b/c", "value": "y"}],
    }
    same("POST", "runs/log-batch", second)
    return run, other


def _batches(same: Ask, log: Callable[..., None]) -> None:
    point = {"key": "b", "value": 1, "timestamp": 1, "step": 3}
    log(
        "log-batch",
        metrics=[point, point],
        params=[{"key": "bp", "value": "q"}],
        tags=[{"key": "bt", "value": "w"}],
    )
    for body in (
        {"metrics": [{"key": "b", "timestamp": 1}]},
        {"metrics": [{"key": "b", "value": 0}]},
        {"metrics": [{"value": 0, "timestamp": 1}]},
        {"metrics": [{"key": "b", "value": 0, "timestamp": -4}]},
        {"metrics": [{"key": "b@", "value": 0, "timestamp": 4}]},
        {"metrics": {"a": 1}},
        {"params": [{"key": "bp", "value": "z"}]},
        {"params": [{"key": "d", "value": "z"}] * 2},
        {"params": [{"key": f"d{i}", "value": "z"} for i in range(101)]},
        {"params": [{"key": "c" * 251, "value": "z"}]},
        {"params": [{"value": "z"}]},
        {"tags": [{"key": f"d{i}", "value": "z"} for i in range(101)]},
        {"tags": [{"value": "z"}]},
        {"tags": [{"key": "c" * 251, "value": "z"}]},
        {"metrics": [{"key": f"d{i}", "value": 1, "timestamp": 1} for i in range(1001)]},
        {
            "metrics": [{"key": f"d{i}", "value": 1, "timestamp": 1} for i in range(950)],
            "params": [{"key": f"d{i}", "value": "z"} for i in range(51)],
        },
    ):
        log("log-batch", **body)
    for wrong in ({"run_id": "nope"}, {"run_id": "@@"}, {}):
        same("POST", "runs/log-batch", wrong)


def histories(same: Ask, run: str) -> None:
    for query in (
        "metric_key=m",
        "metric_key=inf",
        "metric_key=none",
        "metric_key=m&max_results=1",
        "metric_key=m&max_results=0",
        "metric_key=m&max_results=1&page_token=abc",
        "",
    ):
        same("GET", f"metrics/get-history?run_id={run}&{query}")
    same("GET", "metrics/get-history?run_id=nope&metric_key=m")
    for query in (
        "metric_key=m",
        "metric_key=m&max_results=1",
        "metric_key=m&max_results=2",
        f"run_ids={run}&metric_key=m&max_results=1",
        "metric_key=m&start_step=2&end_step=2",
        "metric_key=m&start_step=1",
        "metric_key=m&start_step=5&end_step=1",
        "metric_key=m&max_results=9999999",
    ):
        same("GET", f"metrics/get-history-bulk-interval?run_ids={run}&{query}")
    same("GET", "metrics/get-history-bulk-interval?metric_key=m")


def searches(same: Ask, code: Ask) -> None:
    for text in (
        "metrics.m > 1",
        "metrics.m != 3",
        "metrics.m = 3",
        "metrics.m < 1e9",
        "params.bp = 'q'",
        "params.bp LIKE 'Q'",
        "params.bp ILIKE 'q'",
        "params.bp IS NULL",
        "params.p IS NOT NULL",
        "tags.bt = 'w' AND metrics.b > 0",
        "tags.`a.b/c` = 'y'",
        "tag.\"a.b/c\" = 'y'",
        "params.`sp ace` = 'v'",
        "attributes.status = 'RUNNING'",
        "run_name LIKE 'sec%'",
        "run_id IN ('x', 'y')",
        "run_id NOT IN ('x')",
        "start_time >= 5 and start_time < 7",
        "created > 5",
        "user_id = 'u'",
        "artifact_uri LIKE '%artifacts'",
        "dataset.name = 'x'",
        "dataset.context = 'train'",
        "tags.bt ILIKE 'W%'",
        'params.bp = "q"',
        "metrics.nosuch != 0",
    ):
        same("POST", "runs/search", {"experiment_ids": ["1"], "filter": text})
    for text in (
        "metrics.m > 'a'",
        "params.bp > 'a'",
        "params.bp = 1",
        "foo.bar = 1",
        "zork = 'a'",
        "metrics.m > 1 OR metrics.m < 0",
        "metrics.m",
        "metrics.m >",
        "= 1",
        "datasets.zork = 'x'",
        "status IN ('FINISHED')",
        "(metrics.m > 1)",
        "start_time = 'a'",
    ):
        code("POST", "runs/search", {"experiment_ids": ["1"], "filter": text})
    for order in (
        "metrics.m",
        "metrics.m DESC",
        "metrics.b asc",
        "params.bp desc",
        "tags.`a.b/c` ASC",
        "attributes.start_time ASC",
        "attribute.run_name DESC",
        "status",
        "end_time DESC",
        "Created DESC",
        "start_time",
    ):
        same("POST", "runs/search", {"experiment_ids": ["1"], "order_by": [order]})
    for order in ("foo bar", "metrics.m DESC x", "zork", ""):
        code("POST", "runs/search", {"experiment_ids": ["1"], "order_by": [order]})
    for body in (
        {"max_results": 1},
        {"max_results": 50_001},
        {"max_results": 0},
        {"experiment_ids": "1"},
        {"experiment_ids": ["x"]},
        {"experiment_ids": ["99"]},
        {"experiment_ids": []},
        {"page_token": "abc"},
    ):
        same("POST", "runs/search", {"experiment_ids": ["1"], **body})


def life(same: Ask, code: Ask, run: str) -> None:
    def post(path: str, **body: Any) -> None:
        same("POST", path, body)

    post("runs/update", run_id=run, status="FINISHED", end_time=99, run_name="ren")
    post("runs/update", run_id=run, end_time="x")
    post("runs/update", run_id=run)
    post("runs/update")
    post("runs/delete", run_id=run)
    post("runs/delete", run_id=run)
    post("runs/log-metric", run_id=run, key="m", value=1, timestamp=1)
    post("runs/log-parameter", run_id=run, key="k", value="v")
    post("runs/set-tag", run_id=run, key="k", value="v")
    post("runs/log-batch", run_id=run)
    post("runs/update", run_id=run, run_name="x")
    same("GET", f"runs/get?run_id={run}")
    for view in ("ACTIVE_ONLY", "DELETED_ONLY", "ALL", 2):
        post("runs/search", experiment_ids=["1"], run_view_type=view)
    post("runs/restore", run_id=run)
    post("runs/restore", run_id=run)
    post("runs/restore", run_id="nope")
    post("experiments/delete", experiment_id="1")
    post("experiments/delete", experiment_id="1")
    code("POST", "experiments/create", {"name": "a"})
    post("runs/create", experiment_id="1")
    post("experiments/set-experiment-tag", experiment_id="1", key="k", value="v")
    post("experiments/search", max_results=9, view_type="DELETED_ONLY")
    same("GET", f"runs/get?run_id={run}")
    same("GET", "experiments/get?experiment_id=1")
    same("GET", "experiments/get-by-name?experiment_name=a")
    post("experiments/restore", experiment_id="1")
    post("experiments/restore", experiment_id="1")
    post("experiments/update", experiment_id="1")
    post("experiments/update", experiment_id="1", new_name="renamed")
    post("experiments/update", experiment_id="99", new_name="renamed")
    same("GET", "experiments/get?experiment_id=1")
    post("experiments/set-experiment-tag", experiment_id="1", key="k", value="v")
    post("experiments/set-experiment-tag", experiment_id="1", key="k", value="x" * 20_001)
    post("experiments/delete-experiment-tag", experiment_id="1", key="k")
    post("experiments/delete-experiment-tag", experiment_id="1", key="k")


def inputs(same: Ask, run: str) -> None:
    one = {"name": "ds", "digest": "dd", "source_type": "local", "source": "{}"}
    whole = {**one, "name": "whole", "schema": '{"a": 1}', "profile": "{}"}
    context = [{"key": "mlflow.data.context", "value": "train"}]
    for body in (
        {"datasets": [{"dataset": one, "tags": context}], "models": [{"model_id": "m-1"}]},
        {"datasets": [{"dataset": one}, {"dataset": whole}]},
        {"datasets": [{"dataset": {**one, "digest": "x" * 37}}]},
        {"datasets": [{"dataset": {**one, "name": "x" * 501}}]},
        {"datasets": [{"dataset": one, "tags": [{"key": "k", "value": "x" * 501}]}]},
    ):
        same("POST", "runs/log-inputs", {"run_id": run, **body})
    same("POST", "runs/outputs", {"run_id": run, "models": [{"model_id": "m-2", "step": 3}]})
    same("POST", "runs/outputs", {"run_id": run})
    same("GET", f"runs/get?run_id={run}")
    for text in ("dataset.name = 'ds'", "dataset.context = 'train'", "dataset.digest != 'dd'"):
        same("POST", "runs/search", {"experiment_ids": ["1"], "filter": text})


def models(same: Ask, code: Ask, run: str) -> None:
    pairs = [{"key": "a", "value": "1"}]
    whole = {"name": "mm", "source_run_id": run, "model_type": "t", "params": pairs, "tags": pairs}
    made = same("POST", "logged-models", {"experiment_id": "1", **whole})["model"]["info"]
    model = made["model_id"]
    same("POST", "logged-models", {"experiment_id": "1", "name": "zz"})
    for body in ({}, {"experiment_id": "99"}, {"experiment_id": "1", "name": "a/b"}):
        same("POST", "logged-models", body)
    same("GET", f"logged-models/{model}")
    same("GET", "logged-models/m-nope")
    point = {"run_id": run, "key": "acc", "value": 0.5, "timestamp": 7, "model_id": model}
    on = {"dataset_name": "ds", "dataset_digest": "dd"}
    same("POST", "runs/log-metric", {**point, **on, "step": 1})
    same("POST", "runs/log-metric", {**point, "step": 2})
    b = {"model_id": model, "params": [{"key": "b", "value": "2"}]}
    same("POST", f"logged-models/{model}/params", b)
    same("PATCH", f"logged-models/{model}/tags", {"tags": [{"key": "b", "value": "3"}]})
    same("DELETE", f"logged-models/{model}/tags/b")
    same("DELETE", f"logged-models/{model}/tags/b")
    same("PATCH", f"logged-models/{model}", {"model_id": model})
    same("PATCH", f"logged-models/{model}", {"model_id": model, "status": 2})
    same("PATCH", f"logged-models/{model}", {"model_id": model, "status": "LOGGED_MODEL_READY"})
    for body in (
        {},
        {"max_results": 1},
        {"filter": "name = 'mm'"},
        {"filter": "name LIKE 'M%'"},
        {"filter": "metrics.acc > 0.4"},
        {"filter": "params.a = '1' AND tags.a = '1'"},
        {"filter": "creation_time > 5"},
        {"order_by": [{"field_name": "metrics.acc", "ascending": False}]},
        {"order_by": [{"field_name": "name"}]},
        {"order_by": [{"field_name": "zork"}]},
        {"order_by": [{"field_name": "params.a"}]},
        {"datasets": [{"dataset_name": "ds", "dataset_digest": "dd"}]},
        {"datasets": [{"dataset_digest": "dd"}]},
    ):
        same("POST", "logged-models/search", {"experiment_ids": ["1"], **body})
    same("POST", "logged-models/search", {})
    for text in ("name > 'a'", "zork.a = 'b'", "metrics.acc LIKE 'a'"):
        code("POST", "logged-models/search", {"experiment_ids": ["1"], "filter": text})
    same("GET", f"logged-models/{model}/artifacts/directories")
    same("DELETE", f"logged-models/{model}")
    same("GET", f"logged-models/{model}")
    same("GET", f"logged-models/{model}?allow_deleted=true")


def files(same: Ask, code: Ask, run: str) -> None:
    root = f"1/{run}/artifacts"
    for path in ("a.txt", "d/b.html", "d/c.json", "d/n%C3%A4me%20x.bin"):
        code("PUT", f"{_FILES}/{root}/{path}", content=b"<content>")
        same("GET", f"{_FILES}/{root}/{path}")
    same("GET", f"{_FILES}/{root}/nope")
    for path in (root, f"{root}/d", f"{root}/nope", f"{root}/a.txt", f"{root}//d/.", ""):
        same("GET", f"{_FILES}?path={path}")
    for path in ("../x", "/etc", "%252e%252e", "file:///x", "C:/x", "%2Fa", "a%23b"):
        same("GET", f"{_FILES}?path={path}")
        same("GET", f"artifacts/list?run_id={run}&path={path}")
        same("GET", f"/get-artifact?run_id={run}&path={path}")
    for path in ("%2e%2e/x", "%252e%252e/x", "a/../../../x"):
        same("GET", f"{_FILES}/{path}")
        same("PUT", f"{_FILES}/{path}", content=b"x")
    for query in ("", "&path=d", "&path=nope", "&path=a.txt"):
        same("GET", f"artifacts/list?run_id={run}{query}")
    same("GET", "artifacts/list")
    same("GET", f"/get-artifact?run_id={run}&path=a.txt")
    same("GET", f"/get-artifact?run_id={run}&path=nope")
    create = f"/api/2.0/mlflow-artifacts/mpu/create/{root}/big"
    same("POST", create, {"path": "big", "num_parts": 2})
    same("GET", f"/api/2.0/mlflow-artifacts/presigned/{root}/a.txt")
    asked = {"run_id": run, "path": "a.txt"}
    same("POST", "artifacts/presigned-download-url", asked)
    same("POST", "artifacts/presigned-upload-url", asked)
    same("POST", "artifacts/presigned-upload-url", {"path": "a.txt"})
    for path in ("d", "nope", "a.txt"):
        same("DELETE", f"{_FILES}/{root}/{path}")
    same("GET", f"{_FILES}?path={root}")
