"""Completing a draft: the model itself says what it takes and answers its example.

That happens in a process with the model's framework: this interpreter if it has it, else an
environment that uv makes (and keeps in its cache).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelfleet.client.errors import ClientError
from modelfleet.client.saving.drafts import Draft
from modelfleet.client.saving.installed import is_here, own_python
from modelfleet.client.saving.objects import Saved
from modelfleet.client.saving.sandboxed import Box

if TYPE_CHECKING:
    from modelfleet_worker.wire.signature import Array

_NEEDS = ("msgspec>=0.18", "numpy>=1.21")
_TIMEOUT_SECONDS = 1800


class Described(msgspec.Struct, frozen=True):
    """What `modelfleet_worker.describe` answers."""

    runtime: str = ""
    error: str = ""
    versions: dict[str, str] = {}


def complete(
    draft: Draft,
    rows: Mapping[str, Array] | None,
    reference: Mapping[str, Array] | None,
    *,
    given: bool,
    sandboxed: bool = True,
    tell: Callable[[str], None],
) -> Saved:
    """The bundle. given: the caller named the requirements, so this interpreter won't do.
    sandboxed: what the model can reach while it is asked is limited (modelfleet_worker.sandbox).

    Raises `ClientError` with the model's own complaint.
    """
    from modelfleet_worker.wire.vocabulary import RUNTIMES

    write_draft(draft, rows, reference)
    framework = RUNTIMES[draft.runtime]
    here = not given and draft.runtime != "mlflow" and draft.python == own_python()
    box = Box(draft, sandboxed)
    if here and is_here(framework.module) and (draft.runtime != "keras" or _backend_is_here()):
        answer = _run([sys.executable, *box.arguments()], draft.folder, box)
    else:
        tell(f"making an environment for {framework.title} to read the model")
        answer = _in_its_environment(draft, box)
    if answer.error:
        raise ClientError(f"The model can't be registered: {answer.error}")
    files: dict[str, bytes | Path] = {
        path.relative_to(draft.folder / "files").as_posix(): path
        for path in sorted((draft.folder / "files").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    requirements = final_requirements(draft, answer)
    return Saved(files | box.made(), requirements, draft.python, box.report)


def write_draft(
    draft: Draft, rows: Mapping[str, Array] | None, reference: Mapping[str, Array] | None
) -> None:
    """What `modelfleet_worker.describe` reads."""
    import numpy as np

    said = {
        "runtime": draft.runtime,
        "artifact": draft.artifact,
        "options": draft.options,
        "features": draft.features,
        "refuse_missing": draft.refuse_missing,
    }
    (draft.folder / "draft.json").write_bytes(msgspec.json.encode(said))
    for name, given in (("inputs.npz", rows), ("reference.npz", reference)):
        if given is not None:
            plain: dict[str, Any] = {key: _plain(array) for key, array in given.items()}
            np.savez(draft.folder / name, **plain)


def _plain(array: Array) -> Array:
    """Text without pickles."""
    return array.astype(str) if array.dtype.kind == "O" else array


def _in_its_environment(draft: Draft, box: Box) -> Described:
    """Without what may be superfluous, if it turns out to be."""
    lean = [one for one in draft.requirements if one not in draft.droppable]
    answer = _run([*_uv_run(draft, lean), *box.arguments()], draft.folder, box)
    if answer.error and draft.droppable:
        again = _uv_run(draft, draft.requirements)
        return _run([*again, *box.arguments()], draft.folder, box)
    draft.requirements = tuple(lean)
    return answer


def _uv_run(draft: Draft, requirements: Sequence[str]) -> list[str]:
    wanted = [*requirements, *_NEEDS, *(["pyyaml"] if draft.runtime == "mlflow" else [])]
    file = draft.folder / "requirements.in"
    file.write_text("\n".join(wanted))
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise ClientError("uv is needed to read this model: pip install 'modelfleet[standard]'.")
    python = sys.executable
    if draft.python != own_python():
        python = draft.python
        find = [uv, "python", "find", "--quiet", "--no-project", "--system", python]
        if subprocess.run(find, capture_output=True, check=False).returncode != 0:
            raise ClientError(
                f"Python {python}, which this model asks for, is not installed on this "
                f"machine. Install it (uv python install {python}), or try another: "
                f"python={own_python()!r}, --python {own_python()}."
            )
    return [
        *(uv, "run", "--no-project", "--isolated", "--python", python),
        *("--with-requirements", str(file), "--"),
        "python",
    ]


def _run(command: list[str], folder: Path, box: Box) -> Described:
    import modelfleet_worker

    package = str(Path(modelfleet_worker.__file__).parent.parent)
    worker = folder / "worker"
    if not worker.exists():  # a folder with nothing else in it: ours must not shadow the model's
        worker.mkdir()
        (worker / "modelfleet_worker").symlink_to(Path(package) / "modelfleet_worker")
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "VIRTUAL_ENV")}
    env |= {"PYTHONPATH": str(worker), "OMP_NUM_THREADS": "1"}
    code, output, errors = _output(command, folder, env)
    line = box.read(output).strip().rpartition("\n")[2]
    if line.startswith("{"):
        return msgspec.json.decode(line, type=Described)
    lines = [one.strip() for one in errors.splitlines() if one.strip()]
    said = " ".join(lines[-8:])[-800:]
    raise ClientError(f"The model can't be read (exit code {code}): {said}")


def _output(command: list[str], folder: Path, env: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code, output and errors. Whatever ends the waiting ends all that was started."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=env,
        cwd=folder,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=_TIMEOUT_SECONDS)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise ClientError(f"Reading the model took over {_TIMEOUT_SECONDS} s.") from error
        raise
    return process.returncode, output, errors


def final_requirements(draft: Draft, answer: Described) -> tuple[str, ...]:
    """The requirements, at the versions that read the model; without MLflow if it isn't used."""
    kept = [
        one
        for one in draft.requirements
        if not (draft.runtime == "mlflow" != answer.runtime and one.startswith("mlflow-skinny"))
    ]
    if draft.runtime == "mlflow" and answer.runtime == "onnx":
        kept.append("onnxruntime")
    return tuple(sorted({_pin(one, answer.versions) for one in kept}))


def _pin(requirement: str, versions: Mapping[str, str]) -> str:
    if re.search(r"[<>=~!@;\[]", requirement):
        return requirement
    found = versions.get(re.sub(r"[-_.]+", "-", requirement).lower())
    return f"{requirement}=={found.partition('+')[0]}" if found else requirement


def _backend_is_here() -> bool:
    return any(is_here(name) for name in ("tensorflow", "torch", "jax"))
