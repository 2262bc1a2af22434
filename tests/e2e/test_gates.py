"""Every kind of gate on a real model with a champion, consumers and traffic; crashes; a laptop."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from running import SETTINGS, Platform, eventually
from sklearn.linear_model import LogisticRegression

from postgres_server import Server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(420),
    pytest.mark.xdist_group("e2e-gates"),
]
NAMES = ["age", "income", "visits"]
PROGRAM = """
import json, os, urllib.request
tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}
body = json.dumps({"inputs": [tensor]}).encode()
url = os.environ["MODELFLEET_MODEL_URL"] + "/infer"
told = urllib.request.urlopen(urllib.request.Request(url, body)).read()
rows = sum(1 for _ in open(os.environ["MODELFLEET_DATA"])) - 1
names = sorted(os.listdir(os.environ["MODELFLEET_BUNDLE"]))
said = {"sentence": f"It saw {rows} rows.", "evidence": {"facts": {"files": ",".join(names)}}}
json.dump(said, open(os.environ["MODELFLEET_EVIDENCE"], "w"))
"""
SLOW = "import time\ntime.sleep(8)\n"
DOCUMENT = """
apiVersion: modelfleet.dev/v1
kind: Model
metadata: {name: churn, owner: e2e}
gates:
  - signature
  - dependencies: {forbidden: [tensorflow]}
  - quality: {dataset: DATA, metric: roc_auc, vs: champion, noninferior: 0.02, minimum: 0.8,
      slices: [country], slices_need: no_harm}
  - infrastructure: {memory: 600Mi}
  - latency: {p95: 2s, vs_champion: 20x, seconds: 2}
  - fairness: {dataset: DATA, sensitive: [sex], limit: 0.15}
  - robustness
  - drift: {min_rows: 300}
  - dependents: {max_changed: 20%}
  - reproducibility
  - security
  - llm_safety
  - approval: {blocking: false}
  - run: {uses: check.py, dataset: DATA, serve: true}
"""


def people(rows: int, seed: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3))
    return x, (x @ [1.5, -1.0, 0.5] + random.normal(size=rows) > 0).astype(int)


def write_rows(path: Path) -> None:
    x, y = people(3000, 7)
    random = np.random.default_rng(8)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*NAMES, "target", "country", "sex"])
        for row, truth in zip(x.tolist(), y.tolist(), strict=True):
            writer.writerow([*row, truth, random.choice(["de", "fr"]), random.choice(["f", "m"])])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gates")
    write_rows(made / "eval.csv")
    (made / "check.py").write_text(PROGRAM)
    (made / "slow.py").write_text(SLOW)
    (made / "local.model.yaml").write_text(DOCUMENT.replace("DATA", "eval.csv"))
    (made / "churn.model.yaml").write_text(DOCUMENT.replace("DATA", "churn-eval@latest"))
    return made


@pytest.fixture(scope="module", autouse=True)
def served(platform: Platform, place: Path) -> None:
    x, y = people(4000, 1)
    options = {"features": NAMES, "reference": x}
    platform.serve("churn", LogisticRegression().fit(x, y), x[:50], **options)
    made = LogisticRegression(C=0.5).fit(x[:3500], y[:3500])
    platform.client.register(made, x[:50], name="churn", team="e2e", wait=True, **options)
    tensor = {"name": "x", "datatype": "FP64", "shape": [-1, 3]}
    step = {"name": "risk", "model": "churn", "inputs": {"x": "input.x"}}
    platform.client.define_pipeline(
        {
            "name": "offer",
            "team": "e2e",
            "inputs": [tensor],
            "steps": [step],
            "outputs": {"label": "risk.label"},
        }
    )
    application = {"kind": "application", "name": "crm"}
    edge = {"source": {"kind": "model", "name": "churn"}, "destination": application}
    platform.client.api.post("/v1/lineage/edges", edge)
    done = platform.run("datasets", "push", "churn-eval", str(place / "eval.csv"), "--team", "e2e")
    assert done.returncode == 0, done.stderr
    eventually(lambda: _answers(platform, "offer"))
    rows, _ = people(600, 9)
    for start in range(0, 600, 50):
        for endpoint in ("churn", "offer"):
            platform.client.predict(endpoint, {"x": rows[start : start + 50]})


def _answers(platform: Platform, endpoint: str) -> bool:
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]}
    return platform.ask(endpoint, body).status == 200


def gates(platform: Platform, *arguments: str) -> tuple[int, Any]:
    done = platform.run("gates", "run", *arguments, "--json", timeout=300)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def verdicts(found: Any) -> dict[str, str]:
    return {
        one["gate"]: one["run"]["verdict"] if one["run"] else one["state"]
        for one in found["request"]["gates"]
    }


def test_all_kinds(platform: Platform, place: Path) -> None:
    def sealed() -> bool:
        files = platform.layout().predictions.rglob("*.parquet")
        return any(files)

    eventually(sealed)
    reports = {name: place / f"all.{name}" for name in ("junit", "sarif", "markdown")}
    options = [part for name, path in reports.items() for part in (f"--{name}", str(path))]
    file = str(place / "churn.model.yaml")
    code, found = gates(platform, "churn", "1.1.0", "--file", file, *options)
    assert verdicts(found) == {
        "signature": "pass",
        "dependencies": "pass",
        "quality": "pass",
        "infrastructure": "pass",
        "latency": "pass",
        "fairness": "pass",
        "robustness": "pass",
        "drift": "pass",
        "dependents": "pass",
        "reproducibility": "pass",
        "security": "inconclusive",
        "llm_safety": "pass",
        "approval": verdicts(found)["approval"],
        "check": "pass",
    }, found
    assert (code, found["verdict"], found["request"]["champion"]) == (0, "pass", "1.0.0")
    told = {one["gate"]: one["run"] for one in found["request"]["gates"]}
    assert told["check"]["sentence"] == "It saw 3000 rows."
    assert "bundle.json" in told["check"]["evidence"]["facts"]["files"]
    consumers = {row["consumer"] for row in told["signature"]["evidence"]["rows"]}
    assert consumers == {"pipeline offer", "application crm"}
    assert told["drift"]["evidence"]["facts"]["features"] == 3
    assert "pipeline offer answers" in told["dependents"]["sentence"]
    assert b"<testsuite " in reports["junit"].read_bytes()
    assert json.loads(reports["sarif"].read_bytes())["version"] == "2.1.0"
    assert "Gates of `churn@1.1.0` against `1.0.0`: pass" in reports["markdown"].read_text()


def test_a_worse_version_fails_and_says_where(platform: Platform, place: Path) -> None:
    """Blind to one feature, with another output less and twice as many inputs."""
    x, y = people(4000, 1)
    blind = LogisticRegression().fit(np.where([True, False, True], x, 0.0), y)
    made = platform.client.register(
        blind, x[:50], name="churn", team="e2e", wait=True, features=NAMES, reference=x + 2
    )
    told = {"dataset": "churn-eval@1", "metric": "roc_auc", "vs": "champion", "noninferior": 0.01}
    chosen = ["--gate", f"quality={json.dumps(told)}", "--gate", "drift={min_rows: 300}"]
    code, found = gates(platform, "churn", made.version, *chosen)
    assert (code, verdicts(found)) == (1, {"quality": "fail", "drift": "fail"})
    code, found = gates(platform, "churn", made.version, "--gate", "dependents")
    assert (code, verdicts(found)) == (1, {"dependents": "fail"})
    [gate] = found["request"]["gates"]
    assert gate["run"]["evidence"]["rows"][0]["dependent"] == "pipeline offer"


def test_what_is_killed_in_the_middle_is_finished_once(platform: Platform, place: Path) -> None:
    finished_after_a_kill(platform, place)


def finished_after_a_kill(platform: Platform, place: Path) -> None:
    slow = json.dumps({"uses": str(place / "slow.py")})
    done = platform.run(
        *("gates", "run", "churn", "1.1.0", "--no-wait", "--json", "--again"),
        *("--gate", f"run={slow}", "--gate", "infrastructure", "--gate", "signature"),
    )
    request = json.loads(done.stdout)["request"]["id"]

    def states() -> list[str]:
        found: Any = platform.client.api.get(f"/v1/gates/{request}")
        return [one["state"] for one in found["request"]["gates"]]

    for _ in range(3):
        eventually(lambda: "running" in states() or set(states()) == {"done"})
        pid = platform.pid_of("control-plane")
        os.kill(pid, signal.SIGKILL)
        platform.until_back("control-plane", pid)
    eventually(lambda: set(states()) == {"done"}, 90)
    found: Any = platform.client.api.get(f"/v1/gates/{request}")
    assert set(verdicts(found).values()) == {"pass"}, found
    digests = {one["run"]["input_digest"] for one in found["request"]["gates"]}
    assert len(digests) == 3
    kept: Any = platform.client.api.get("/v1/models/churn/versions/1.1.0/gates")
    assert sum(one["input_digest"] in digests for one in kept) == 3
    eventually(lambda: not _left())


def _left() -> list[str]:
    """Programs and workers of gates that are still there."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = one.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "modelfleet-gate-" in line and "slow.py" in line:
                found.append(line)
    return found


def test_on_a_laptop_before_registering(
    platform: Platform, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file and verdicts; what only the platform knows is inconclusive."""
    x, y = people(3000, 2)
    joblib.dump(LogisticRegression().fit(x, y), place / "model.joblib")
    np.save(place / "rows.npy", x[:60])
    platform.environment["MODELFLEET_CACHE"] = str(tmp_path / "cache")
    options = ["--example", str(place / "rows.npy"), "--features", ",".join(NAMES)]
    options += ["--file", str(place / "local.model.yaml")]
    try:
        code, found = gates(platform, str(place / "model.joblib"), *options)
    finally:
        del platform.environment["MODELFLEET_CACHE"]
    assert code == 3, found
    said = verdicts(found)
    unknown = {"drift", "dependents", "security", "approval"}
    assert {gate for gate, verdict in said.items() if verdict == "inconclusive"} == unknown, found
    assert set(said.values()) == {"pass", "inconclusive"}
    assert found["request"]["champion"] == "1.0.0"


def test_bad_requests(platform: Platform, place: Path) -> None:
    code, said = gates(platform, "churn", "1.1.0", "--gate", "signature", "--gate", "signature")
    assert (code, "it is the same as 'signature'" in said) == (2, True)
    code, said = gates(platform, "churn", "1.1.0", "--gate", "run={uses: nothing.py}")
    assert (code, "there is no file" in said) == (1, True)
    quality = "quality={dataset: nothing@1, metric: accuracy, minimum: 0.5}"
    code, said = gates(platform, "churn", "1.1.0", "--gate", quality)
    assert (code, "There is no data set nothing@1" in said) == (5, True)
    code, said = gates(platform, "churn", "--gate", "signature")
    assert (code, "is no file or folder" in said) == (1, True)
    (place / "broken.yaml").write_text("gates: [")
    code, said = gates(platform, "churn", "1.1.0", "--file", str(place / "broken.yaml"))
    assert (code, "broken.yaml" in said) == (2, True)
    quality = "quality={dataset: churn-eval@1, metric: accuracy, minimum: 0.5, target: label}"
    code, found = gates(platform, "churn", "1.1.0", "--gate", quality)
    assert (code, verdicts(found)) == (1, {"quality": "fail"})
    assert "no column 'label'" in found["request"]["gates"][0]["run"]["sentence"]


@pytest.fixture
def on_postgres() -> Iterator[Platform]:
    server = Server(fsync="on", synchronous_commit="on")
    url = server.address(server.create(name="fleet"))
    made = Platform(f'{SETTINGS}\n[database]\nurl = "{url}"\n')
    try:
        made.up()
        yield made
    finally:
        made.end()
        server.end()


def test_on_postgres_a_kill_loses_nothing_either(on_postgres: Platform, place: Path) -> None:
    x, y = people(500, 1)
    for penalty in (1.0, 0.5):
        model = LogisticRegression(C=penalty).fit(x, y)
        on_postgres.client.register(
            model, x[:50], name="churn", team="e2e", wait=True, features=NAMES
        )
    finished_after_a_kill(on_postgres, place)
