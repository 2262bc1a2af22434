"""Reports for CI systems: what fails where, and that any text is safe in them."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from modelfleet.client.gate_reports import Line, Report, junit, markdown, sarif


def line(gate: str, verdict: str, *, blocking: bool = True, **evidence: object) -> Line:
    return Line(gate, gate, blocking, verdict, f"{gate} <said> | \x00 this", 1.5, evidence)


REPORT = Report(
    "churn",
    "1.1.0",
    "1.0.0",
    (
        line("quality", "fail", notes=["n"], facts={"rows": 3}),
        line("latency", "inconclusive"),
        line("security", "inconclusive", blocking=False, rows=[]),
        line("dependencies", "fail", problems=["a is forbidden", "b is forbidden"]),
        line("infrastructure", "pass"),
    ),
)


def test_junit() -> None:
    suite = ElementTree.fromstring(junit(REPORT)).find("testsuite")
    assert suite is not None
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "2", "errors": "1", "skipped": "1"}
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "quality <said> | � this"
    assert "rows: 3" in (failure.text or "")


def test_sarif_has_a_result_for_each_finding() -> None:
    found = json.loads(sarif(REPORT, "churn.model.yaml"))
    assert found["version"] == "2.1.0"
    [run] = found["runs"]
    assert [(one["ruleId"], one["level"]) for one in run["results"]] == [
        ("security", "note"),
        ("dependencies", "error"),
        ("dependencies", "error"),
    ]
    assert run["results"][1]["message"]["text"] == "churn@1.1.0: a is forbidden"
    place = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "churn.model.yaml"


def test_markdown() -> None:
    text = markdown(REPORT)
    assert "Gates of `churn@1.1.0` against `1.0.0`: fail" in text
    assert "| **security** (does not block) |" in text
    assert "<said> \\| " in text


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["pass", "warn"], 0),
        (["inconclusive", "pass"], 3),
        (["inconclusive", "fail"], 1),
        ([], 0),
    ],
)
def test_exit_codes(verdicts: list[str], code: int) -> None:
    lines = tuple(line(f"g{k}", verdict) for k, verdict in enumerate(verdicts))
    free = line("free", "fail", blocking=False)
    assert Report("m", "1", None, (*lines, free)).exit_code == code
