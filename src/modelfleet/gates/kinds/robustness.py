"""Small changes of the input change little, and strange input is answered or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelfleet.core.errors import InvalidInput
from modelfleet.fleetfile.gates import Robustness
from modelfleet.gates.kinds.base import Case, Kind, Unknown, bound, plain, run
from modelfleet.gates.statistics import quantile, wilson
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.serving.lab import Answers, Table

_MOVED = 0.1
"""of the spread of an output: a number that moved by more has changed"""
_SHOWN = 10


def check(spec: Robustness, case: Case) -> GateRun:
    table, source = _rows(spec, case)
    rows = len(next(iter(table.values())))
    trials: dict[str, Table] = {"as it was": table, "noise": _noisy(table, spec.noise)}
    if spec.missing:
        trials |= {"missing": _missing(table), "zeros": _filled(table, 0.0)}
        trials |= {"very large": _filled(table, 1e12), "very small": _filled(table, -1e12)}
    case.say("asking strange things", 0, len(trials))
    told = dict(
        zip(
            trials,
            case.lab.score(case.candidate, list(trials.values()), case.deadline),
            strict=True,
        )
    )
    base = told["as it was"]
    if base.error:
        raise InvalidInput(f"{case.candidate.name} can't answer {source}: {base.error}")
    noisy = told["noise"]
    strange = [name for name in trials if name not in ("as it was", "noise")]
    notes = [f"{name}: refused ({told[name].error[:160]})" for name in strange if told[name].error]
    silent = {name: _nonsense(told[name]) for name in strange if not told[name].error}
    notes += [f"{name}: answered without numbers in {n} rows" for name, n in silent.items() if n]
    notes += [f"{name}: answered" for name, n in silent.items() if not n]
    facts = {"rows": rows, "from": source, "noise": spec.noise}
    if noisy.error:
        evidence: dict[str, object] = {"facts": facts, "notes": notes}
        sentence = f"It refuses inputs with noise: {noisy.error}."
        return run("robustness", Verdict.FAIL, sentence, evidence)
    changed, by_output = _changed(base, noisy)
    count = int(changed.sum())
    low, high = wilson(count, rows, quantile(0.95, rows))
    limit = spec.max_changed
    said = "fail" if low > limit else "pass" if high <= limit else "inconclusive"
    evidence = {
        "facts": facts,
        "panels": [
            {
                "title": "share of rows that change with noise",
                "limit": limit,
                "better": "less",
                "bounds": [bound("any output", count / rows, low, high, rows, said)],
            }
        ],
        "bars": [
            {
                "label": name,
                "value": n / rows,
                "limit": limit,
                "verdict": "pass" if n / rows <= limit else "fail",
            }
            for name, n in by_output.items()
        ],
        "rows": [
            {"row": int(row)}
            | {f"{name} before": plain(base.outputs[name][row]) for name in base.outputs}
            | {f"{name} after": plain(noisy.outputs[name][row]) for name in base.outputs}
            for row in np.flatnonzero(changed)[:_SHOWN]
        ],
        "notes": notes,
    }
    told_text = (
        f"With noise of {spec.noise:g} standard deviations {count} of {rows} rows change "
        f"(at most {limit:.0%} is wanted)"
    )
    nonsense = [name for name, n in silent.items() if n]
    if said == "pass" and nonsense:
        sentence = f"{told_text}, but {nonsense[0]} input gets answers that are no numbers."
        return run("robustness", Verdict.WARN, sentence, evidence)
    return run("robustness", Verdict(said), f"{told_text}.", evidence)


def _rows(spec: Robustness, case: Case) -> tuple[Table, str]:
    if spec.dataset is not None:
        data = case.around.dataset(spec.dataset)
        return {name: values[: spec.rows] for name, values in data.table.items()}, data.name
    try:
        found, source = case.around.recorded(spec.rows), "recorded requests"
    except Unknown:
        found, source = case.lab.golden(case.candidate)[0], "its golden rows"
    rows = len(next(iter(found.values())))
    if rows >= spec.rows:
        return {name: array[: spec.rows] for name, array in found.items()}, source
    # Few rows get noise several times.
    again = np.arange(spec.rows) % rows
    return {name: array[again] for name, array in found.items()}, f"{source}, {rows} of them"


def _noisy(table: Table, noise: float) -> Table:
    """Numbers with fractions only: a category that is a number has no neighbours."""
    random = np.random.default_rng(0)

    def stirred(values: NDArray[Any]) -> NDArray[Any]:
        if values.dtype.kind != "f":
            return values
        spread = np.nan_to_num(np.nanstd(values, axis=0))
        moved = values + random.normal(size=values.shape) * noise * spread
        return np.asarray(moved, dtype=values.dtype)

    return {name: stirred(values) for name, values in table.items()}


def _missing(table: Table) -> Table:
    """A tenth of the numbers, and of the texts, are not there."""
    random = np.random.default_rng(1)

    def holes(values: NDArray[Any]) -> NDArray[Any]:
        gone = random.random(values.shape) < 0.1
        if values.dtype.kind == "f":
            return np.where(gone, np.nan, values).astype(values.dtype)
        if values.dtype.kind in "OUS":
            made = values.astype(object)
            made[gone] = None
            return made
        return values

    return {name: holes(values) for name, values in table.items()}


def _filled(table: Table, value: float) -> Table:
    return {
        name: np.full_like(values, value) if values.dtype.kind == "f" else values
        for name, values in table.items()
    }


def _changed(base: Answers, noisy: Answers) -> tuple[NDArray[np.bool_], dict[str, int]]:
    rows = len(next(iter(base.outputs.values())))
    changed = np.zeros(rows, dtype=bool)
    by_output = {}
    for name, before in base.outputs.items():
        after = noisy.outputs[name]
        if before.dtype.kind == "f":
            flat, now = before.reshape(rows, -1), after.reshape(rows, -1)
            spread = np.nan_to_num(np.nanstd(flat, axis=0))
            moved = np.abs(now - flat) > _MOVED * np.maximum(spread, 1e-12)
            moved |= np.isnan(now) != np.isnan(flat)
        else:
            moved = (before != after).reshape(rows, -1)
        mine = moved.any(axis=1)
        by_output[name] = int(mine.sum())
        changed |= mine
    return changed, by_output


def _nonsense(answers: Answers) -> int:
    """Rows with an output that is no number."""
    found = 0
    for array in answers.outputs.values():
        if array.dtype.kind == "f":
            found = max(found, int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum()))
    return found


KIND = Kind("robustness", Robustness, check, frozenset({"recorded", "dataset"}), title="Robustness")
