"""Experiments, runs and histories in MLflow's JSON, with MLflow's errors."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from modelfleet.core.authorization import Grant, Role

if TYPE_CHECKING:
    from conftest import Mlflow

DOCS = "See the API docs for more information about request parameters."
INVALID = "INVALID_PARAMETER_VALUE"


def test_an_experiment(mlflow: Mlflow) -> None:
    assert mlflow.post("experiments/create", name="a") == {"experiment_id": "1"}
    found = mlflow.get("experiments/get", experiment_id="1")["experiment"]
    for moment in ("last_update_time", "creation_time"):
        assert found.pop(moment) > 1_600_000_000_000
    assert found == {
        "experiment_id": "1",
        "name": "a",
        "artifact_location": "mlflow-artifacts:/1",
        "lifecycle_stage": "active",
    }
    same = mlflow.get("/ajax-api/2.0/mlflow/experiments/get-by-name", experiment_name="a")
    assert same["experiment"]["experiment_id"] == "1"


def test_a_run(mlflow: Mlflow) -> None:
    tags = [{"key": "a", "value": "b"}]
    made = mlflow.post("runs/create", experiment_id="0", start_time="5", run_name="n", tags=tags)
    run_id = made["run"]["info"]["run_id"]
    info = {
        "run_uuid": run_id,
        "experiment_id": "0",
        "run_name": "n",
        "user_id": "",
        "status": "RUNNING",
        "start_time": 5,
        "artifact_uri": f"mlflow-artifacts:/0/{run_id}/artifacts",
        "lifecycle_stage": "active",
        "run_id": run_id,
    }
    told = [{"key": "a", "value": "b"}, {"key": "mlflow.runName", "value": "n"}]
    assert made == {"run": {"info": info, "data": {"tags": told}, "inputs": {}}}
    found = mlflow.get("runs/get", run_uuid=run_id)
    assert found == {"run": {**made["run"], "outputs": {}}}
    ended = mlflow.post("runs/update", run_id=run_id, status="FINISHED", end_time=9)
    assert ended == {"run_info": info | {"status": "FINISHED", "end_time": 9}}


def test_what_a_run_logged(mlflow: Mlflow) -> None:
    run_id = mlflow.run()
    for value in ("NaN", "Infinity", "1.5", 2):
        mlflow.post("runs/log-metric", run_id=run_id, key=f"m{value}", value=value, timestamp=1)
    dataset = {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}
    context = [{"key": "mlflow.data.context", "value": "train"}]
    read = [{"dataset": dataset, "tags": context}]
    mlflow.post("runs/log-inputs", run_id=run_id, datasets=read, models=[{"model_id": "m-1"}])
    mlflow.post("runs/outputs", run_id=run_id, models=[{"model_id": "m-2", "step": 3}])
    found = mlflow.get("runs/get", run_id=run_id)["run"]
    assert [(m["key"], m["value"]) for m in found["data"]["metrics"]] == [
        ("m1.5", 1.5),
        ("m2", 2.0),
        ("mInfinity", 1.7976931348623157e308),
        ("mNaN", "NaN"),
    ]
    assert found["inputs"] == {"dataset_inputs": read, "model_inputs": [{"model_id": "m-1"}]}
    assert found["outputs"] == {"model_outputs": [{"model_id": "m-2", "step": 3}]}


def test_models_of_old_clients(mlflow: Mlflow) -> None:
    run_id = mlflow.run()
    model = {"artifact_path": "m", "flavors": {}, "utc_time_created": "x", "run_id": run_id}
    for _ in range(2):
        mlflow.post("runs/log-model", run_id=run_id, model_json=json.dumps(model))
    tags = mlflow.get("runs/get", run_id=run_id)["run"]["data"]["tags"]
    [history] = [t["value"] for t in tags if t["key"] == "mlflow.log-model.history"]
    assert json.loads(history) == [model, model]
    code, told = mlflow.refused("POST", "runs/log-model", {"run_id": run_id, "model_json": "{}"})
    assert (code, told[:39]) == (INVALID, "Model json is missing mandatory fields:")


def test_histories(mlflow: Mlflow) -> None:
    run_id = mlflow.run()
    points = [{"key": "m", "value": n, "timestamp": n, "step": n} for n in range(5)]
    mlflow.post("runs/log-batch", run_id=run_id, metrics=points)
    assert mlflow.get("metrics/get-history", run_id=run_id, metric_key="m") == {"metrics": points}
    assert mlflow.get("metrics/get-history", run_id=run_id, metric_key="x") == {}
    seen: list[Any] = []
    query = {"run_id": run_id, "metric_key": "m", "max_results": 2}
    page = mlflow.get("metrics/get-history", **query)
    while True:
        seen += page["metrics"]
        if "next_page_token" not in page:
            break
        page = mlflow.get("metrics/get-history", **query, page_token=page["next_page_token"])
    assert seen == points
    sample = mlflow.get(
        "metrics/get-history-bulk-interval", run_ids=[run_id, run_id], metric_key="m", max_results=2
    )
    assert [(p["step"], p["run_id"]) for p in sample["metrics"]] == [(0, run_id), (4, run_id)] * 2


ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("experiments/create", {}, f"Missing value for required parameter 'name'. {DOCS}"),
    ("experiments/create", {"name": ""}, f"Missing value for required parameter 'name'. {DOCS}"),
    (
        "experiments/create",
        {"name": 3},
        f"Invalid value 3 for parameter 'name' supplied:  Hint: Value was of type 'int'. {DOCS}",
    ),
    (
        "experiments/create",
        {"name": "x" * 501},
        "'name' exceeds the maximum length of 500 characters",
    ),
    (
        "experiments/search",
        {},
        "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer",
    ),
    (
        "experiments/search",
        {"max_results": 50001},
        "Invalid value 50001 for parameter 'max_results' supplied. It must be at most 50000",
    ),
    (
        "runs/create",
        {"start_time": "x"},
        "Invalid value \"x\" for parameter 'start_time' supplied:  Hint: Value was of type 'str'. "
        + DOCS,
    ),
    ("runs/log-metric", {"run_id": "x"}, f"Missing value for required parameter 'key'. {DOCS}"),
    (
        "runs/log-metric",
        {"run_id": "x", "key": "k", "timestamp": 1},
        f"Missing value for required parameter 'value'. {DOCS}",
    ),
    (
        "runs/log-metric",
        {"run_id": "x", "key": "k", "value": 1},
        f"Missing value for required parameter 'timestamp'. {DOCS}",
    ),
    (
        "runs/log-metric",
        {"run_id": "x", "key": "k", "value": 1, "timestamp": -1},
        "Invalid value -1 for parameter 'timestamp' supplied: metric 'k' (value=1.0). "
        "Timestamp must be a nonnegative long (64-bit integer) ",
    ),
    (
        "runs/log-batch",
        {"run_id": "x", "metrics": [{"key": "b", "timestamp": 1}]},
        f"Missing value for required parameter 'metrics[0].value'. {DOCS}",
    ),
    (
        "runs/log-batch",
        {"run_id": "x", "tags": [{"value": "z"}]},
        f"Missing value for required parameter 'tags[0].key'. {DOCS}",
    ),
    ("runs/log-batch", {"run_id": "@@"}, "Invalid value \"@@\" for parameter 'run_id' supplied."),
    (
        "runs/search",
        {"max_results": 50001},
        "Invalid value 50001 for parameter 'max_results' supplied:  Hint: Value was of type 'int'. "
        + DOCS,
    ),
    (
        "runs/search",
        {"experiment_ids": "1"},
        "Invalid value \"1\" for parameter 'experiment_ids' supplied:  Hint: Value was of type "
        f"'str'. {DOCS}",
    ),
    (
        "runs/search",
        {"experiment_ids": ["x"]},
        "Invalid experiment ID 'x'. Experiment ID must be a valid integer.",
    ),
    ("runs/outputs", {"run_id": "x"}, f"Missing value for required parameter 'models'. {DOCS}"),
    ("logged-models", {}, f"Missing value for required parameter 'experiment_id'. {DOCS}"),
    (
        "logged-models/search",
        {},
        f"Missing value for required parameter 'experiment_ids'. {DOCS}",
    ),
]


@pytest.mark.parametrize(("path", "body", "told"), ERRORS)
def test_errors_are_in_the_words_of_mlflow(
    mlflow: Mlflow, path: str, body: dict[str, Any], told: str
) -> None:
    assert mlflow.refused("POST", path, body) == (INVALID, told)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("runs/log-metric", {"key": "k", "value": "abc", "timestamp": 1}),
        ("runs/log-metric", {"key": "k", "value": [1], "timestamp": 1}),
        ("runs/log-metric", {"key": "k", "value": 1, "timestamp": 1.5}),
        ("runs/log-metric", {"key": "k", "value": 1, "timestamp": 2**70}),
        ("runs/log-batch", {"metrics": [{"key": "k", "value": True, "timestamp": 1}]}),
        ("runs/log-batch", {"metrics": "x"}),
        ("runs/log-batch", {"params": [1]}),
        ("runs/log-parameter", {"key": "k", "value": 5}),
        ("runs/update", {"status": "DONE"}),
        ("runs/update", {"status": []}),
        ("runs/search", {"run_view_type": "SOME"}),
        ("runs/search", {"order_by": [1]}),
        ("runs/search", {"page_token": 3}),
        ("runs/log-inputs", {"datasets": [{"dataset": 3}]}),
        ("runs/outputs", {"models": [{"model_id": "m" * 35}]}),
    ],
)
def test_nonsense_is_refused(mlflow: Mlflow, path: str, body: dict[str, Any]) -> None:
    run_id = mlflow.run()
    assert mlflow.refused("POST", path, {"run_id": run_id, **body})[0] == INVALID
    assert "metrics" not in mlflow.get("runs/get", run_id=run_id)["run"]["data"]


def test_a_token_belongs_to_its_search(mlflow: Mlflow) -> None:
    for _ in range(3):
        mlflow.run()
    asked = {"experiment_ids": ["0"], "max_results": 1}
    token = mlflow.post("runs/search", **asked)["next_page_token"]
    assert len(mlflow.post("runs/search", **asked, page_token=token)["runs"]) == 1
    assert len(mlflow.post("runs/search", **asked | {"max_results": 5}, page_token=token)["runs"])
    own = base64.b64encode(b'{"offset": 1}').decode()
    for other, wrong in (
        ({"order_by": ["run_id"]}, token),
        ({"experiment_ids": ["1"]}, token),
        ({}, own),
        ({}, "?"),
        ({}, "e30="),
        ({}, base64.b64encode(b"[]").decode()),
        ({}, base64.b64encode(b'{"offset": -1}').decode()),
        ({}, base64.b64encode(b"\xff").decode()),
    ):
        body = {**asked, **other, "page_token": wrong}
        code, told = mlflow.refused("POST", "runs/search", body)
        assert (code, told[:18]) == (INVALID, "Invalid page token")


def test_namespaces_are_apart(mlflow: Mlflow) -> None:
    run_id = mlflow.run()
    mlflow.fleet.registry.within("tenant", create=True)
    mlflow.start = "/t/tenant"
    assert mlflow.get("experiments/get", experiment_id="0")["experiment"]["name"] == "Default"
    assert mlflow.refused("GET", f"runs/get?run_id={run_id}") == (
        "RESOURCE_DOES_NOT_EXIST",
        f"Run with id={run_id} not found",
    )
    mlflow.start = "/t/nobody"
    assert mlflow.refused("GET", "experiments/get?experiment_id=0")[0] == "RESOURCE_DOES_NOT_EXIST"


def test_who_may(mlflow: Mlflow) -> None:
    run_id = mlflow.run()
    viewer = mlflow.key("vera", Grant(Role.VIEWER, "risk"))
    nobody = mlflow.key("nemo")
    read, write = f"runs/get?run_id={run_id}", {"run_id": run_id, "key": "k", "value": "v"}
    assert mlflow.call("GET", read, headers=viewer).status_code == 200
    for method, path, body, headers in (
        ("POST", "runs/set-tag", write, viewer),
        ("GET", read, None, nobody),
        ("POST", "runs/search", {"experiment_ids": ["0"]}, nobody),
    ):
        answer = mlflow.call(method, path, body, headers=headers)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert mlflow.call("GET", read, headers={}).status_code == 401


def test_families_that_are_not_served_say_so(mlflow: Mlflow) -> None:
    for method, path in (("POST", "traces"), ("GET", "nothing"), ("POST", "experiments/get")):
        assert mlflow.refused(method, path, {})[0] == "ENDPOINT_NOT_FOUND"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[1]",
        b"3",
        b'{"name": "\\ud800"}',
        b'{"name": NaN, "x": "\\ud800"}',
        b'{"name": "a\\u0000b"}',
        b'{"name": "\x00"}',
        b'{"name": "\xff"}',
        b'{"name": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"name": NaN, "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"name": 1e999}',
        b'{"name": ' + b"9" * 10_000 + b"}",
    ],
    ids=range(12),
)
def test_bodies_that_are_no_json_object(mlflow: Mlflow, body: bytes) -> None:
    headers = mlflow.headers | {"content-type": "application/json"}
    found = mlflow.refused("POST", "experiments/create", content=body, headers=headers)
    assert found[0] == INVALID


def test_numbers_as_python_writes_them(mlflow: Mlflow) -> None:
    run_id = mlflow.run()
    body = {"run_id": run_id, "key": "m", "value": float("nan"), "timestamp": 1}
    headers = mlflow.headers | {"content-type": "application/json"}
    text = json.dumps(body)
    assert mlflow.call("POST", "runs/log-metric", content=text, headers=headers).json() == {}
    mlflow.post("runs/log-parameter", run_id=run_id, key="p", value="\\u0000 NaN")
    found = mlflow.get("runs/get", run_id=run_id)["run"]["data"]
    assert (found["metrics"][0]["value"], found["params"][0]["value"]) == ("NaN", "\\u0000 NaN")


def test_nul_and_other_contents_are_refused(mlflow: Mlflow) -> None:
    for path in (
        "runs/get?run_id=a%00b",
        "logged-models/m-%00",
        "experiments/get?experiment_id=%00",
    ):
        assert mlflow.refused("GET", path)[0] == INVALID
    headers = mlflow.headers | {"content-type": "text/plain"}
    told = mlflow.refused("POST", "experiments/create", content=b'{"name": "x"}', headers=headers)
    assert told == (INVALID, "Bad Request. Content-Type must be one of ['application/json'].")
