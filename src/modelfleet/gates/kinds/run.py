"""The team's own check: a program that exits with 0 and may write `evidence.json`.

It runs confined, in the version's environment if it is Python, with what it needs in variables:
MODELFLEET_BUNDLE (folder of the model's files), MODELFLEET_MODEL, MODELFLEET_VERSION,
MODELFLEET_CHAMPION and MODELFLEET_CHAMPION_BUNDLE, MODELFLEET_DATA (file), MODELFLEET_MODEL_URL (of
a worker that serves the version), MODELFLEET_EVIDENCE (where to write), MODELFLEET_URL (platform).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from modelfleet.core import supervise
from modelfleet.core.errors import InvalidInput, Unavailable
from modelfleet.core.supervise import ENDED, NOT_STARTED, TIMED_OUT
from modelfleet.fleetfile.gate_lists import file_of
from modelfleet.fleetfile.gates import Run
from modelfleet.gates.kinds.base import Case, Kind, run
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.serving.beside import environment
from modelfleet.serving.lab import tail
from modelfleet.serving.trial import Trial

MOST_BYTES = 1 << 20
"""of evidence.json"""
_MOST_DEPTH = 20
_SENTENCE = 500
_Sentence = Annotated[str, msgspec.Meta(max_length=2000)]
_GRACE = 2.0
_GO_THERE = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
"""The program begins in a folder that it may write to, wherever its confinement left us."""


class Evidence(msgspec.Struct):
    """What a program may say; all of it optional."""

    verdict: Literal["pass", "warn", "fail", "inconclusive"] | None = None
    sentence: _Sentence = ""
    evidence: dict[str, object] = {}


def check(spec: Run, case: Case) -> GateRun:
    name = Path(file_of(spec.uses)).name
    program = case.folder / name
    shutil.copyfile(case.around.file(spec.uses), program)
    program.chmod(0o755)
    case.folder.chmod(0o755)
    place = case.folder / "work"
    place.mkdir(exist_ok=True)
    if case.lab.owner is not None:
        os.chown(place, *case.lab.owner)
    variables = _variables(spec, case, place)
    command = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(place), str(program)]
    if name.endswith(".py"):
        python = str(case.around.python(case.report))
        command = [python, "-c", _GO_THERE, str(place), python, str(program)]
    case.say(f"running {name}")
    if not spec.serve:
        code, said = _run(command, spec, case, place, variables)
    else:
        with Trial(case.lab, case.candidate, case.deadline, tcp=True) as worker:
            variables |= {"MODELFLEET_MODEL_URL": worker.url}
            code, said = _run(command, spec, case, place, variables)
    return judge(name, code, said, place / "evidence.json", spec.timeout)


def _variables(spec: Run, case: Case, place: Path) -> dict[str, str]:
    found = dict(spec.environment) | environment(case.lab.worker_package)
    found |= case.around.variables()
    found |= {
        "MODELFLEET_BUNDLE": str(case.candidate.folder / "files"),
        "MODELFLEET_MODEL": case.candidate.model,
        "MODELFLEET_VERSION": case.candidate.version,
        "MODELFLEET_EVIDENCE": str(place / "evidence.json"),
    }
    if case.champion is not None:
        found["MODELFLEET_CHAMPION"] = case.champion.version
        found["MODELFLEET_CHAMPION_BUNDLE"] = str(case.champion.folder / "files")
    if spec.dataset is not None:
        data = case.around.dataset(spec.dataset)
        copy = case.folder / f"data.{data.format}"
        shutil.copyfile(data.path, copy)
        copy.chmod(0o644)
        found["MODELFLEET_DATA"] = str(copy)
    return found


def _run(
    command: list[str], spec: Run, case: Case, place: Path, variables: dict[str, str]
) -> tuple[int, str]:
    limit = min(spec.timeout, case.deadline.left)
    supervised = supervise.command(case.lab.confined([*command, *spec.args]), limit)
    with (case.folder / "output").open("w+b") as output:
        process = subprocess.Popen(
            supervised,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=place,
            start_new_session=True,
        )
        try:
            code = process.wait(limit + 10 * _GRACE)
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if code == ENDED:
            raise Unavailable("The program was ended from outside: it said nothing of the model.")
        return code, tail(output)


def judge(name: str, code: int, said: str, file: Path, timeout: float) -> GateRun:
    facts: dict[str, object] = {"program": name, "exit code": code}
    notes = [f"It said: {said}"]
    if code == TIMED_OUT:
        sentence = f"{name} took longer than {timeout:g} s and was ended, with all that it started."
        return run("run", Verdict.FAIL, sentence, {"facts": facts, "notes": notes})
    if code == NOT_STARTED:
        sentence = f"{name} can't be started: {said[:_SENTENCE]}"
        return run("run", Verdict.FAIL, sentence, {"facts": facts, "notes": notes})
    try:
        told = read_evidence(file)
    except InvalidInput as error:
        sentence = f"{name} ended with {code}, but its evidence is broken: {error.message}"
        return run("run", Verdict.FAIL, sentence, {"facts": facts, "notes": notes})
    evidence = {**told.evidence, "facts": facts | _facts(told), "notes": notes}
    if code != 0 and told.verdict in ("pass", "warn"):
        sentence = f"{name} says {told.verdict}, but ended with {code}."
        return run("run", Verdict.FAIL, sentence, evidence)
    verdict = Verdict(told.verdict) if told.verdict else Verdict.PASS if code == 0 else Verdict.FAIL
    sentence = told.sentence or (
        f"{name} ended with {code}."
        if code == 0
        else f"{name} ended with {code}: {said[-_SENTENCE:]}"
    )
    return run("run", verdict, sentence, evidence)


def _facts(told: Evidence) -> dict[str, object]:
    given = told.evidence.get("facts")
    return dict(given) if isinstance(given, dict) else {}


def read_evidence(file: Path) -> Evidence:
    """Raises `InvalidInput` for what can't be evidence; nothing there is no evidence."""
    if file.is_symlink():
        raise InvalidInput("evidence.json is a link.")
    if not file.exists():
        return Evidence()
    if not file.is_file():
        raise InvalidInput("evidence.json is no file.")
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise InvalidInput(f"evidence.json has {size} bytes; at most {MOST_BYTES} are read.")
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Evidence)
        if _depth(found.evidence) > _MOST_DEPTH:
            raise InvalidInput(f"evidence.json is nested more than {_MOST_DEPTH} deep.")
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"evidence.json: {error}") from error
    except (RecursionError, UnicodeDecodeError, OSError) as error:
        raise InvalidInput(f"evidence.json can't be read: {error}") from error
    return found


def _depth(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(one) for one in inside), default=0)


KIND = Kind("run", Run, check, frozenset({"file", "dataset", "champion"}), title="Own check")
