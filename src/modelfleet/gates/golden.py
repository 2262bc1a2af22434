"""A version's answers to its golden inputs, in one environment and in another."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from modelfleet.core.errors import InvalidInput
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.serving.lab import Deadline, Lab, Subject

GATE = "rebuild"
_MODULE = "modelfleet_worker.golden"


class Answer(msgspec.Struct, frozen=True):
    """What `modelfleet_worker.golden` says before the arrays."""

    outputs: dict[str, str] = {}
    rows: int = 0
    python: str = ""
    packages: dict[str, str] = {}
    load_s: float = 0.0
    call_s: float = 0.0
    made_up: bool = False
    error: str = ""


Golden = tuple[Answer, dict[str, np.ndarray]]


def ask(lab: Lab, subject: Subject, deadline: Deadline, *, python: Path | None = None) -> Golden:
    """What the version answers there. Raises `InvalidInput` with the model's complaint.

    python: another interpreter than that of its environment.
    """
    placed = subject if python is None else replace(subject, python=python)
    line, arrays = lab.run(placed, _MODULE, deadline)
    try:
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error:
            raise InvalidInput(f"The model can't answer: {answer.error}")
        with np.load(io.BytesIO(arrays), allow_pickle=False) as file:
            return answer, {name: file[name] for name in file.files}
    except (ValueError, OSError, msgspec.MsgspecError) as error:
        raise InvalidInput(f"The model's answer can't be read: {error}") from error


def judge(fresh: Golden, present: Golden, evidence: dict[str, object]) -> GateRun:
    """Equal means bitwise; else the largest difference is told."""
    one, other = fresh[0], present[0]
    differences = differences_of(fresh[1], present[1])
    packages = {
        name: f"{other.packages.get(name, '-')} -> {one.packages.get(name, '-')}"
        for name in sorted({*one.packages, *other.packages})
        if one.packages.get(name) != other.packages.get(name)
    }
    equal = one.outputs == other.outputs and not differences
    rows = f"{one.rows} {'made-up rows' if one.made_up else 'golden rows'}"
    if equal:
        sentence = f"Rebuilt from its lock, it answers {rows} bitwise as before."
    else:
        told = ", ".join(f"{name} by {how}" for name, how in differences.items())
        sentence = f"Rebuilt from its lock, its answers to {rows} differ: {told}."
    evidence |= {
        "state": "equal" if equal else "different",
        "rows": one.rows,
        "outputs": one.outputs,
        "before": other.outputs,
        "differences": differences,
        "python": one.python,
        "packages": one.packages,
        "changed_packages": packages,
        "load_s": round(one.load_s, 4),
        "call_s": round(one.call_s, 6),
        "call_before_s": round(other.call_s, 6),
    }
    return GateRun(GATE, Verdict.PASS if equal else Verdict.FAIL, sentence, evidence)


def differences_of(
    fresh: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Of each output that is not bitwise the same: the largest difference, or what else it is."""
    found: dict[str, str] = {}
    for name in sorted({*fresh, *present}):
        if name not in fresh or name not in present:
            found[name] = "being there on one side only"
            continue
        a, b = fresh[name], present[name]
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            found[name] = f"{a.dtype} {list(a.shape)} against {b.dtype} {list(b.shape)}"
        elif a.dtype == b.dtype and a.tobytes() == b.tobytes():
            continue
        elif a.dtype.kind in "fiu":
            apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
            unlike = int((np.isnan(a) != np.isnan(b)).sum()) if a.dtype.kind == "f" else 0
            largest = float(np.nanmax(apart)) if np.isfinite(apart).any() else 0.0
            found[name] = f"at most {largest:.3g}" + (f", {unlike} NaN" if unlike else "")
        else:
            found[name] = f"{int((a != b).sum())} of {a.size} values"
    return found
