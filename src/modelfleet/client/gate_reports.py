"""Verdicts of gates for others: JUnit XML for CI, SARIF for code scanning, Markdown for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

import msgspec

SARIF_KINDS = ("security", "dependencies", "signature")
_MARKS = {"pass": "✅", "warn": "⚠️", "fail": "❌", "inconclusive": "❔"}
_LEVELS = {"fail": "error", "warn": "warning", "inconclusive": "note"}
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Line:
    """A gate of a report."""

    gate: str
    kind: str
    blocking: bool
    verdict: str
    """pass, warn, fail or inconclusive"""
    sentence: str
    seconds: float = 0.0
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    model: str
    version: str
    champion: str | None
    lines: tuple[Line, ...]

    @property
    def verdict(self) -> str:
        """The worst of all that block."""
        found = {line.verdict for line in self.lines if line.blocking}
        return next((one for one in ("fail", "inconclusive", "warn") if one in found), "pass")

    @property
    def exit_code(self) -> int:
        """0 pass or warn, 1 fail, 3 inconclusive."""
        return {"fail": 1, "inconclusive": 3}.get(self.verdict, 0)


def junit(report: Report) -> bytes:
    """A test suite: what fails and blocks is a failure, what is not decided or doesn't block is
    skipped with its sentence."""
    suite = ElementTree.Element("testsuite", name=f"gates of {report.model}@{report.version}")
    counts = {"tests": len(report.lines), "failures": 0, "errors": 0, "skipped": 0}
    for line in report.lines:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"modelfleet.gates.{line.kind}",
            name=line.gate,
            time=f"{line.seconds:.3f}",
        )
        verdict, text = line.verdict, _xml(line.sentence)
        if verdict == "fail" and line.blocking:
            counts["failures"] += 1
            made = ElementTree.SubElement(case, "failure", message=text, type="fail")
            made.text = _xml(_details(line))
        elif verdict == "inconclusive" and line.blocking:
            counts["errors"] += 1
            made = ElementTree.SubElement(case, "error", message=text, type="inconclusive")
            made.text = _xml(_details(line))
        elif verdict in ("fail", "inconclusive"):
            counts["skipped"] += 1
            ElementTree.SubElement(case, "skipped", message=f"{verdict}: {text}")
        else:
            ElementTree.SubElement(case, "system-out").text = text
    for name, count in counts.items():
        suite.set(name, str(count))
    suite.set("time", f"{sum(line.seconds for line in report.lines):.3f}")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def sarif(report: Report, where: str = "") -> bytes:
    """SARIF 2.1.0 of the kinds that it fits. where: the file that the findings are shown at."""
    lines = [line for line in report.lines if line.kind in SARIF_KINDS]
    results = [found for line in lines for found in _results(report, line, where)]
    rules = [
        {"id": kind, "name": kind, "shortDescription": {"text": f"The gate {kind}"}}
        for kind in sorted({line.kind for line in lines})
    ]
    driver = {
        "name": "modelfleet gates",
        "informationUri": "https://modelfleet.dev",
        "rules": rules,
    }
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return msgspec.json.format(msgspec.json.encode(document))


def _results(report: Report, line: Line, where: str) -> list[dict[str, object]]:
    level = _LEVELS.get(line.verdict)
    if level is None:
        return []
    found: list[dict[str, object]] = []
    for text in _findings(line) or [line.sentence]:
        one: dict[str, object] = {
            "ruleId": line.kind,
            "level": level,
            "message": {"text": f"{report.model}@{report.version}: {text}"},
        }
        place = where or f"{report.model}.model.yaml"
        one["locations"] = [
            {"physicalLocation": {"artifactLocation": {"uri": place}, "region": {"startLine": 1}}}
        ]
        found.append(one)
    return found


def _findings(line: Line) -> list[str]:
    """One text for each thing that was found."""
    evidence = line.evidence
    problems = evidence.get("problems")
    if isinstance(problems, list) and problems:
        return [str(one) for one in problems]
    rows = evidence.get("rows")
    texts = []
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping):
            if row.get("verdict") in ("harmful", "fail", "inconclusive") and row.get("why"):
                texts.append(f"{row.get('file') or row.get('consumer')}: {row['why']}")
            elif row.get("breaks") == "yes":
                texts.append(str(row["difference"]))
    return texts


def markdown(report: Report) -> str:
    """For pull requests."""
    against = f" against `{report.champion}`" if report.champion else ""
    mark = _MARKS[report.verdict]
    lines = [
        f"### {mark} Gates of `{report.model}@{report.version}`{against}: {report.verdict}",
        "",
        "| | gate | what was found |",
        "|---|---|---|",
    ]
    for line in report.lines:
        free = "" if line.blocking else " (does not block)"
        sentence = _cell(line.sentence)
        lines.append(f"| {_MARKS[line.verdict]} | **{line.gate}**{free} | {sentence} |")
    for line in report.lines:
        lines += _panels(line)
    return "\n".join(lines) + "\n"


def _panels(line: Line) -> list[str]:
    made: list[str] = []
    for panel in _list(line.evidence.get("panels")):
        if not isinstance(panel, Mapping) or not _list(panel.get("bounds")):
            continue
        title = _cell(f"{line.gate}: {panel.get('title')} (limit {panel.get('limit')})")
        made += ["", f"<details><summary>{title}</summary>", ""]
        made += ["| | where | value | from | to | rows |", "|---|---|---|---|---|---|"]
        for one in _list(panel["bounds"])[:30]:
            if isinstance(one, Mapping):
                cells = (one.get(name) for name in ("label", "value", "low", "high", "rows"))
                mark = _MARKS.get(str(one.get("verdict")), "")
                made.append(f"| {mark} | {' | '.join(_cell(cell) for cell in cells)} |")
        made += ["", "</details>"]
    return made


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)  # noqa: RUF001
    return " ".join(text.replace("|", "\\|").split())


def _details(run: Line) -> str:
    notes = [str(one) for one in _list(run.evidence.get("notes"))]
    facts = run.evidence.get("facts")
    known = (
        [f"{name}: {value}" for name, value in facts.items()] if isinstance(facts, Mapping) else []
    )
    return "\n".join([run.sentence, *known, *notes])


def _xml(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
