"""The order and the numbers of an import from an MLflow server, and what waits for what."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from modelfleet.client import Client
from modelfleet.client.errors import ClientError
from modelfleet.importing import Found, Item, Options, Refused, RunRecord, run
from modelfleet.importing.journal import Journal
from modelfleet.importing.mlflow_api import MlflowApi
from modelfleet.importing.mlflow_server import MlflowServer
from modelfleet.importing.runs import number

RUNS: Any = [
    {
        "info": {"run_id": "a" * 32, "experiment_id": "1", "run_name": "listed"},
        "outputs": {"model_outputs": [{"model_id": "m-1", "step": "4"}]},
    },
    {"info": {"run_id": "b" * 32, "experiment_id": "2", "run_name": "of a deleted experiment"}},
]
VERSIONS: Any = [
    {"name": "churn", "version": "10", "run_id": "a" * 32, "source": "s3://there/10"},
    {
        "name": "churn",
        "version": "9",
        "run_id": "b" * 32,
        "source": "s3://there/9",
        "description": "nine",
        "creation_timestamp": 1_700_000_000_000,
        "user_id": "ann",
        "current_stage": "Production",
        "tags": [
            {"key": "modelfleet.semver", "value": "3.1.4"},
            {"key": "ok", "value": "yes"},
            {"key": "modelfleet.import.complete", "value": "true"},
        ],
    },
]
ANSWERS: dict[str, Any] = {
    "registered-models/search": {
        "registered_models": [
            {"name": "churn", "aliases": [{"alias": "champion", "version": "9"}]},
            {"name": "p", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]},
        ]
    },
    "model-versions/search": {"model_versions": VERSIONS},
    "model-versions/get-download-uri": {"artifact_uri": "s3://there/9"},
    "experiments/search": {"experiments": [{"experiment_id": "1", "name": "training"}]},
    "experiments/get": {"experiment": {"experiment_id": "2", "name": "gone"}},
    "runs/search": {"runs": RUNS[:1]},
    "runs/get": {"run": RUNS[1]},
    "logged-models/search": {
        "models": [{"info": {"model_id": "m-1", "artifact_uri": "s3://there/m-1"}}]
    },
}


class Server(BaseHTTPRequestHandler):
    lacks: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.removeprefix("/api/2.0/mlflow/")
        asked = self.rfile.read(int(self.headers.get("content-length") or 0))
        known = path in ANSWERS and path not in self.lacks
        elsewhere = path == "logged-models/search" and b'"2"' in asked
        body = json.dumps(ANSWERS[path] if known and not elsewhere else {}).encode()
        self.send_response(200 if known else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    Server.lacks.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_runs_come_first_and_versions_keep_their_numbers(address: str) -> None:
    items = list(MlflowServer(MlflowApi(address)).items())
    assert [one.what for one in items] == ["run", "run", "model", "version", "version"]
    assert [one.key for one in items[:3]] == [
        f"mlflow:run:{'a' * 32}",
        f"mlflow:run:{'b' * 32}",
        "mlflow:model:m-1",
    ]
    assert [(one.sequence, one.version) for one in items[3:]] == [(9, "3.1.4"), (10, None)]
    assert len({one.key for one in items}) == 5


def test_only_runs_of_versions(address: str) -> None:
    items = list(MlflowServer(MlflowApi(address), runs=False).items())
    assert [one.what for one in items] == ["run", "run", "version", "version"]


def test_a_server_without_logged_models(address: str) -> None:
    Server.lacks.add("logged-models/search")
    items = list(MlflowServer(MlflowApi(address)).items())
    assert [one.what for one in items] == ["run", "run", "version", "version"]


def test_what_lies_elsewhere_is_found_with_all_that_is_known(address: str, tmp_path: Path) -> None:
    source = MlflowServer(MlflowApi(address))
    item = next(one for one in source.items() if one.sequence == 9)
    found = source.take(item, tmp_path / "work")
    assert isinstance(found, Found)
    assert "does not hand out" in found.unserved
    assert (found.elsewhere, found.run_key) == ("s3://there/9", f"mlflow:run:{'b' * 32}")
    assert (found.stage, found.description, found.aliases) == ("prod", "nine", ["champion"])
    assert found.tags == {
        "ok": "yes",
        "modelfleet.import.created_at": "2023-11-14T22:13:20+00:00",
        "modelfleet.import.created_by": "ann",
    }


class Broken:
    """Numbered versions: the first is refused, the second can't be fetched."""

    name = "broken"
    fetches = True

    def items(self) -> Iterator[Item]:
        for model in ("churn", "price"):
            for one in (1, 2, 3):
                yield Item(f"{model}:{one}", model, title=f"{model} {one}", sequence=one)

    def take(self, item: Item, work: Path) -> Found | RunRecord:
        if item.sequence == 1:
            raise Refused("harmful")
        raise ClientError(f"no {item.sequence}")

    def model_facts(self, model: str) -> Mapping[str, object]:
        return {}


@pytest.mark.parametrize("gaps", [False, True])
def test_later_numbers_wait(address: str, tmp_path: Path, gaps: bool) -> None:
    client = Client(address, "key")
    with Journal(tmp_path) as journal:
        found = run(Broken(), client, journal, Options(gaps=gaps))
    client.close()
    assert [one.state for one in found] == ["refused", "attention", "attention"] * 2
    assert [one.reason[:4] for one in found[:2]] == ["harm", "no 2"]
    for name, last in (("churn", found[2]), ("price", found[5])):
        assert (f"waits for {name} 2" in last.reason) is not gaps


@pytest.mark.parametrize(
    ("value", "sent"), [(0.5, 0.5), (math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Inf")]
)
def test_numbers_that_json_has_not(value: float, sent: float | str) -> None:
    assert str(number(value)).startswith(str(sent))
