"""Exit codes and reports of `gates run`, over answers as the API gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelfleet.cli import gates
from modelfleet.cli.main import main

Run = Callable[..., int]


def gate(name: str, verdict: str | None, *, blocking: bool = True, state: str = "done") -> Any:
    run = {"verdict": verdict, "sentence": f"{name} said it.", "seconds": 0.5, "evidence": {}}
    return {
        "gate": name,
        "kind": name,
        "blocking": blocking,
        "state": state,
        "progress": None,
        "reused": False,
        "run": run if verdict else None,
    }


def answer(*found: Any) -> Any:
    request = {"id": "r1", "model": "churn", "version": "1.1.0", "champion": None}
    request["gates"] = list(found)  # type: ignore[assignment]
    ended = all(one["run"] for one in found)
    return {"request": request, "verdict": "pass", "ended": ended}


class Stub:
    """Answers in turn, the last one for ever."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.api = self
        self.posted: Any = None

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None: ...

    def post(self, path: str, body: Any) -> Any:
        self.posted = body
        return self.get(path)

    def get(self, path: str, **_: object) -> Any:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def ran(answers: list[Any], *options: str) -> int:
        stub = Stub(answers)
        monkeypatch.setattr(gates, "client", lambda home, url: stub)
        monkeypatch.setattr(gates.time, "sleep", lambda _: None)
        with pytest.raises(SystemExit) as ended:
            main(["gates", "run", "churn", "1.1.0", *options])
        return int(ended.value.code or 0)

    return ran


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([gate("a", "pass"), gate("b", "warn")], 0),
        ([gate("a", "pass"), gate("b", "fail", blocking=False)], 0),
        ([gate("a", "inconclusive"), gate("b", "fail")], 1),
        ([gate("a", "inconclusive")], 3),
        ([gate("a", "pass"), gate("approval", None, state="waiting")], 3),
        ([gate("a", "fail"), gate("approval", None, state="waiting")], 1),
        ([gate("a", "pass"), gate("approval", None, state="waiting", blocking=False)], 0),
    ],
)
def test_exit_codes(run: Run, found: list[Any], code: int) -> None:
    running = [gate(one["gate"], None, state="running") for one in found]
    assert run([answer(*running), answer(*found)]) == code


def test_what_does_not_end_is_not_decided(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    busy = [answer(gate("a", None, state="running"))]
    assert run(busy, "--timeout", "0.01") == 3
    assert "did not end within 0.01 s: modelfleet gates show r1" in capsys.readouterr().err
    assert run(busy, "--no-wait") == 0


def test_reports_are_written(run: Run, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("junit", "sarif", "markdown")}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    found = answer(gate("signature", "fail"), gate("approval", None, state="waiting"))
    assert run([found], *options) == 1
    assert b'failures="1" errors="1"' in files["junit"].read_bytes()
    [result] = json.loads(files["sarif"].read_text())["runs"][0]["results"]
    assert result["ruleId"] == "signature"
    assert "It is not decided yet." in files["markdown"].read_text()
