"""A folder in MLflow's format: its recorded environment, in our terms. MLflow is not needed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from modelfleet.client.errors import ClientError
from modelfleet.client.saving.drafts import Code, Draft
from modelfleet.client.saving.installed import own_python

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*(.*)")
_PYTHON = re.compile(r"^python:\s*['\"]?(\d+\.\d+)", re.MULTILINE)
DROPPABLE = ("pytest", "psutil")
"""what MLflow records because the training environment had it"""


def draft(path: Path, _: Code, folder: Path) -> Draft:
    if not (path / "MLmodel").exists():
        raise ClientError(f"{path.name} holds no MLmodel.")
    needed, droppable = requirements(path)
    shutil.copytree(path, folder / "files" / "model", ignore=shutil.ignore_patterns("__pycache__"))
    return Draft(folder, "mlflow", "model", needed, {}, _python(path), droppable)


def requirements(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the recorded environment needs, and which of that may turn out superfluous.

    MLflow records its whole self (900 MB); its skinny distribution loads models just as well.
    """
    file = path / "requirements.txt"
    if not file.exists():
        raise ClientError(
            f"{path.name} has no requirements.txt: save the model again with MLflow 1.18 or newer, "
            "or name its requirements."
        )
    found: dict[str, str] = {}
    for line in file.read_text("utf-8").splitlines():
        text = line.split(" #")[0].strip()
        if not text or text.startswith("#"):
            continue
        match = _NAME.fullmatch(text)
        if match is None or "://" in text or text.startswith("-"):
            raise ClientError(f"requirements.txt of {path.name} has {text!r}, which is not locked.")
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        found[name] = re.sub(r"(==[^+,;\s]+)\+[\w.]+", r"\1", text)  # builds of no index: 2.1+cpu
        if name == "mlflow":
            del found[name]
            found["mlflow-skinny"] = f"mlflow-skinny{match[3]}"
    found.setdefault("mlflow-skinny", "mlflow-skinny")
    found.setdefault("pandas", "pandas")  # came with MLflow itself
    found.setdefault("numpy", "numpy")
    droppable = tuple(found[name] for name in DROPPABLE if name in found)
    return tuple(sorted(found.values())), droppable


def _python(path: Path) -> str:
    file = path / "python_env.yaml"
    match = _PYTHON.search(file.read_text("utf-8")) if file.exists() else None
    return match[1] if match else own_python()
