"""What a client logged in MLflow's format, completed into a bundle that serves.

The model is asked in an environment of its own, confined, what it takes; it answers its example
with the code that will serve it (`modelfleet_worker.describe`). The bundle that was registered is
not touched: the completed one is another bundle, which the version's `source` variant names.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modelfleet.client.errors import ClientError
from modelfleet.client.saving import mlflow, probe
from modelfleet.client.saving.drafts import Code, Draft
from modelfleet.client.saving.sandboxed import Box
from modelfleet.core.errors import InvalidInput
from modelfleet.core.layout import Layout
from modelfleet.registry import BundleStore, Entry, Version
from modelfleet.serving.beside import environment as process_environment
from modelfleet.serving.environments import EnvironmentBuilder
from modelfleet.serving.progress import Progress, Report

_SECONDS = 900
"""for a model to say what it takes"""


@dataclass(frozen=True)
class Completed:
    entries: tuple[Entry, ...]
    requirements: tuple[str, ...]
    python: str


class Completer:
    def __init__(
        self,
        layout: Layout,
        bundles: BundleStore,
        environments: EnvironmentBuilder,
        confined: Callable[[Sequence[str]], Sequence[str]],
        sandboxed: bool,
    ) -> None:
        """confined, sandboxed: what a model can reach while it is asked."""
        self._layout = layout
        self._bundles = bundles
        self._environments = environments
        self._confined = confined
        self._sandboxed = sandboxed

    def complete(self, version: Version, entries: Sequence[Entry], report: Report) -> Completed:
        """Raises `InvalidInput` with the model's own complaint."""
        if not any(entry.path == "MLmodel" for entry in entries):
            raise InvalidInput(
                "The version holds no MLmodel: log the model with MLflow's log_model, or register "
                "it with `modelfleet register`."
            )
        raw = self._bundles.materialise(entries) / "files"
        folder = Path(tempfile.mkdtemp(prefix="modelfleet-complete-"))
        try:
            try:
                draft = mlflow.draft(raw, Code(), folder)
                probe.write_draft(draft, None, None)
                box = Box(draft, self._sandboxed)
                answer = self._ask(draft, box, report)
            except ClientError as error:
                raise InvalidInput(str(error)) from error
            if answer.error:
                raise InvalidInput(f"The model can't be served: {answer.error}")
            for name, content in box.made().items():
                (folder / "files" / name).write_bytes(content)
            made = self._bundles.take(folder)
            return Completed(made, probe.final_requirements(draft, answer), draft.python)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _ask(self, draft: Draft, box: Box, report: Report) -> probe.Described:
        """Without what may be superfluous, if it turns out to be."""
        lean = tuple(one for one in draft.requirements if one not in draft.droppable)
        answer = self._describe(draft, box, lean, report)
        if answer.error and draft.droppable:
            return self._describe(draft, box, draft.requirements, report)
        draft.requirements = lean
        return answer

    def _describe(
        self, draft: Draft, box: Box, requirements: Sequence[str], report: Report
    ) -> probe.Described:
        resolved = self._environments.resolve([*requirements, "pyyaml"], draft.python, report)
        python = self._environments.python(resolved, report)
        report(Progress("checking"))
        open_to_all(draft.folder)
        command = [str(python), *box.arguments()]
        try:
            done = subprocess.run(
                self._confined(command),
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                env=process_environment(self._layout.worker_package),
                cwd="/",
            )
        except subprocess.TimeoutExpired as error:
            raise InvalidInput(f"Reading the model took over {_SECONDS} s.") from error
        line = box.read(done.stdout).strip().rpartition("\n")[2]
        if line.startswith("{"):
            return msgspec.json.decode(line, type=probe.Described)
        said = " ".join(one.strip() for one in done.stderr.splitlines() if one.strip())[-800:]
        raise InvalidInput(f"The model can't be read (exit code {done.returncode}): {said}")


def open_to_all(folder: Path) -> None:
    """Whoever asks the model may be nobody: it reads all and writes where it is to write."""
    for path in (folder, *folder.rglob("*")):
        inside = path.relative_to(folder).parts[:1]
        writable = inside in (("made",), ("tmp",))
        if path.is_dir():
            path.chmod(0o777 if writable else 0o755)
        else:
            path.chmod(0o666 if writable else 0o644)
