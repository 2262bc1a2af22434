"""One training run, step by step: environment, the team's program, registration.

Every step can be done again: the folders are made anew, and a version that carries the run's tag
is not registered a second time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from modelfleet.core import supervise
from modelfleet.core.blobs import BlobStore
from modelfleet.core.errors import InvalidInput
from modelfleet.core.layout import Layout
from modelfleet.delivery.training.store import Training
from modelfleet.serving.environments import EnvironmentBuilder, own_python
from modelfleet.serving.progress import Report

log = structlog.get_logger(__name__)
LARGEST_LOG = 16 * 2**20
"""bytes of what a run says that are kept"""
_REGISTER_SECONDS = 1800.0
_TAIL = 2000
_GO_THERE = "import os, sys; os.chdir(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
_ASIDE = ("example", "reference", "features", "metrics", "parameters")
"""what else may lie in the output folder, by the stem of its name"""


@dataclass(frozen=True)
class Access:
    """How a program reaches the platform, as the run's own service principal."""

    url: str
    key: str


class Interrupted(Exception):
    """The program was ended from outside, as the platform is when it is stopped."""


class Workshop:
    def __init__(
        self,
        layout: Layout,
        blobs: BlobStore,
        environments: EnvironmentBuilder,
        confined: Callable[[Sequence[str]], Sequence[str]],
        fetch: Callable[[str, str, Path], Path],
        access: Callable[[str, float], Access],
    ) -> None:
        """fetch: for a team, a data set (`NAME@VERSION`) into a folder. access: for a team, for so
        many seconds."""
        self._layout = layout
        self._blobs = blobs
        self._environments = environments
        self._confined = confined
        self._fetch = fetch
        self._access = access

    def log_of(self, run: str) -> Path:
        return self._layout.logs / "training" / f"{run}.log"

    def folder_of(self, run: str) -> Path:
        """Where it works; out of the home, which the program can't see."""
        return Path(tempfile.gettempdir()) / f"modelfleet-training-{run}"

    def train(
        self,
        run: Training,
        python: Path,
        started: Callable[[subprocess.Popen[bytes]], None],
    ) -> None:
        """Run the program. `started` gets its process. Raises `InvalidInput` with what it said."""
        folder = self.folder_of(run.id)
        shutil.rmtree(folder, ignore_errors=True)
        inputs = self._lay_out(run, folder)
        plan, access = run.plan, self._access(run.owner_team, run.plan.timeout_seconds + 600)
        argv = list(plan.command) or [
            "python",
            "-m",
            "modelfleet_worker.training",
            plan.entry,
        ]
        if argv[0] in ("python", "python3"):
            argv[0] = str(python)
        environment = {
            "PATH": f"{python.parent}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": f"{self._layout.worker_package}",
            "PYTHONUNBUFFERED": "1",
            "HOME": str(folder / "work"),
            "MODELFLEET_URL": access.url,
            "MODELFLEET_KEY": access.key,
            "MODELFLEET_MODEL": plan.model,
            "MODELFLEET_TRAINING": run.id,
            "MODELFLEET_CAUSE": f"{run.cause.kind}: {run.cause.detail}",
            "MODELFLEET_OUTPUT": str(folder / "output"),
            "MODELFLEET_INPUTS": json.dumps({name: str(path) for name, path in inputs.items()}),
        }
        environment |= {f"MODELFLEET_INPUT_{n.upper()}": str(p) for n, p in inputs.items()}
        settled = [str(python), "-c", _GO_THERE, str(folder / "work"), *argv]
        code = self._run(run, self._confined(settled), environment, started, plan.timeout_seconds)
        if code == supervise.TIMED_OUT:
            raise InvalidInput(f"It took over {plan.timeout_seconds:g} s and was ended.")
        if code != 0:
            raise InvalidInput(f"It ended with exit code {code}: {self.tail(run.id, 400)}")

    def python(self, run: Training, report: Report) -> Path:
        """The interpreter of its environment. Raises `InvalidInput` if there can't be one."""
        resolved = self._environments.resolve(
            list(run.plan.requirements), run.plan.python or own_python(), report
        )
        return self._environments.python(resolved, report)

    def register(self, run: Training, started: Callable[[subprocess.Popen[bytes]], None]) -> None:
        """Register what lies in the output folder, the way people do it. Raises `InvalidInput`."""
        output = self.folder_of(run.id) / "output"
        _refuse_links(output)
        found = sorted(output.iterdir()) if output.is_dir() else []
        models = [one for one in found if one.name.partition(".")[0] not in _ASIDE]
        if len(models) != 1:
            what = ", ".join(one.name for one in models) or "nothing"
            raise InvalidInput(
                f"There should be one model in $MODELFLEET_OUTPUT, there is {what}.",
                hint="Or register it yourself with the client: MODELFLEET_URL and MODELFLEET_KEY "
                "are set.",
            )
        argv = [sys.executable, "-c", "from modelfleet.cli.main import main; main()"]
        argv += ["versions", "register", str(models[0]), "--name", run.plan.model, "--json"]
        for stem in ("example", "reference"):
            for beside in (one for one in found if one.name.partition(".")[0] == stem):
                argv += [f"--{stem}", str(beside)]
        for option in ("metrics", "parameters"):
            for key, value in _pairs(output / f"{option}.json").items():
                argv += [f"--{option.removesuffix('s')}", f"{key}={value}"]
        for one in _names(output / "features.json"):
            argv += ["--feature", one]
        for one in run.plan.requirements:
            argv += ["--requirement", one]
        if run.plan.python:
            argv += ["--python", run.plan.python]
        argv += ["--tag", f"modelfleet.training={run.id}"]
        access = self._access(run.owner_team, _REGISTER_SECONDS + 60)
        # Settings of the platform are none of the client's: they may hold secrets.
        environment = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith("MODELFLEET_") or k == "MODELFLEET_CA"
        }
        environment |= {"MODELFLEET_URL": access.url, "MODELFLEET_KEY": access.key}
        code = self._run(run, argv, environment, started, _REGISTER_SECONDS)
        if code != 0:
            raise InvalidInput(f"It could not be registered: {self.tail(run.id, 400)}")

    def tail(self, run: str, size: int = _TAIL) -> str:
        """The end of what it said."""
        try:
            with self.log_of(run).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read().decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""

    def tidy(self, run: str) -> None:
        shutil.rmtree(self.folder_of(run), ignore_errors=True)

    def _lay_out(self, run: Training, folder: Path) -> dict[str, Path]:
        """The working folder with its files, and where each input lies."""
        work, data, output = folder / "work", folder / "inputs", folder / "output"
        for one in (folder, work, data, output):
            one.mkdir(mode=0o700)
            one.chmod(0o777 if one in (work, output) else 0o755)
        for name, sha256 in run.plan.files.items():
            place = (work / name).resolve()
            if not place.is_relative_to(work.resolve()):
                raise InvalidInput(f"{name[:200]} lies outside of the working folder.")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._blobs.path(sha256), place)
            place.chmod(0o755)
        found = {}
        for name, reference in run.plan.inputs.items():
            if reference in run.plan.files:
                found[name] = work / reference
            else:
                found[name] = self._fetch(run.owner_team, reference, data)
        for path in data.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return found

    def _run(
        self,
        run: Training,
        argv: Sequence[str],
        environment: Mapping[str, str],
        started: Callable[[subprocess.Popen[bytes]], None],
        seconds: float,
    ) -> int:
        place = self.log_of(run.id)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and place.stat().st_size > LARGEST_LOG:
            place.unlink()
        with place.open("ab") as output:
            process = subprocess.Popen(
                supervise.command(argv, seconds),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                cwd="/",
            )
            started(process)
            code = process.wait()
        if code in (supervise.ENDED, -signal.SIGTERM, -signal.SIGKILL):
            raise Interrupted(run.id)
        return code


def _refuse_links(output: Path) -> None:
    """What it made is read with the platform's rights: a link could name any of its files."""
    for one in (output, *output.rglob("*")):
        if one.is_symlink() or (one.exists() and not one.is_file() and not one.is_dir()):
            raise InvalidInput(f"{one.name[:200]} in $MODELFLEET_OUTPUT is a link or no file.")


def _pairs(path: Path) -> dict[str, object]:
    found = _read(path, {})
    if not isinstance(found, dict):
        raise InvalidInput(f"{path.name} holds no names and values.")
    return found


def _names(path: Path) -> list[str]:
    found = _read(path, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidInput(f"{path.name} is no list of names.")
    return found


def _read(path: Path, nothing: object) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return nothing
    except ValueError as error:
        raise InvalidInput(f"{path.name} is no JSON: {error}.") from error
