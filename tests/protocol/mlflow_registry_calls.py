"""Run in an environment of its own, with MLflow as its users install it: `calls.py FUNCTION`.

What is not as it should be is an AssertionError; each function prints `done` at its end.
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import threading
import time
import warnings

import mlflow
import numpy as np
import pandas as pd
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sklearn.linear_model import LogisticRegression

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
warnings.filterwarnings("ignore")


def trained(flip=False):
    made = np.random.default_rng(7)
    x = pd.DataFrame(made.normal(size=(80, 3)), columns=["a", "b", "c"])
    y = (x["a"] + x["b"] > 0).astype(int)
    return LogisticRegression().fit(x, 1 - y if flip else y), x


def refused(code, call, *arguments, **named):
    told = None
    try:
        call(*arguments, **named)
    except MlflowException as error:
        told = error
    assert told is not None, f"{call} was not refused"
    assert told.error_code == code, told
    return str(told)


def logged(name, **given):
    model, x = trained(**given)
    with mlflow.start_run() as run:
        info = mlflow.sklearn.log_model(
            model, name="model", registered_model_name=name, input_example=x.head(3)
        )
    return model, x, run.info.run_id, info


def versions():
    """Registering in each way, and loading by each address."""
    client = MlflowClient()
    model, x, run_id, info = logged("churn")
    first = client.get_model_version("churn", "1")
    assert (first.status, first.run_id, first.current_stage) == ("READY", run_id, "None")
    assert first.tags["modelfleet.semver"] == "1.0.0"
    second = mlflow.register_model(f"runs:/{run_id}/model", "churn", tags={"k": "v"})
    assert (second.version, second.tags["k"]) == ("2", "v")
    assert second.tags["modelfleet.semver"] == "1.0.1"  # the same content
    third = mlflow.register_model(info.model_uri, "churn", tags={"modelfleet.semver": "3.0.0-rc.1"})
    assert third.tags == {"modelfleet.semver": "3.0.0-rc.1"}
    client.set_registered_model_alias("churn", "champion", "1")
    expected = model.predict(x)
    for address in (
        "models:/churn/1",
        "models:/churn/latest",
        "models:/churn@champion",
        "models:/churn@1.0.0",
        "models:/churn/1.0.1",
        "models:/churn@1.0",
        "models:/churn@^1",
        "models:/churn@3.0.0-rc.1",
        info.model_uri,
        f"runs:/{run_id}/model",
    ):
        assert (mlflow.pyfunc.load_model(address).predict(x) == expected).all(), address
    assert client.get_model_version_by_alias("churn", "1.0").version == "2"
    client.set_model_version_tag("churn", "2", "modelfleet.semver", "1.5.0")
    assert client.get_model_version_by_alias("churn", "1.5.0").version == "2"
    copied = client.copy_model_version("models:/churn@champion", "churn-copy")
    assert (copied.version, copied.run_id) == ("1", run_id)
    assert copied.source == "models:/churn/1"
    assert (mlflow.sklearn.load_model("models:/churn-copy/1").predict(x) == expected).all()
    for address in ("models:/churn@nobody", "models:/churn/99", "models:/nobody/1"):
        refused_load(address)


def refused_load(address):
    told = None
    try:
        mlflow.pyfunc.load_model(address)
    except MlflowException as error:
        told = error.error_code
    assert told in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"), (address, told)


def registry():
    """Names, tags, aliases, stages, searches, deletion."""
    client = MlflowClient()
    client.create_registered_model("a", tags={"team": "x"}, description="the first")
    refused("RESOURCE_ALREADY_EXISTS", client.create_registered_model, "a")
    for name in ("b", "c d", "e_1"):
        client.create_registered_model(name)
    for number in range(3):
        client.create_model_version(
            "a", f"s3://bucket/{number}", tags={"n": str(number)}, description="d"
        )
    client.create_model_version("b", "s3://bucket/b", run_id="abc")
    assert [one.name for one in client.search_registered_models()] == ["a", "b", "c d", "e_1"]
    assert [one.name for one in client.search_registered_models("name LIKE '%_1'")] == ["e_1"]
    assert [one.name for one in client.search_registered_models("name ILIKE 'A'")] == ["a"]
    assert [one.name for one in client.search_registered_models("tags.team = 'x'")] == ["a"]
    page = client.search_registered_models(max_results=3, order_by=["name DESC"])
    assert [one.name for one in page] == ["e_1", "c d", "b"]
    rest = client.search_registered_models(
        max_results=3, order_by=["name DESC"], page_token=page.token
    )
    assert ([one.name for one in rest], rest.token or "") == (["a"], "")
    token = page.token
    refused("INVALID_PARAMETER_VALUE", client.search_registered_models, page_token=token)
    refused("INVALID_PARAMETER_VALUE", client.search_registered_models, page_token="x")
    refused("INVALID_PARAMETER_VALUE", client.search_registered_models, "nope = 'a'")
    refused("INVALID_PARAMETER_VALUE", client.search_registered_models, "name = 'a' OR name = 'b'")
    found = client.search_model_versions("name = 'a'", order_by=["version_number ASC"])
    assert [one.version for one in found] == ["1", "2", "3"]
    found = client.search_model_versions("name = 'a' AND version_number >= 2 AND tags.n != '2'")
    assert [one.version for one in found] == ["2"]
    assert [one.name for one in client.search_model_versions("run_id IN ('abc', 'x')")] == ["b"]
    client.set_registered_model_alias("a", "champion", "2")
    client.set_registered_model_alias("a", "champion", "3")
    assert client.get_model_version_by_alias("a", "champion").version == "3"
    assert client.get_registered_model("a").aliases == {"champion": "3"}
    assert client.search_registered_models("name = 'a'")[0].aliases == {"champion": "3"}
    for name in ("latest", "v1", "1.2.0"):
        refused("INVALID_PARAMETER_VALUE", client.set_registered_model_alias, "a", name, "1")
    client.delete_registered_model_alias("a", "champion")
    refused("INVALID_PARAMETER_VALUE", client.get_model_version_by_alias, "a", "champion")
    client.update_model_version("a", "1", "new")
    client.set_model_version_tag("a", "1", "k", "v")
    client.delete_model_version_tag("a", "1", "n")
    one = client.get_model_version("a", "1")
    assert (one.description, one.tags["k"], "n" in one.tags) == ("new", "v", False)
    client.transition_model_version_stage("a", "1", "Production")
    client.transition_model_version_stage("a", "2", "Production", archive_existing_versions=True)
    assert client.get_model_version("a", "1").current_stage == "Archived"
    assert [v.version for v in client.get_latest_versions("a", ["Production"])] == ["2"]
    client.transition_model_version_stage("a", "3", "dev")  # a stage that MLflow doesn't know
    assert client.get_model_version("a", "3").current_stage == "dev"
    client.rename_registered_model("b", "renamed")
    assert client.get_model_version("renamed", "1").run_id == "abc"
    client.delete_model_version("a", "3")
    refused("RESOURCE_DOES_NOT_EXIST", client.get_model_version, "a", "3")
    assert client.create_model_version("a", "s3://bucket/4").version == "4"  # never given twice
    client.delete_registered_model("a")
    refused("RESOURCE_DOES_NOT_EXIST", client.get_registered_model, "a")
    for source in ("/etc/passwd", "file:///etc", "mlflow-artifacts:/../x", "s3://b/%2e%2e/x"):
        refused("INVALID_PARAMETER_VALUE", client.create_model_version, "renamed", source)


def frozen():
    """What was registered stays as it was."""
    run_id = logged("solid")[2]
    with mlflow.start_run(run_id=run_id):
        mlflow.log_text("x", "old/MLmodel")
        mlflow.register_model(f"runs:/{run_id}/old", "plain")
        told = ""
        try:
            mlflow.log_text("changed", "old/MLmodel")
        except requests.HTTPError as error:
            told = str(error)
        assert "INVALID_STATE" in told, told
        mlflow.log_text("fine", "new/file.txt")


def webhooks():
    """A change reaches a receiver."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((dict(self.headers), json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = MlflowClient()
    made = client.create_webhook(
        name="hook",
        url=f"http://127.0.0.1:{server.server_port}/",
        events=["registered_model.created", "model_version.created"],
        secret="s",
    )
    assert [one.webhook_id for one in client.list_webhooks()] == [made.webhook_id]
    assert client.test_webhook(made.webhook_id).success
    client.create_registered_model("told")
    client.create_model_version("told", "s3://bucket/x")
    end = time.time() + 20
    while len(got) < 3 and time.time() < end:
        time.sleep(0.1)
    told = {(body["entity"], body["action"]): body["data"] for _, body in got[1:]}
    assert told[("model_version", "created")]["version"] == "1", got
    assert all(any(n.lower() == "x-mlflow-signature" for n in headers) for headers, _ in got)
    client.update_webhook(made.webhook_id, status="DISABLED")
    client.delete_webhook(made.webhook_id)
    assert client.list_webhooks() == []
    server.shutdown()


def prompts():
    """Prompts are versions, too, but no models."""
    client = MlflowClient()
    client.create_registered_model("model")
    mlflow.genai.register_prompt(name="greeting", template="Hi {{name}}")
    mlflow.genai.register_prompt(name="greeting", template="Hello {{name}}")
    assert mlflow.genai.load_prompt("prompts:/greeting/2").template == "Hello {{name}}"
    assert [one.name for one in client.search_registered_models()] == ["model"]
    assert [one.name for one in mlflow.genai.search_prompts()] == ["greeting"]


def deployable():
    """Logged by a stock client; whoever called this deploys it."""
    logged("deployed")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    sys.stdout.write("done\n")
