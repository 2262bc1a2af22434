"""plan, apply, diff, destroy, export: what is shown, and exit codes, over a real API."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import uvicorn

from faces import app_over
from modelfleet.cli.main import main
from modelfleet.core.authorization import Grant, Role
from modelfleet.wiring import Fleet
from people import ADMIN
from registrar import Registrar

FLEET = """apiVersion: modelfleet.dev/v1
kind: Fleet
metadata: {name: shop}
defaults: {metadata: {owner: growth}}
"""
CHURN = """apiVersion: modelfleet.dev/v1
kind: Model
metadata: {name: churn, description: who leaves}
source: {version: latest}
consumers: [{app: "crm | <b>"}]
serve: {timeout: 200ms, resources: {memory: 100Mi}}
rollout:
  strategy: canary
  steps: [{weight: 5%, for: 15m}, {weight: 100%}]
  on_inconclusive: {after: 4h, do: hold}
"""


@pytest.fixture
def database_kind() -> str:
    """What is shown does not depend on it."""
    return "sqlite"


@pytest.fixture
def api(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The application on a port; no reconciler runs."""
    fleet.identity.bootstrap(fleet.layout)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app_over(fleet), lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("MODELFLEET_URL", url)
    monkeypatch.setenv("MODELFLEET_KEY", fleet.layout.admin_key.read_text().strip())
    yield url
    server.should_exit = True
    thread.join()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "fleet.yaml").write_text(FLEET)
    (folder / "churn.model.yaml").write_text(CHURN)
    return folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(one) for one in arguments])
    return int(caught.value.code or 0)


def test_a_plan_on_a_terminal_in_a_pull_request_and_for_programs(
    api: str, files: Path, registrar: Registrar, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", files) == 1
    shown = capsys.readouterr().out
    assert "+ Model churn" in shown
    assert "+ serve.timeout: 200ms" in shown
    assert "+ rollout.steps[0].weight: 5%  (recorded only)" in shown
    assert "serve.resources: kept only" in shown
    assert run("apply", files, "--yes") == 0
    registrar.ready()
    capsys.readouterr()
    assert run("plan", files) == 1
    shown = capsys.readouterr().out
    assert "version: none → 1.0.0 (source says latest)" in shown
    assert "at once, as nothing serves yet" in shown
    assert run("plan", files, "-o", "md") == 1
    table = capsys.readouterr().out
    assert table.startswith("### Plan of fleet `shop`")
    assert run("plan", files, "--json") == 1
    assert json.loads(capsys.readouterr().out)["objects"][0]["version"]["state"] == "rollout"


def test_markdown_can_not_be_broken_by_names(
    api: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", files, "-o", "md") == 1
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith("| `")]
    assert rows
    assert all(line.replace("\\|", "").count("|") == 6 for line in rows)
    assert '<b>"' not in shown.replace("<b>churn</b>", "")


def test_apply_asks_and_says_what_became_of_each(
    api: str, files: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("apply", files) == 2
    assert "--yes" in capsys.readouterr().err
    assert fleet.registry.list_models(ADMIN) == []
    assert run("apply", files, "--yes") == 0
    shown = capsys.readouterr().out
    assert "1 created." in shown
    assert run("apply", files, "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run("diff", files) == 0
    fleet.endpoints.set_traffic(ADMIN, "churn", {"timeout_ms": 900})
    assert run("diff", files) == 1
    assert "~ serve.timeout: 900ms → 200ms  (drift" in capsys.readouterr().out


def test_wrong_files_are_told_before_anybody_is_asked(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELFLEET_URL", "http://127.0.0.1:9")
    (files / "churn.model.yaml").write_text(CHURN.replace("timeout", "timout") + "gates: [x]\n")
    for command in ("plan", "apply", "diff"):
        assert run(command, files) == 2
        told = capsys.readouterr()
        lines = told.err.splitlines()
        assert len(lines) == 3
        assert "churn.model.yaml:6:9: serve.timout: there is no key" in lines[0]
        assert lines[2] == "Error: 2 problems; nothing was changed."
        assert told.out == ""


def test_what_only_the_platform_knows_has_its_line(
    api: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "churn.model.yaml").write_text(CHURN + "uses: [{model: nobody}]\n")
    assert run("plan", files) == 2
    assert "churn.model.yaml:11:9: uses[0].model: there is no model nobody" in (
        capsys.readouterr().err
    )


def test_prune_takes_a_whole_fleet(
    api: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", files / "churn.model.yaml", "--prune") == 2
    assert "whole fleet" in capsys.readouterr().err
    other = "apiVersion: modelfleet.dev/v1\nkind: Model\nmetadata: {name: other}\n"
    (files / "other.model.yaml").write_text(other)
    assert run("apply", files, "--yes") == 0
    (files / "churn.model.yaml").unlink()
    assert run("plan", files) == 0
    capsys.readouterr()
    assert run("plan", files, "--prune") == 1
    assert "- Model churn (generation 1)" in capsys.readouterr().out
    assert run("apply", files, "--prune", "--yes") == 0
    assert run("plan", files, "--prune") == 0
    (files / "other.model.yaml").unlink()
    assert run("plan", files, "--prune") == 2, "an empty folder is a slip, not a wish"
    assert "there is no document" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1}', "\x00"])
def test_what_is_no_plan_is_refused(
    api: str, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    assert run("apply", path, "--yes") == 2
    assert "plan.json" in capsys.readouterr().err


def test_a_plan_whose_files_changed_is_refused(
    api: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "check.py").write_text("one")
    (files / "churn.model.yaml").write_text(CHURN + "gates: [{run: {uses: ./check.py}}]\n")
    assert run("plan", files, "--out", tmp_path / "plan.json") == 1
    (files / "check.py").write_text("two")
    assert run("apply", tmp_path / "plan.json", "--yes") == 1
    assert "changed since the plan was made" in capsys.readouterr().err
    (files / "check.py").write_text("one")
    assert run("apply", tmp_path / "plan.json", "--yes") == 0


def test_who_may_not_is_4(
    api: str, fleet: Fleet, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.identity.create_principal(ADMIN, "vera", "service")
    fleet.identity.add_grant(ADMIN, "vera", Grant(Role.VIEWER, "growth"))
    key, _ = fleet.identity.create_key(ADMIN, "vera", seconds=60)
    monkeypatch.setenv("MODELFLEET_KEY", key)
    assert run("plan", files) == 1
    assert run("apply", files, "--yes") == 4
    assert run("applied") == 0


def test_export_writes_files_that_have_nothing_to_do(
    api: str, files: Path, tmp_path: Path, registrar: Registrar, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("apply", files, "--yes") == 0
    out = tmp_path / "out"
    assert run("export", out, "--fleet", "shop") == 0
    assert sorted(p.name for p in out.iterdir()) == ["churn.model.yaml", "fleet.yaml"]
    text = (out / "churn.model.yaml").read_text()
    assert "timeout: 200ms" in text
    assert "weight: 5%" in text
    assert run("plan", out) == 0
    assert run("export", out) == 2, "files are there"
    assert run("export", out, "--force", "--fleet", "shop") == 0
    capsys.readouterr()
    assert run("export", "--name", "churn") == 0
    assert "kind: Model" in capsys.readouterr().out
    assert run("export", "--name", "nobody") == 2


def test_destroy_shows_first(api: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("destroy") == 2
    assert run("destroy", "churn") == 2
    assert run("apply", files, "--yes") == 0
    assert run("destroy", "churn") == 1
    assert run("destroy", "--fleet", "shop", "--prune", "--yes") == 0
    assert run("destroy", "--fleet", "shop") == 0
    assert "1 removed." in capsys.readouterr().out


def test_the_schema_needs_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out)["properties"]["kind"]["enum"] == [
        "Fleet", "Model", "Pipeline",
    ]  # fmt: skip
    assert run("schema", "--kind", "Model") == 0
    assert "ModelDocument" in capsys.readouterr().out


def imports(arguments: Sequence[str]) -> set[str]:
    script = (
        "import sys\nfrom modelfleet.cli.main import main\n"
        f"try:\n    main({list(arguments)})\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split("MODULES", 1)[1].split())


def test_plans_need_no_server_packages(files: Path) -> None:
    heavy = {"sqlalchemy", "fastapi", "numpy", "alembic", "pyarrow", "polars", "joserfc"}
    found = imports(["plan", str(files), "--url", "http://127.0.0.1:9"])
    assert not found & heavy
    assert "pydantic" in found
