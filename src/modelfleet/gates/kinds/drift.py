"""Whether the data it was trained on look like what is asked of it now.

The chi-square distance (for small shifts about the population stability index) between the training
reference in the bundle and recent requests, as the monitors have it. It passes when the distance of
every feature is proven below what is tolerated, fails when one is proven above (Holm).
"""

from __future__ import annotations

import numpy as np

from modelfleet.core.errors import InvalidInput
from modelfleet.fleetfile.gates import Drift
from modelfleet.gates import statistics
from modelfleet.gates.kinds.base import Case, Kind, inconclusive, plain, run
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.telemetry.drift import Stream, tolerance_tests

_SHOWN = 40
_HISTOGRAMS = 6


def check(spec: Drift, case: Case) -> GateRun:
    case.say("reading recent requests")
    features = list(case.around.recent(spec.recent))
    if spec.features:
        unknown = [name for name in spec.features if name not in {f.name for f in features}]
        if unknown:
            raise InvalidInput(
                f"The reference has no feature {unknown[0]!r}.",
                hint=f"It has {', '.join(f.name for f in features[:20])}.",
            )
        features = [one for one in features if one.name in spec.features]
    rows = int(max((one.recent.sum() for one in features), default=0))
    if rows < spec.min_rows:
        return inconclusive(
            "drift",
            f"{rows} recent rows are known; {spec.min_rows} are needed.",
            facts={"rows": rows},
        )
    streams = [Stream(one.recent, one.reference, ordered=one.numeric) for one in features]
    tests = tolerance_tests(streams, spec.max_distance)
    alpha = 1 - spec.confidence
    known = np.flatnonzero(tests.conclusive).tolist()
    harms = dict(zip(known, statistics.holm([float(tests.p[k]) for k in known]), strict=True))
    bars = []
    for k, one in enumerate(features):
        distance, p = float(tests.distance[k]), float(tests.p[k])
        said = "inconclusive"
        if k in harms:
            said = "fail" if harms[k] < alpha else "pass" if 1 - p <= alpha else "inconclusive"
        bars.append({"label": one.name, "value": plain(distance), "verdict": said, "p": plain(p)})
    order = sorted(range(len(bars)), key=lambda k: -float(np.nan_to_num(tests.distance[k])))
    evidence: dict[str, object] = {
        "facts": {"recent rows": rows, "features": len(features)},
        "limit": spec.max_distance,
        "bars": [bars[k] | {"limit": spec.max_distance} for k in order[:_SHOWN]],
        "histograms": [
            {
                "name": features[k].name,
                "labels": list(features[k].labels),
                "reference": plain(_shares(features[k].reference)),
                "recent": plain(_shares(features[k].recent)),
            }
            for k in order[:_HISTOGRAMS]
        ],
    }
    far = [bars[k]["label"] for k in order if bars[k]["verdict"] == "fail"]
    if far:
        worst = bars[order[0]]
        names = ", ".join(map(str, far[:4]))
        sentence = (
            f"{len(far)} of {len(features)} features are not what it was trained on: {names} "
            f"(distance {worst['value']:.3g}; {spec.max_distance:g} is tolerated)."
        )
        return run("drift", Verdict.FAIL, sentence, evidence)
    near = [bars[k]["label"] for k in order if bars[k]["verdict"] == "inconclusive"]
    if near:
        names = ", ".join(map(str, near[:4]))
        sentence = f"{len(near)} features can't be decided with {rows} rows: {names}."
        return run("drift", Verdict.INCONCLUSIVE, sentence, evidence)
    sentence = f"All {len(features)} features of {rows} recent rows look like the training data."
    return run("drift", Verdict.PASS, sentence, evidence)


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / max(int(counts.sum()), 1)


KIND = Kind("drift", Drift, check, frozenset({"recorded"}), title="Drift")
