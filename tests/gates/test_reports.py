"""Reports for CI systems: what fails where, and that any text is safe in them."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from modelfleet.gates.reports import Line, Report, junit, markdown, sarif
from modelfleet.gates.store import GateRun, Verdict


def line(gate: str, verdict: Verdict, *, blocking: bool = True, **evidence: object) -> Line:
    run = GateRun(gate, verdict, f"{gate} <said> | \x00 this", evidence, kind=gate, seconds=1.5)
    return Line(gate, gate, blocking, run)


REPORT = Report(
    "churn",
    "1.1.0",
    "1.0.0",
    (
        line("quality", Verdict.FAIL, notes=["n"], facts={"rows": 3}),
        line("latency", Verdict.INCONCLUSIVE),
        line("security", Verdict.INCONCLUSIVE, blocking=False, rows=[]),
        line("dependencies", Verdict.FAIL, problems=["a is forbidden", "b is forbidden"]),
        line("infrastructure", Verdict.PASS),
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
        ([Verdict.PASS, Verdict.WARN], 0),
        ([Verdict.INCONCLUSIVE, Verdict.PASS], 3),
        ([Verdict.INCONCLUSIVE, Verdict.FAIL], 1),
        ([], 0),
    ],
)
def test_exit_codes(verdicts: list[Verdict], code: int) -> None:
    lines = tuple(line(f"g{k}", verdict) for k, verdict in enumerate(verdicts))
    free = line("free", Verdict.FAIL, blocking=False)
    assert Report("m", "1", None, (*lines, free)).exit_code == code
