"""Whether the lock agrees with itself and with what is installed, and holds nothing forbidden."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import msgspec

from modelfleet.fleetfile.gates import Dependencies
from modelfleet.gates.kinds.base import Case, Kind, run
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.serving.environments import pins, uv_binary

_SHOWN = 40


def check(spec: Dependencies, case: Case) -> GateRun:
    from packaging.requirements import Requirement

    lock = packages(case.candidate.lock)
    if not lock:
        sentence = "The version has no lock: it was not prepared."
        return run("dependencies", Verdict.INCONCLUSIVE, sentence)
    problems: list[str] = []
    for text in spec.forbidden:
        wanted = Requirement(text)
        version = lock.get(normal(wanted.name))
        if version and wanted.specifier.contains(version, prereleases=True):
            problems.append(f"{wanted.name} {version} is forbidden ({text})")
    case.say("looking at what is installed")
    problems += _conflicts(case)
    before = packages(case.champion.lock) if case.champion else {}
    rows = [
        {"package": name, "champion": before.get(name, "-"), "candidate": lock.get(name, "-")}
        for name in sorted({*lock, *before})
        if before and lock.get(name) != before.get(name)
    ]
    evidence: dict[str, object] = {
        "facts": {"packages": len(lock), "lock": case.candidate.environment[:16]},
        "rows": rows[:_SHOWN],
        "problems": problems,
        "notes": [f"{len(rows)} packages differ from the champion's."] if before else [],
        "packages": lock,
    }
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        return run("dependencies", Verdict.FAIL, f"{problems[0]}{more}.", evidence)
    sentence = f"The {len(lock)} packages of the lock go together, and none is forbidden."
    return run("dependencies", Verdict.PASS, sentence, evidence)


def packages(lock: str) -> dict[str, str]:
    """Versions by name, of a lock."""
    pairs = (pin.partition(";")[0].strip().partition("==") for pin in pins(lock))
    return {normal(name): version.strip() for name, _, version in pairs if version}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).strip().lower()


class _Installed(msgspec.Struct):
    name: str
    version: str


def _conflicts(case: Case) -> list[str]:
    """What uv says of the environment: unmet requirements, other versions than locked."""
    python = str(case.around.python(case.report))
    found = _uv(["pip", "check", "--python", python], case)
    problems = []
    if found.returncode != 0:
        lines = [line.strip() for line in found.stderr.splitlines() if " requires " in line]
        problems += lines or [found.stderr.strip()[-300:] or "uv pip check failed"]
    listed = _uv(["pip", "list", "--format", "json", "--python", python], case)
    if listed.returncode == 0:
        present = msgspec.json.decode(listed.stdout, type=list[_Installed])
        there = {normal(one.name): one.version for one in present}
        for name, version in packages(case.candidate.lock).items():
            if name in there and there[name].partition("+")[0] != version.partition("+")[0]:
                problems.append(f"{name} {there[name]} is installed, the lock says {version}")
    return problems


def _uv(arguments: list[str], case: Case) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [uv_binary(), *arguments],
        capture_output=True,
        text=True,
        timeout=case.deadline.left,
        cwd=Path("/"),
        check=False,
    )


KIND = Kind(
    "dependencies", Dependencies, check, frozenset({"champion", "lock"}), title="Dependencies"
)
