"""The team's own program: what it is told, what it may answer, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gate_support import FakeAround, FakeLab, case, subject

from modelfleet.fleetfile.gates import Run
from modelfleet.gates.kinds import run
from modelfleet.gates.store import GateRun, Verdict


def ran(tmp_path: Path, text: str, name: str = "check.py", **told: Any) -> GateRun:
    program = tmp_path / f"given-{name}"
    program.write_text(text)
    data = tmp_path / "data.csv"
    data.write_text("a\n1\n")
    folder = tmp_path / "run"
    folder.mkdir()
    around = FakeAround(files={name: program})
    one = case(
        FakeLab({}),
        around,
        folder,
        python=Path(sys.executable),
        champion=subject("1.0.0"),
    )
    return run.check(Run(uses=name, **{"timeout": 20, **told}), one)


def test_it_learns_what_it_needs_and_is_heard(tmp_path: Path) -> None:
    text = """
import json, os, sys
names = ("MODEL", "VERSION", "CHAMPION", "BUNDLE", "URL", "EVIDENCE")
told = {name: os.environ["MODELFLEET_" + name] for name in names}
assert os.environ["MINE"] == "1" and sys.argv[1:] == ["--strict"]
told = {"sentence": "All fine.", "verdict": "warn", "evidence": {"facts": told, "more": [1]}}
json.dump(told, open(os.environ["MODELFLEET_EVIDENCE"], "w"))
"""
    found = ran(tmp_path, text, args=["--strict"], environment={"MINE": "1"})
    assert (found.verdict, found.sentence) == (Verdict.WARN, "All fine.")
    facts: Any = found.evidence["facts"]
    assert (facts["MODEL"], facts["VERSION"], facts["CHAMPION"]) == ("churn", "1.1.0", "1.0.0")
    assert facts["exit code"] == 0
    assert found.evidence["more"] == [1]


def test_an_exit_code_is_enough(tmp_path: Path) -> None:
    found = ran(tmp_path, "#!/bin/sh\nexit 0\n", "check.sh")
    assert (found.verdict, found.sentence) == (Verdict.PASS, "check.sh ended with 0.")


def test_an_exit_code_is_told_with_its_last_words(tmp_path: Path) -> None:
    found = ran(tmp_path, "#!/bin/sh\necho the margin is negative >&2\nexit 3\n", "check.sh")
    assert found.verdict is Verdict.FAIL
    assert found.sentence == "check.sh ended with 3: the margin is negative"


def test_what_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """A child in the same group, one in a session of its own, and one that lost its parent."""
    text = f"""
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(300)", {str(tmp_path)!r}]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sleep[0], sleep)
    os._exit(0)
time.sleep(300)
"""
    begun = time.monotonic()
    found = ran(tmp_path, text, timeout=2.0)
    assert time.monotonic() - begun < 15
    assert found.verdict is Verdict.FAIL
    assert "took longer than 2 s and was ended, with all that it started" in found.sentence
    assert still_there(tmp_path) == []


def still_there(folder: Path) -> list[str]:
    found = []
    for one in Path("/proc").iterdir():
        if one.name.isdigit() and int(one.name) != os.getpid():
            try:
                line = (one / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(folder) in line and "time.sleep" in line:
                found.append(line)
    return found


def test_what_ends_well_leaves_nothing_either(tmp_path: Path) -> None:
    text = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", {str(tmp_path)!r}],
                 start_new_session=True)
"""
    assert ran(tmp_path, text).verdict is Verdict.PASS
    assert still_there(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "evidence.json"),
        ("[1]", "Expected `object`, got `array`"),
        (json.dumps({"verdict": "perfect"}), "Invalid enum value 'perfect'"),
        (json.dumps({"evidence": 3}), "Expected `object`, got `int`"),
        (json.dumps({"sentence": "x" * 3000}), "length <= 2000"),
        (json.dumps({"evidence": {"x": "y" * (1 << 20)}}), "at most 1048576 are read"),
        ('{"evidence": {"a": ' + "[" * 40 + "]" * 40 + "}}", "nested more than 20 deep"),
        ('{"evidence": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}", "evidence.json"),
        ('{"evidence": {"a": NaN}}', "evidence.json"),
    ],
)
def test_broken_evidence_fails_with_a_clear_sentence(
    tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "evidence.json"
    file.write_text(content)
    found = run.judge("check.py", 0, "", file, 20)
    assert found.verdict is Verdict.FAIL
    assert found.sentence.startswith("check.py ended with 0, but its evidence is broken: ")
    assert said in found.sentence


def test_evidence_is_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "evidence.json").symlink_to("/etc/passwd")
    found = run.judge("check.py", 0, "", tmp_path / "evidence.json", 20)
    assert (found.verdict, "is a link" in found.sentence) == (Verdict.FAIL, True)
    os.mkfifo(tmp_path / "pipe")
    found = run.judge("check.py", 0, "", tmp_path / "pipe", 20)
    assert (found.verdict, "is no file" in found.sentence) == (Verdict.FAIL, True)


def test_a_failing_program_can_not_say_pass(tmp_path: Path) -> None:
    file = tmp_path / "evidence.json"
    file.write_text('{"verdict": "pass"}')
    found = run.judge("check.py", 1, "", file, 20)
    assert (found.verdict, found.sentence) == (
        Verdict.FAIL,
        "check.py says pass, but ended with 1.",
    )


def test_what_can_not_be_started_is_said(tmp_path: Path) -> None:
    found = ran(tmp_path, "#!/no/such/interpreter\n", "check.sh")
    assert found.verdict is Verdict.FAIL
    assert "can't be started" in found.sentence
