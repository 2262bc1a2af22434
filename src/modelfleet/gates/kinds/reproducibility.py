"""Rebuilt from its lock, it gives the same answers."""

from __future__ import annotations

import numpy as np

from modelfleet.fleetfile.gates import Reproducibility
from modelfleet.gates.golden import ask, judge
from modelfleet.gates.kinds.base import Case, Kind, run
from modelfleet.gates.store import GateRun, Verdict


def check(spec: Reproducibility, case: Case) -> GateRun:
    source, fresh = case.around.rebuilt(case.report)
    case.say("running the golden inputs")
    new = ask(case.lab, source, case.deadline, python=fresh)
    present = ask(case.lab, source, case.deadline)
    found = judge(new, present, {"lock": source.environment, "bundle": source.digest})
    largest, numeric = _largest(new[1], present[1])
    verdict = found.verdict
    sentence = found.sentence
    if verdict is Verdict.FAIL and numeric and largest <= spec.tolerance:
        verdict = Verdict.PASS
        sentence = f"Rebuilt from its lock, its answers differ by at most {largest:.3g}."
    evidence = {
        **found.evidence,
        "facts": {"rows": found.evidence["rows"], "largest difference": largest},
        "bars": [
            {
                "label": "largest difference",
                "value": largest,
                "limit": spec.tolerance,
                "verdict": verdict.value,
            }
        ],
        "rows_changed": found.evidence["differences"],
    }
    evidence.pop("rows", None)
    return run("reproducibility", verdict, sentence, evidence)


def _largest(new: dict[str, np.ndarray], old: dict[str, np.ndarray]) -> tuple[float, bool]:
    """The largest difference of a number; False if something else differs."""
    largest = 0.0
    for name in {*new, *old}:
        a, b = new.get(name), old.get(name)
        if a is None or b is None or a.shape != b.shape:
            return largest, False
        if a.dtype.kind == b.dtype.kind == "f":
            if (np.isnan(a) != np.isnan(b)).any():
                return largest, False
            apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
            largest = max(largest, float(np.nanmax(apart, initial=0.0)))
        elif (a != b).any():
            return largest, False
    return largest, True


KIND = Kind("reproducibility", Reproducibility, check, frozenset({"lock"}), title="Reproducibility")
