"""Boots in a real worker, loads, answers its golden requests as when it was registered."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelfleet.core.errors import InvalidInput
from modelfleet.fleetfile.gates import Infrastructure
from modelfleet.gates.kinds.base import Case, Kind, run
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.serving.trial import Trial, body_of

_RELATIVE = 1e-3
"""of a golden number: compiled forms compute in single precision"""
MB = 2**20


def check(spec: Infrastructure, case: Case) -> GateRun:
    case.say("booting a worker")
    inputs, golden = case.lab.golden(case.candidate)
    try:
        with Trial(case.lab, case.candidate, case.deadline) as worker:
            case.say("asking the golden requests")
            told = worker.outputs(body_of(inputs))
            for _ in range(20):
                worker.infer(body_of(inputs, 1))
            now, most = worker.memory()
    except InvalidInput as error:
        return run("infrastructure", Verdict.FAIL, error.message, {"facts": _about(case)})
    wrong = _differences(golden, told)
    rows = len(next(iter(inputs.values())))
    facts = _about(case) | {
        "golden rows": rows,
        "seconds until it answers": round(worker.boot_s, 3),
        "memory, MB": round(now / MB, 1),
        "memory at most, MB": round(most / MB, 1),
    }
    bars = []
    broken = [f"golden output {name} differs: {how}" for name, how in wrong.items()]
    if spec.cold_load is not None:
        bars.append(_bar("cold load, s", worker.boot_s, spec.cold_load))
        if worker.boot_s > spec.cold_load:
            broken.append(
                f"it takes {worker.boot_s:.2f} s to answer; {spec.cold_load:g} s is allowed"
            )
    if spec.memory is not None:
        bars.append(_bar("memory, MB", most / MB, spec.memory / MB))
        if most > spec.memory:
            broken.append(f"it takes {most / MB:.0f} MB; {spec.memory / MB:.0f} MB is allowed")
    evidence: dict[str, object] = {"facts": facts, "bars": bars}
    if broken:
        return run(
            "infrastructure", Verdict.FAIL, f"In a real worker {'; '.join(broken)}.", evidence
        )
    sentence = (
        f"It answers {rows} golden rows in a real worker, {worker.boot_s:.2f} s after its start, "
        f"with {most / MB:.0f} MB."
    )
    return run("infrastructure", Verdict.PASS, sentence, evidence)


def _about(case: Case) -> dict[str, object]:
    return {"form": case.candidate.variant, "runtime": case.candidate.info.runtime}


def _bar(label: str, value: float, limit: float) -> dict[str, object]:
    verdict = "pass" if value <= limit else "fail"
    return {"label": label, "value": round(value, 3), "limit": round(limit, 3), "verdict": verdict}


def _differences(golden: dict[str, Any], told: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, array in golden.items():
        if name not in told:
            found[name] = "it is not there"
            continue
        data, shape, _ = told[name]
        if list(shape) != list(array.shape):
            found[name] = f"shape {shape} instead of {list(array.shape)}"
        elif array.dtype.kind == "f":
            answer = np.array([np.nan if one is None else float(one) for one in data])
            expected = array.reshape(-1).astype(np.float64)
            size = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
            apart = np.abs(answer - expected)
            lost = np.isfinite(expected) & ~np.isfinite(answer)
            if lost.any():
                found[name] = f"{int(lost.sum())} values are no numbers"
            elif np.nanmax(apart, initial=0.0) > _RELATIVE * size:
                found[name] = f"by up to {np.nanmax(apart):.3g}"
        else:
            flat = [str(one) for one in array.reshape(-1).tolist()]
            unlike = sum(a != str(b) for a, b in zip(flat, data, strict=True))
            if unlike:
                found[name] = f"{unlike} of {len(flat)} values"
    return found


KIND = Kind("infrastructure", Infrastructure, check, title="Infrastructure")
