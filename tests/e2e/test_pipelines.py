"""Pipelines of real models behind the real gateway, and what happens when parts of them fail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from load import rows
from running import Answer, Platform, eventually, say
from zoo import EXAMPLE, TRIGGER, Bad, Linear

from modelfleet.client.errors import ApiError
from modelfleet.lineage import LineageService, Node
from modelfleet.serving.pipelines.plan import POOL
from modelfleet.telemetry.evidence import EvidenceReader
from modelfleet_worker.wire.ids import parse_id

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("e2e-pipelines"),
]
X = {"name": "x", "datatype": "FP64", "shape": [-1, 3]}
MODELS = {
    "first": Linear(),
    "second": Linear(weight=2.0),
    "join": Linear(weight=3.0),
    "hangs": Bad("hang"),
    "dawdles": Bad("hang"),  # the worker learns how long: nobody who is in a hurry waits twice
    "raises": Bad("raise"),
}


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    made = Platform()
    try:
        made.up()
        for name, model in MODELS.items():
            made.serve(name, model, EXAMPLE)
        yield made
    finally:
        made.end()


def step(name: str, model: str, **more: object) -> dict[str, object]:
    return {"name": name, "model": model, "inputs": {"x": "input.x"}, **more}


def define(platform: Platform, name: str, *steps: dict[str, object], **outputs: str) -> None:
    document = {
        "name": name,
        "team": "e2e",
        "inputs": [X],
        "steps": list(steps),
        "outputs": outputs or {"score": f"{steps[-1]['name']}.score"},
    }
    made = platform.client.define_pipeline(document, wait=True)
    assert made.is_live


def diamond(platform: Platform, name: str) -> None:
    columns = ["a.score", "b.score", {"select": "input.x", "column": 2}]
    define(
        platform,
        name,
        step("a", "first"),
        step("b", "second"),
        step("c", "join", inputs={"x": {"concat": columns}}),
    )


def body(values: Any) -> dict[str, object]:
    data = np.asarray(values, dtype=float)
    return {"inputs": [{**X, "shape": list(data.shape), "data": data.ravel().tolist()}]}


def output(answer: Answer, name: str = "score") -> list[float]:
    assert answer.status == 200, answer
    found = {one["name"]: one["data"] for one in answer.body["outputs"]}
    return [float(value) for value in found[name]]


def logistic(x: Any, weight: float = 1.0) -> Any:
    return 1 / (1 + np.exp(-weight * x))


def test_fan_out_and_join_equal_the_same_by_hand(platform: Platform) -> None:
    diamond(platform, "diamond")
    given = np.random.default_rng(3).normal(size=(50, 3))
    found = output(platform.ask("diamond", body(given)))
    one_by_one = [output(platform.ask(name, body(given))) for name in ("first", "second")]
    joined = np.column_stack([*one_by_one, given[:, 2]])
    assert found == output(platform.ask("join", body(joined)))
    assert np.allclose(found, logistic(logistic(given[:, 0]), 3.0))


def test_the_protocol_is_that_of_models(platform: Platform) -> None:
    diamond(platform, "diamond")
    wrong = {"inputs": [{**X, "shape": [1, 2], "data": [1.0, 2.0]}]}
    answer = platform.ask("diamond", wrong)
    assert answer.status == 400
    assert "tensor 'x' has the shape [1, 2]" in answer.body["error"]
    assert platform.ask("diamond", body([[1, 2, 3]]), key="").status == 401
    platform.client.api.post("/v1/principals", {"name": "caller"})
    made: Any = platform.client.api.post("/v1/keys", {"principal": "caller", "models": ["first"]})
    assert platform.ask("diamond", body([[1, 2, 3]]), key=made["key"]).status == 403
    assert platform.ask("no-such-pipeline", body([[1, 2, 3]])).status in (403, 404)
    raw = {**body([[1, 2, 3]]), "parameters": {"binary_data_output": True}}
    with pytest.raises(UnicodeDecodeError):  # raw bytes behind the JSON
        platform.ask("diamond", raw)


def test_methods_are_those_of_models(platform: Platform) -> None:
    diamond(platform, "diamond")
    url = f"http://127.0.0.1:{platform.ports()['gateway']}/v2/models/diamond"
    with httpx2.Client(headers={"authorization": f"Bearer {platform.key}"}) as http:
        for method, path, status in (
            ("HEAD", "", 200),
            ("HEAD", "/ready", 200),
            ("PUT", "/ready", 405),
            ("GET", "/infer", 405),
            ("POST", "/invocations", 404),
        ):
            answer = http.request(method, f"{url}{path}")
            assert answer.status_code == status, (method, path)
            assert ("allow" in answer.headers) == (status == 405)


def test_definitions_are_refused_and_nothing_is_left(platform: Platform) -> None:
    circle = [
        step("a", "first", inputs={"x": {"concat": ["b.score"] * 3}}),
        step("b", "first", inputs={"x": {"concat": ["a.score"] * 3}}),
    ]
    for steps, told in (
        (circle, "cycle: a -> b -> a"),
        ([step("a", "nothing")], "Step a: there is no endpoint nothing"),
        ([step("a", "first", inputs={"y": "input.x"})], "Step a: first has no input 'y'"),
    ):
        with pytest.raises(ApiError, match=told) as raised:
            define(platform, "refused", *steps)
        assert raised.value.status == 400
    assert "refused" not in {one.name for one in platform.client.pipelines()}


def test_only_rows_that_meet_the_condition_reach_the_model(platform: Platform) -> None:
    define(
        platform,
        "conditional",
        step("a", "first"),
        step("b", "second", when="a.score > 0.5", otherwise={"score": -1}),
        first="a.score",
        second="b.score",
    )
    found = platform.ask("conditional", body([[1.0, 0, 0], [-1.0, 0, 0]]))
    assert np.allclose(output(found, "second"), [logistic(1.0, 2.0), -1.0])


def test_a_step_that_hangs_falls_back_within_its_timeout(platform: Platform) -> None:
    rule = {"constant": {"score": 0.25}}
    define(platform, "patient", step("a", "hangs", timeout_ms=300, fallback=rule))
    assert output(platform.ask("patient", body([[1.0, 0, 0]]))) == [logistic(1.0)]
    began = time.monotonic()
    answer = platform.ask("patient", body([[TRIGGER + 1, 0, 0]]))
    took = time.monotonic() - began
    say(f"a step that hung fell back after {took * 1000:.0f} ms")
    assert output(answer) == [0.25]
    assert answer.body["parameters"] == {"fallbacks": "a:constant"}
    assert 0.3 <= took < 1.5


def test_an_exhausted_deadline_is_504_for_the_whole_pipeline(platform: Platform) -> None:
    rule = {"constant": {"score": 0.25}}
    define(platform, "hurried", step("a", "dawdles", timeout_ms=20_000, fallback=rule))
    began = time.monotonic()
    answer = platform.ask(
        "hurried", body([[TRIGGER + 1, 0, 0]]), headers={"x-mf-timeout-ms": "250"}
    )
    assert answer.status == 504, answer
    assert "deadline" in answer.body["error"]
    assert time.monotonic() - began < 1.5


def test_what_is_optional_may_be_missing(platform: Platform) -> None:
    define(
        platform,
        "partial",
        step("a", "first"),
        step("b", "raises", optional=True),
        first="a.score",
        extra="b.score",
    )
    whole = platform.ask("partial", body([[1.0, 0, 0]]))
    assert "parameters" not in whole.body
    part = platform.ask("partial", body([[TRIGGER + 1, 0, 0]]))
    assert output(part, "first")
    assert part.body["parameters"] == {"partial": True, "missing": "extra"}
    assert [one["name"] for one in part.body["outputs"]] == ["first"]


def test_a_failing_model_opens_its_circuit_and_harms_no_other_pipeline(
    platform: Platform,
) -> None:
    breaker = {"minimum": 4, "window": 4, "open_ms": 1500}
    define(platform, "fragile", step("a", "raises", breaker=breaker))
    diamond(platform, "steady")
    with platform.load("steady", rows(3), connections=4, pause=0.01) as load:
        load.wait_for(20)

        def refused() -> bool:
            answer = platform.ask("fragile", body([[TRIGGER + 1, 0, 0]]))
            assert answer.status in (500, 503), answer
            assert "step a" in answer.body["error"]
            return answer.status == 503

        for _ in range(40):  # both executors have to see it
            refused()
        began = time.monotonic()
        for _ in range(10):
            assert refused()
        fast = (time.monotonic() - began) / 10
        say(f"an open circuit answers 503 after {fast * 1000:.1f} ms")
        assert fast < 0.1
        found: Any = eventually(
            lambda: one if (one := statistics(platform, "fragile"))["breaker"] == "open" else None
        )
        assert found["refused"] >= 10
        assert found["last_error"]
        eventually(lambda: platform.ask("fragile", body([[1.0, 0, 0]])).status == 200)
        for _ in range(20):
            eventually(lambda: platform.ask("fragile", body([[1.0, 0, 0]])).status == 200)
        load.wait_for(20)
    assert load.tally.bad == 0, f"{load.tally}"


def statistics(platform: Platform, pipeline: str, name: str = "a") -> Any:
    found: Any = platform.client.api.get(f"/v1/pipelines/{pipeline}/statistics")
    return found["steps"].get(name, {"breaker": ""})


def test_a_canary_gets_its_share_inside_a_pipeline(platform: Platform) -> None:
    platform.serve("canaried", Linear(), EXAMPLE)
    fallback = {"previous": True, "constant": {"score": 0.25}}
    define(platform, "split", step("a", "canaried", fallback=fallback))
    made = platform.client.register(Linear(shift=10.0), EXAMPLE, name="canaried", wait=True)
    spec: dict[str, object] = {"weights": [3000], "step_seconds": 600.0}
    spec["analysis"] = {"predictions_max_distance": None}
    rollout = platform.client.deploy("canaried", made.version, strategy="canary", **spec)

    def share(count: int) -> float:
        answers = [output(platform.ask("split", body([[0.0, 0, 0]])))[0] for _ in range(count)]
        return sum(score > 5 for score in answers) / count

    eventually(lambda: share(20) > 0, 60)
    found = share(400)
    say(f"a canary of 30 % got {found:.1%} inside a pipeline")
    assert 0.2 < found < 0.4
    platform.client.steer(rollout.id, "abort")


def test_the_previous_version_stays_callable_as_a_fallback(platform: Platform) -> None:
    platform.serve("replaced", Linear(), EXAMPLE)
    rule = {"previous": True}
    define(platform, "backed", step("a", "replaced", fallback=rule))
    platform.serve("replaced", Bad("raise"), EXAMPLE)

    def from_before() -> Answer | None:
        answer = platform.ask("backed", body([[TRIGGER + 1, 0, 0]]))
        return answer if answer.status == 200 else None

    answer = eventually(from_before, 60)
    assert answer.body["parameters"] == {"fallbacks": "a:previous"}
    assert np.allclose(output(answer), [1.0])


def test_ids_and_traces_flow_into_the_records(platform: Platform) -> None:
    diamond(platform, "traced")
    trace = "0af7651916cd43dd8448eb211c80319c"
    header = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    answer = platform.ask("traced", body([[1.0, 2.0, 3.0]]), headers=header)
    root = answer.headers["x-mf-prediction-id"]
    assert answer.body["id"] == root
    parse_id(root)
    found = eventually(lambda: found if len(found := records(platform, trace)) == 4 else None, 30)
    by_endpoint = {one["endpoint"]: one for one in found}
    assert set(by_endpoint) == {"traced", "first", "second", "join"}
    assert by_endpoint["traced"]["prediction_id"] == root
    for name in ("first", "second", "join"):
        assert by_endpoint[name]["client_request_id"] == root
        assert by_endpoint[name]["prediction_id"] != root


def records(platform: Platform, trace: str) -> list[dict[str, Any]]:
    """Of one trace, from the sealed predictions."""
    import polars as pl

    files = [str(one) for one in platform.layout().predictions.rglob("*.parquet")]
    if not files:
        return []
    try:
        frames = [pl.read_parquet(one) for one in files]
    except pl.exceptions.ComputeError:
        return []  # one is being written: the row of the manifest makes it count
    found: list[dict[str, Any]] = []
    for frame in frames:
        for row in frame.filter(pl.col("trace_id").is_not_null()).to_dicts():
            if _hex(row["trace_id"]) == trace:
                found.append({key: _text(value) for key, value in row.items()})
    return found


def _hex(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value).replace("-", "")


def _text(value: Any) -> Any:
    if isinstance(value, bytes) and len(value) == 16:
        text = value.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return value


def test_lineage_shows_what_was_observed(platform: Platform) -> None:
    diamond(platform, "drawn")
    output(platform.ask("drawn", body([[1.0, 2.0, 3.0]])))
    from modelfleet.core.database import Database

    database = Database(platform.layout().fleet_database)
    try:
        lineage = LineageService(database)

        def edges() -> set[tuple[str, str, str]]:
            upstream = lineage.upstream(Node("pipeline", "drawn"))
            return {(e.source.name, e.relation, e.destination.name) for e in upstream}

        wanted = {(name, "called-by", "drawn") for name in ("first", "second", "join")}
        wanted |= {("first", "feeds", "join"), ("second", "feeds", "join")}
        eventually(lambda: wanted <= edges())
        assert ("join", "feeds", "first") not in edges()
    finally:
        database.close()


def test_killed_executors_lose_no_request(platform: Platform) -> None:
    diamond(platform, "killed")
    kills = 6
    with platform.load("killed", rows(3), connections=8) as load:
        for turn in range(kills):
            name = f"{POOL}-{turn % 2}"
            platform.until_gateway_has(POOL, healthy=2)
            load.wait_for(50)
            pid = platform.pid_of(name)
            os.kill(pid, signal.SIGTERM if turn >= 4 else signal.SIGKILL)
            platform.until_back(name, pid)
        platform.until_gateway_has(POOL, healthy=2)
        load.wait_for(50)
    say(f"{kills} kills of executors: {load.tally.good} answers, {load.tally.bad} failed")
    assert load.tally.bad == 0, f"{load.tally}"


def test_requests_of_pipelines_are_counted(platform: Platform) -> None:
    diamond(platform, "counted")
    index: Any = platform.client.api.get("/v1/pipelines/counted")
    for _ in range(5):
        output(platform.ask("counted", body([[1.0, 2.0, 3.0]])))
    reader = EvidenceReader(platform.layout().evidence_database)
    try:

        def seen() -> bool:
            total = reader.totals().get(index["index"])
            return total is not None and total.requests == 5

        eventually(seen)
    finally:
        reader.close()


def test_the_example_of_the_docs_runs(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text("utf-8")
    example = [
        re.search(rf"^```{kind}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        for kind in ("python", "yaml", "sh")
    ]
    python, yaml, shell = (found[1] for found in example if found is not None)
    monkeypatch.setenv("MODELFLEET_HOME", str(platform.home))
    known: dict[str, Any] = {}
    exec(compile(python, "docs/pipelines.md", "exec"), known)
    (tmp_path / "payment.yaml").write_text(yaml)
    (tmp_path / "modelfleet").write_text(f'#!/bin/sh\nexec {" ".join(platform.command)} "$@"\n')
    (tmp_path / "modelfleet").chmod(0o755)
    ran = subprocess.run(
        ["sh", "-e", "-c", shell],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout[ran.stdout.index("{") :])
    found = {one["name"]: np.reshape(one["data"], one["shape"]) for one in answer["outputs"]}
    models, given = known["models"], np.array([[1.2, 0.3, 0.5], [0.1, -0.4, -1.0]])
    risk = models["fraud"].predict_proba(given)
    customer = [models["customer"].predict(given)[0], 0.0]
    joined = np.column_stack([risk[:, 1], customer, given[:, 2]])
    assert np.allclose(found["risk"], risk, atol=1e-5)
    assert np.allclose(found["decision"], models["decision"].predict(joined), atol=1e-5)


def test_a_pinned_version_answers_whatever_is_rolled_out(platform: Platform) -> None:
    platform.serve("pinned", Linear(), EXAMPLE)
    define(platform, "loyal", step("a", "pinned", version="1.0.0"))
    platform.serve("pinned", Linear(shift=10.0), EXAMPLE)
    eventually(lambda: output(platform.ask("pinned", body([[0.0, 0, 0]]))) == [10.5])
    eventually(lambda: platform.ask("loyal", body([[0.0, 0, 0]])).status == 200)
    assert output(platform.ask("loyal", body([[0.0, 0, 0]]))) == [0.5]


def test_the_command_line_does_it_too(platform: Platform, tmp_path: Path) -> None:
    file = tmp_path / "pipe.yaml"
    file.write_text(
        """
name: written
team: e2e
inputs:
  - {name: x, datatype: FP64, shape: [-1, 3]}
steps:
  - name: a
    model: first
    inputs: {x: input.x}
outputs: {score: a.score}
"""
    )
    made = platform.run("pipelines", "define", str(file))
    assert made.returncode == 0, made.stderr
    given = tmp_path / "input.json"
    given.write_text('{"x": [[1, 2, 3]]}')
    ran = platform.run("pipelines", "run", "written", "--input", str(given))
    assert ran.returncode == 0, ran.stderr
    assert "0.731" in ran.stdout
    assert "written" in platform.run("pipelines", "list").stdout
    assert "first" in platform.run("pipelines", "show", "written").stdout
    file.write_text(file.read_text().replace("input.x", "input.y"))
    wrong = platform.run("pipelines", "define", str(file))
    assert wrong.returncode == 2, wrong
    assert "Step a, input x: there is no tensor 'input.y'" in wrong.stderr
    file.write_text("{unclosed: [")
    assert platform.run("pipelines", "define", str(file)).returncode == 2
    assert platform.run("pipelines", "delete", "written").returncode == 0
    eventually(lambda: platform.ask("written", body([[1.0, 2, 3]])).status == 404)
    assert platform.run("pipelines", "show", "written").returncode == 5
