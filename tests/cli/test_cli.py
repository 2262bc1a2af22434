"""The command line: help, exit codes, what goes to stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from modelfleet.cli.main import cli, main
from modelfleet.client import transport
from wire_server import Server, serving

HEAVY = {"sqlalchemy", "fastapi", "numpy", "alembic", "pyarrow", "polars", "joserfc", "starlette"}


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None, name
        yield (*prefix, name)
        if isinstance(found, click.Group):
            yield from commands(found, (*prefix, name))


ALL = list(commands(cli))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as made:
        monkeypatch.setenv("MODELFLEET_URL", made.address)
        monkeypatch.setenv("MODELFLEET_GATEWAY_URL", made.address)
        monkeypatch.setenv("MODELFLEET_KEY", "k")
        monkeypatch.setattr(transport.time, "sleep", lambda _: None)
        yield made


def run(arguments: Sequence[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    code = caught.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def test_there_are_commands_for_every_noun() -> None:
    found = {" ".join(one) for one in ALL}
    assert {"up", "models list", "versions register", "rollouts start", "keys revoke"} <= found
    assert {"predict", "outcomes report", "alerts acknowledge", "audit verify", "deploy"} <= found
    assert len(found) > 35


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_every_command_explains_itself(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: ")
    assert len(shown.splitlines()) > 3


def imported_by(arguments: str) -> set[str]:
    script = (
        "import sys\nfrom modelfleet.cli.main import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split("MODULES", 1)[1].split())


def test_help_is_quick_as_it_imports_nothing_heavy() -> None:
    loaded = imported_by("['--help']")
    assert not loaded & HEAVY
    assert "httpx2" not in loaded


def test_talking_to_a_server_needs_no_server_packages() -> None:
    assert not imported_by("['models', 'list', '--url', 'http://127.0.0.1:9']") & HEAVY


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (413, 2), (422, 2), (401, 4), (403, 4), (404, 5), (409, 5), (503, 3), (500, 70)],
)
def test_exit_codes_follow_the_answer(
    server: Server, status: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [(status, {"detail": "That did not work.", "hint": "Do this."})]
    assert run(["models", "list"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "That did not work." in shown.err
    assert "Do this." in shown.err
    assert "Traceback" not in shown.err


def test_a_server_that_is_not_there_is_3(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELFLEET_URL", "http://127.0.0.1:9")
    assert run(["models", "list"]) == 3
    assert "127.0.0.1:9" in capsys.readouterr().err


def test_a_home_where_nothing_runs_is_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MODELFLEET_URL", raising=False)
    monkeypatch.setenv("MODELFLEET_KEY", "k")
    assert run(["models", "list", "--home", str(tmp_path)]) == 3
    assert "modelfleet up" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["models"],
        ["models", "nothing"],
        ["models", "create"],
        ["models", "create", "x", "--team", "t", "--criticality", "odd"],
        ["models", "create", "x", "--team", "t", "--tag", "odd"],
        ["grants", "add", "bob", "king"],
        ["rollouts", "start", "m", "--weights", "five"],
        ["rollouts", "start", "m", "--spec", "-"],
        ["predict", "m", "/no/such/file"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(
    server: Server,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"not json")))
    server.answers = [(200, {})]
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert server.seen == []


MODEL = {
    "name": "churn",
    "owner_team": "growth",
    "business_function": "",
    "criticality": "high",
    "latest_version": None,
    "versions": 0,
    "tags": {"a": "b"},
}


def test_json_is_the_answer_itself_and_tables_are_for_people(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [(200, [MODEL])]
    assert run(["models", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [MODEL]
    assert run(["models", "list", "--team", "growth"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["NAME", "TEAM", "FUNCTION"]
    assert row.split()[:4] == ["churn", "growth", "-", "high"]
    assert server.seen[1][1] == "/v1/models?team=growth&limit=1000"


def test_what_is_asked_is_what_is_sent(server: Server) -> None:
    server.answers = [(201, MODEL)]
    run(["models", "create", "churn", "--team", "growth", "--tag", "a=b=c"])
    method, path, headers, body = server.seen[0]
    assert (method, path, headers["authorization"]) == ("POST", "/v1/models", "Bearer k")
    sent = json.loads(body)
    assert (sent["name"], sent["owner_team"], sent["tags"]) == ("churn", "growth", {"a": "b=c"})


VERSION = {
    "index": 2,
    "model": "churn",
    "version": "1.0.0",
    "sequence": 2,
    "status": "ready",
    "reason": "",
    "serving": "source",
    "bundle_digest": "",
    "metrics": {},
    "aliases": [],
    "created_by": "",
    "created_at": "",
}
ROLLOUT = {
    "id": "r1",
    "endpoint": "churn",
    "model": "churn",
    "from_version": None,
    "to_version": "1.0.0",
    "strategy": "canary",
    "state": "pending",
    "step": 0,
    "sentence": "Waits.",
    "started_at": "",
    "ended_at": None,
}


@pytest.mark.parametrize(("end", "code"), [("succeeded", 0), ("rolled_back", 1), ("frozen", 1)])
def test_waiting_for_a_rollout_tells_how_it_ended(server: Server, end: str, code: int) -> None:
    ended = {"rollout": ROLLOUT | {"state": end}, "moves": [], "evidence": []}
    running = {"rollout": ROLLOUT | {"state": "stepping"}}
    ready = {"version": VERSION}
    server.answers = [(200, ready), (201, ROLLOUT), (200, running), (200, ended)]
    assert run(["rollouts", "start", "churn", "2", "--weights", "5,50", "--wait"]) == code
    sent = json.loads(server.seen[1][3])
    assert sent["spec"]["weights"] == [500, 5000]
    assert (sent["model"], sent["version"], sent["endpoint"]) == ("churn", "2", None)


def test_a_broken_chain_is_the_answer_no(server: Server) -> None:
    server.answers = [(200, {"intact": True, "first_broken": None})]
    assert run(["audit", "verify"]) == 0
    server.answers = [(200, {"intact": False, "first_broken": 7})]
    assert run(["audit", "verify"]) == 1


def test_a_new_key_is_all_that_stdout_holds(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [(201, {"key": "a.b.c", "info": {}})]
    assert run(["keys", "create", "bob", "--model", "churn", "--days", "1"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "a.b.c\n"
    assert "not shown again" in shown.err
    assert json.loads(server.seen[0][3])["seconds"] == 86_400


def test_a_prediction_from_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"a": [1], "b": ["x"]}')
    server.answers = [(200, {"outputs": []})]
    assert run(["predict", "churn", str(tmp_path / "in.json"), "--version", "1.0.0"]) == 0
    assert server.seen[0][1] == "/v2/models/churn/versions/1.0.0/infer"
    (tmp_path / "in.json").write_text("{")
    assert run(["predict", "churn", str(tmp_path / "in.json")]) == 2


def test_an_unexpected_error_is_70_with_a_way_to_see_it(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [(200, {"no": "list"})]
    assert run(["fleet"]) == 70
    assert "MODELFLEET_DEBUG" in capsys.readouterr().err
    monkeypatch.setenv("MODELFLEET_DEBUG", "1")
    assert run(["fleet"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_runs_are_listed_by_the_name_of_their_experiment(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        "id": "r1",
        "name": "calm-heron-1",
        "status": "FINISHED",
        "started_at": 0,
        "metrics": {"auc": 0.9},
        "parameters": {},
    }
    server.answers = [(200, [{"number": 7, "name": "it's"}]), (200, [found])]
    assert run(["runs", "list", "it's", "--order-by", "metrics.auc DESC"]) == 0
    asked = [path for _, path, *_ in server.seen]
    assert asked[0].startswith("/v1/experiments?filter=name+%3D+%22it%27s%22")
    assert asked[1].startswith("/v1/experiments/7/runs?order_by=metrics.auc+DESC")
    assert "r1  calm-heron-1  FINISHED  1970-01-01 00:00:00  auc=0.9" in capsys.readouterr().out
    server.answers = [(200, [])]
    assert run(["runs", "list", "nothing"]) == 5
