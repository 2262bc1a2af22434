"""What the models and pipelines that use this one would answer, on recorded inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelfleet.fleetfile.gates import Dependents
from modelfleet.gates.kinds.base import (
    Case,
    Kind,
    Replayed,
    bound,
    nothing_beside,
    plain,
    run,
)
from modelfleet.gates.statistics import quantile, wilson
from modelfleet.gates.store import GateRun, Verdict

_SHOWN = 10


def check(spec: Dependents, case: Case) -> GateRun:
    if case.champion is None:
        return nothing_beside("dependents", case)
    case.say("replaying recorded inputs")
    found = list(case.around.replay(spec.rows))
    if not found:
        return run("dependents", Verdict.PASS, "Nothing that is known here uses the model.")
    rows: list[dict[str, object]] = []
    bounds, verdicts, notes = [], [], []
    for one in found:
        name = f"{one.kind} {one.name}"
        if one.problem:
            verdicts.append(("inconclusive", f"{name}: {one.problem}"))
            notes.append(f"{name}: {one.problem}.")
            continue
        changed = changed_rows(one, spec.tolerance)
        count = int(changed.sum())
        low, high = wilson(count, one.rows, quantile(0.95, one.rows))
        limit = spec.max_changed
        said = "fail" if low > limit else "pass" if high <= limit else "inconclusive"
        bounds.append(bound(name, count / one.rows, low, high, one.rows, said))
        verdicts.append((said, f"{name} answers {count} of {one.rows} recorded rows otherwise"))
        rows += [
            {"dependent": name, "row": int(row)}
            | {f"{k} before": plain(v[row]) for k, v in one.before.items()}
            | {f"{k} after": plain(v[row]) for k, v in one.after.items()}
            for row in np.flatnonzero(changed)[:_SHOWN]
        ]
    evidence: dict[str, object] = {
        "facts": {"dependents": len(found), "champion": case.champion.name},
        "panels": [
            {
                "title": "share of recorded rows that are answered otherwise",
                "limit": spec.max_changed,
                "better": "less",
                "bounds": bounds,
            }
        ],
        "rows": rows,
        "notes": notes,
    }
    for said in ("fail", "inconclusive", "pass"):
        texts = [text for verdict, text in verdicts if verdict == said]
        if texts:
            more = f" ({len(texts)} of {len(found)})" if len(texts) > 1 else ""
            return run("dependents", Verdict(said), f"{texts[0][:400]}{more}.", evidence)
    raise AssertionError("each dependent has a verdict")


def changed_rows(one: Replayed, tolerance: float) -> NDArray[np.bool_]:
    """Rows in which an output differs; a number by more than a share of itself."""
    changed = np.zeros(one.rows, dtype=bool)
    for name, before in one.before.items():
        after = one.after[name]
        if before.dtype.kind == "f" and after.dtype.kind == "f":
            a, b = (x.reshape(one.rows, -1).astype(np.float64) for x in (before, after))
            # Near zero a share of the number says nothing: then of how numbers usually differ.
            size = np.maximum(np.maximum(np.abs(a), np.abs(b)), np.nan_to_num(np.nanstd(a, axis=0)))
            apart = np.abs(a - b) > tolerance * size
            unlike = apart | (np.isnan(a) != np.isnan(b))
        else:
            unlike = (before != after).reshape(one.rows, -1)
        changed |= unlike.any(axis=1)
    return changed


KIND = Kind(
    "dependents",
    Dependents,
    check,
    frozenset({"champion", "consumers", "recorded"}),
    title="Dependents",
)
