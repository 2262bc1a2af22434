"""Measured side by side with the champion, in turns, in real workers of their own.

Both are asked in alternating turns, so that whatever else the machine does meets both. The ratio of
each turn's p95 is one observation; its bounds are those of the mean of their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from modelfleet.fleetfile.gates import Latency
from modelfleet.gates import statistics
from modelfleet.gates.kinds.base import Case, Kind, bound, nothing_beside, plain, run
from modelfleet.gates.kinds.infrastructure import MB
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.serving.trial import Trial, body_of

_TURNS = 16
_WARM = 30
_ENOUGH_TURNS = 6
_QUANTILE = 0.95


def check(spec: Latency, case: Case) -> GateRun:
    needs = spec.vs_champion is not None or spec.memory_vs_champion is not None
    champion = case.champion if needs else None
    if needs and champion is None and spec.p95 is spec.memory is spec.cold_load is None:
        return nothing_beside("latency", case)
    subjects = [case.candidate, *([champion] if champion else [])]
    with ExitStack() as stack:
        workers, calls = [], []
        for subject in subjects:
            case.say(f"booting a worker with {subject.name}")
            inputs, _ = case.lab.golden(subject)
            worker = stack.enter_context(Trial(case.lab, subject, case.deadline))
            workers.append(worker)
            calls.append(_caller(worker, body_of(inputs, spec.rows)))
        turns = _measure(spec, case, calls)
        memory = [worker.memory()[1] for worker in workers]
    return _judge(spec, case, turns, memory, [worker.boot_s for worker in workers], bool(champion))


def _caller(worker: Trial, body: bytes) -> Callable[[], float]:
    return lambda: worker.infer(body)


def _measure(
    spec: Latency, case: Case, calls: list[Callable[[], float]]
) -> list[list[list[float]]]:
    """Seconds of each call, by version and turn."""
    for call in calls:
        for _ in range(_WARM):
            call()
    found: list[list[list[float]]] = [[] for _ in calls]
    length = spec.seconds / _TURNS
    for turn in range(_TURNS):
        case.say("measuring", turn + 1, _TURNS)
        order = range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls)))
        for place in order:
            times: list[float] = []
            while sum(times) < length:
                times.append(calls[place]())
                _ = case.deadline.left
            found[place].append(times)
    return found


def _judge(
    spec: Latency,
    case: Case,
    turns: list[list[list[float]]],
    memory: list[int],
    boots: list[float],
    compared: bool,
) -> GateRun:
    panels: list[dict[str, Any]] = []
    verdicts: list[tuple[str, str]] = []
    mine = np.sort(np.concatenate(turns[0]))
    low, p95, high = quantile_bounds(mine, _QUANTILE, spec.confidence)
    if spec.p95 is not None:
        said = "pass" if high <= spec.p95 else "fail" if low > spec.p95 else "inconclusive"
        verdicts.append((said, f"p95 is {p95 * 1e3:.3g} ms; {spec.p95 * 1e3:g} ms is allowed"))
        one = bound("candidate", p95 * 1e3, low * 1e3, high * 1e3, len(mine), said)
        panels.append({"title": "p95, ms", "bounds": [one], "limit": spec.p95 * 1e3})
    bars: list[dict[str, object]] = []
    alone = "warn" if case.first else "inconclusive"
    if spec.vs_champion is not None and compared:
        said, one, text = _ratio(spec, turns)
        verdicts.append((said, text))
        panels.append(
            {"title": "p95 over that of the champion", "bounds": [one], "limit": spec.vs_champion}
        )
    elif spec.vs_champion is not None:
        verdicts.append((alone, f"there is no champion: {case.no_champion}"))
    for label, value, limit in _sizes(spec, memory, boots):
        if value is None:
            verdicts.append((alone, f"{label}: {case.no_champion}"))
            continue
        said = "pass" if value <= limit else "fail"
        verdicts.append((said, f"{label} is {value:.3g}; {limit:.3g} is allowed"))
        bars.append({"label": label, "value": plain(value), "limit": plain(limit), "verdict": said})
    names = [case.candidate.name, case.champion.name if case.champion else ""]
    evidence: dict[str, object] = {
        "facts": {
            "calls": len(mine),
            "rows of a call": spec.rows,
            "p50, ms": plain(float(np.median(mine)) * 1e3),
            "memory, MB": round(memory[0] / MB, 1),
            "seconds until it answers": round(boots[0], 3),
        }
        | ({"champion": names[1]} if compared else {}),
        "panels": panels,
        "bars": bars,
        "axes": ["ms", "share of calls"],
        "curves": [_curve(name, parts) for name, parts in zip(names, turns, strict=False)],
    }
    for said, verdict in (
        ("fail", Verdict.FAIL),
        ("inconclusive", Verdict.INCONCLUSIVE),
        ("pass", Verdict.PASS),
    ):
        texts = [text for found, text in verdicts if found == said]
        if texts:
            told = "; ".join(texts)
            return run("latency", verdict, f"{told[:1].upper()}{told[1:]}.", evidence)
    raise AssertionError("a limit was checked")


def _ratio(spec: Latency, turns: list[list[list[float]]]) -> tuple[str, dict[str, object], str]:
    assert spec.vs_champion is not None
    pairs = zip(*turns, strict=True)
    logs = np.array(
        [math.log(np.quantile(a, _QUANTILE) / np.quantile(b, _QUANTILE)) for a, b in pairs]
    )
    middle = float(logs.mean())
    half = (
        statistics.quantile(spec.confidence, len(logs)) * float(logs.std(ddof=1)) / len(logs) ** 0.5
    )
    value, low, high = (math.exp(x) for x in (middle, middle - half, middle + half))
    said = (
        "pass" if high <= spec.vs_champion else "fail" if low > spec.vs_champion else "inconclusive"
    )
    if len(logs) < _ENOUGH_TURNS:
        said = "inconclusive"
    one = bound("candidate / champion", value, low, high, sum(map(len, turns[0])), said)
    span = f"{value:.2f} times the champion's (from {low:.2f} to {high:.2f})"
    text = f"p95 is {span}; {spec.vs_champion:g} is allowed"
    return said, one, text


def _sizes(
    spec: Latency, memory: list[int], boots: list[float]
) -> list[tuple[str, float | None, float]]:
    found: list[tuple[str, float | None, float]] = []
    if spec.memory is not None:
        found.append(("memory in MB", memory[0] / MB, spec.memory / MB))
    if spec.memory_vs_champion is not None:
        ratio = memory[0] / memory[1] if len(memory) > 1 else None
        found.append(("memory over the champion's", ratio, spec.memory_vs_champion))
    if spec.cold_load is not None:
        found.append(("cold load in seconds", boots[0], spec.cold_load))
    return found


def quantile_bounds(ordered: Any, share: float, confidence: float) -> tuple[float, float, float]:
    """One-sided bounds of a quantile by order statistics, and the quantile between them."""
    rows = len(ordered)
    half = statistics.quantile(confidence, rows) * math.sqrt(share * (1 - share) / rows)
    low = max(0, math.floor((share - half) * rows) - 1)
    high = math.ceil((share + half) * rows)
    upper = float(ordered[high]) if high < rows else math.inf
    return float(ordered[low]), float(np.quantile(ordered, share)), upper


def _curve(name: str, turns: list[list[float]]) -> dict[str, object]:
    ordered = np.sort(np.concatenate(turns)) * 1e3
    shares = np.linspace(0.01, 0.99, 50)
    return {"name": name, "x": plain(np.quantile(ordered, shares)), "y": plain(shares)}


KIND = Kind("latency", Latency, check, frozenset({"champion", "moment"}), title="Latency")
