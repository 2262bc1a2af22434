"""Bad requests, bad keys, bad models, bad bundles: a clear error for whoever caused it, and
nothing for anybody else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from load import Load, rows
from running import Answer, Platform, eventually, say
from zoo import EXAMPLE, TRIGGER, Bad, Linear

from modelfleet.client.errors import ClientError
from modelfleet.client.saving import own_python, save

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-bad-input")]
GOOD, OTHER, STRICT = "good", "other", "strict"


@pytest.fixture(scope="module")
def served(platform: Platform) -> Platform:
    platform.serve(GOOD, Linear(), EXAMPLE)
    platform.serve(OTHER, Linear(weight=2.0), EXAMPLE)
    platform.serve(STRICT, Linear(), EXAMPLE, refuse_missing=True)
    return platform


@pytest.fixture
def neighbour(served: Platform) -> Iterator[Load]:
    """Somebody who uses another model of the same pool all the while."""
    with served.load(OTHER, rows(3), connections=2, pause=0.05) as load:
        load.wait_for(10)
        yield load
        load.wait_for(20)
    assert load.tally.bad == 0, f"{load.tally}"


def tensor(**changes: object) -> dict[str, object]:
    """A good request, but for these changes of its tensor."""
    good = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [0.1, 0.2, 0.3]}
    return {"inputs": [{**good, **changes}]}


def assert_refused(answer: Answer, status: int, *words: str) -> None:
    assert answer.status == status, answer
    assert answer.headers["content-type"].startswith("application/json")
    assert set(answer.body) == {"error"}
    for word in words:
        assert word in answer.body["error"], answer.body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (tensor(shape=[1, 2], data=[0.1, 0.2]), ["shape", "x"]),
        (tensor(shape=[2, 3]), ["6", "3"]),
        (tensor(datatype="BYTES", data=["a", "b", "c"]), ["BYTES", "FP64"]),
        (tensor(data=["a", "b", "c"]), ["x"]),
        (tensor(name="y"), ["y"]),
        ({"inputs": []}, ["x"]),
        ({}, ["inputs"]),
        (b'{"inputs": [', []),
        (tensor(data=[1, 2, {}]), []),
        (b"\xff\xfe", []),
        (b"", []),
    ],
    ids=[
        *("shape", "count", "dtype", "values", "name", "no-tensor", "no-inputs", "cut-off"),
        *("object", "binary", "empty"),
    ],
)
def test_a_bad_body(served: Platform, body: object, words: list[str]) -> None:
    assert_refused(served.ask(GOOD, body), 400, *words)
    assert served.ask(GOOD, tensor()).status == 200


@pytest.mark.parametrize("gap", [b"null", b"NaN", b"Infinity"])
def test_missing_values_where_they_are_refused(served: Platform, gap: bytes) -> None:
    body = json.dumps(tensor(data=["gap", 0.0, 0.0])).encode().replace(b'"gap"', gap)
    assert_refused(served.ask(STRICT, body), 400, "'x'", "NaN", "refused")
    assert served.ask(GOOD, body).status == 200
    assert served.ask(STRICT, tensor()).status == 200


def test_a_body_of_fifty_megabytes(served: Platform, neighbour: Load) -> None:
    assert_refused(served.ask(GOOD, b" " * 50_000_000), 413)


def test_a_model_that_nobody_knows(served: Platform) -> None:
    assert_refused(served.ask("nobody-has-it", tensor()), 404)


def new_key(platform: Platform, models: list[str], seconds: int = 3600) -> dict[str, Any]:
    """A key of a principal of its own."""
    name = f"caller-{time.monotonic_ns()}"
    platform.client.api.post("/v1/principals", {"name": name})
    body = {"principal": name, "models": models, "seconds": seconds}
    found = platform.client.api.post("/v1/keys", body)
    assert isinstance(found, dict)
    return found


def test_no_key_and_a_forged_one(served: Platform) -> None:
    assert_refused(served.ask(GOOD, tensor(), key=""), 401)
    assert_refused(served.ask(GOOD, tensor(), key="not.a.key"), 401)
    head, payload, _ = served.key.split(".")
    assert_refused(served.ask(GOOD, tensor(), key=f"{head}.{payload}.{'A' * 86}"), 401)


def test_an_expired_key(served: Platform) -> None:
    key = new_key(served, [GOOD], seconds=1)["key"]
    refused = eventually(
        lambda: a if (a := served.ask(GOOD, tensor(), key=key)).status != 200 else None, 90, 0.5
    )
    assert_refused(refused, 401)


def test_a_key_for_another_model(served: Platform) -> None:
    key = new_key(served, [OTHER])["key"]
    assert served.ask(OTHER, tensor(), key=key).status == 200
    assert_refused(served.ask(GOOD, tensor(), key=key), 403)


def test_a_revoked_key(served: Platform) -> None:
    made = new_key(served, [GOOD])
    assert served.ask(GOOD, tensor(), key=made["key"]).status == 200
    served.client.api.delete(f"/v1/keys/{made['info']['id']}")
    began = time.monotonic()
    refused = eventually(
        lambda: a if (a := served.ask(GOOD, tensor(), key=made["key"])).status != 200 else None, 5
    )
    say(f"a revoked key was refused after {time.monotonic() - began:.2f} s")
    assert refused.status in (401, 403)


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("raise", 500, ["ValueError", "such a number is not for me"]),
        ("hang", 504, ["deadline"]),
        ("exit", 500, ["stopped the worker"]),
        ("eat", 500, []),
    ],
)
def test_a_model_that_misbehaves(
    served: Platform, neighbour: Load, how: str, status: int, words: list[str]
) -> None:
    name = f"bad-{how}"
    served.serve(name, Bad(how), EXAMPLE)
    assert served.ask(name, tensor()).status == 200
    poison = tensor(data=[TRIGGER + 1, 0.0, 0.0])
    timeout = {"x-mf-timeout-ms": "500"} if how == "hang" else {}
    began = time.monotonic()
    assert_refused(served.ask(name, poison, headers=timeout), status, *words)
    assert time.monotonic() - began < 15
    assert served.ask(OTHER, tensor()).status == 200


def details(platform: Platform, name: str) -> Mapping[str, Any]:
    found = platform.client.api.get(f"/v1/models/{name}/versions/latest")
    assert isinstance(found, dict)
    return found


def test_a_corrupt_bundle_is_not_loaded(served: Platform, neighbour: Load) -> None:
    made = served.client.register(
        Linear(weight=3.0), EXAMPLE, name="corrupt", team="e2e", wait=True
    )
    folder = served.layout().bundle(made.bundle_digest) / "files"
    flip(folder / "model.pkl")
    started = served.client.deploy("corrupt", made.version)
    ended = served.client.wait_for_rollout(started.id, 60)
    assert ended.state in ("rolled_back", "frozen"), ended
    assert "model.pkl" in ended.sentence, ended
    assert served.ask("corrupt", tensor()).status in (404, 503)


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_pickle_of_a_class_that_is_not_there(served: Platform, tmp_path: Path) -> None:
    saved = save(Linear(), EXAMPLE, work=tmp_path)
    files = {**saved.files, "model.pkl": b"cnowhere_to_be_found\nModel\n."}
    served.client.ensure_model("missing", team="e2e")
    with pytest.raises(ClientError, match="nowhere_to_be_found"):
        served.client.register_files(
            "missing", files, requirements=saved.requirements, python=own_python(), wait=True
        )
    found = details(served, "missing")
    assert found["version"]["status"] == "failed"
    assert "nowhere_to_be_found" in found["version"]["reason"]
    assert [gate["verdict"] for gate in found["gates"] if gate["gate"] == "loads"] == ["fail"]


def test_an_upload_that_breaks_off_leaves_no_version(served: Platform, tmp_path: Path) -> None:
    saved = save(Linear(), EXAMPLE, work=tmp_path)
    served.client.ensure_model("half", team="e2e")
    entries = [{"path": path, "sha256": os.urandom(32).hex(), "size": 1} for path in saved.files]
    body = {"entries": entries, "requirements": ["numpy"], "python": own_python()}
    with pytest.raises(ClientError):
        served.client.api.post("/v1/models/half/versions", body)
    assert served.client.versions("half") == []
