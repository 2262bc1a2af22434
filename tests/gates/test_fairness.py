"""Fairness: fairlearn's definitions, three values, and rates of wrong verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gate_support import FakeAround, FakeLab, case, outputs
from sklearn.metrics import confusion_matrix

from modelfleet.core.errors import InvalidInput
from modelfleet.fleetfile.gates import Fairness
from modelfleet.gates.kinds import fairness
from modelfleet.gates.store import GateRun, Verdict


def by_definition(metric: str, truth: Any, chosen: Any, groups: Any) -> float:
    """fairlearn.metrics: MetricFrame of a rate, then difference() or ratio() between groups; of
    equalized odds the worse of both rates."""
    rates: dict[str, list[float]] = {"selection": [], "tpr": [], "fpr": []}
    for group in np.unique(groups):
        mine = groups == group
        tn, fp, fn, tp = confusion_matrix(truth[mine], chosen[mine], labels=[0, 1]).ravel()
        rates["selection"].append((tp + fp) / mine.sum())
        rates["tpr"].append(tp / (tp + fn))
        rates["fpr"].append(fp / (fp + tn))
    names = {
        "demographic_parity": ["selection"],
        "equal_opportunity": ["tpr"],
        "equalized_odds": ["tpr", "fpr"],
    }[metric.rsplit("_", 1)[0]]
    if metric.endswith("ratio"):
        return min(min(rates[name]) / max(rates[name]) for name in names)
    return max(max(rates[name]) - min(rates[name]) for name in names)


def judged(told: dict[str, Any], table: dict[str, Any], chosen: Any) -> GateRun:
    lab = FakeLab({"1.1.0": outputs(chosen)})
    spec = Fairness(**{"dataset": "d@1", "sensitive": ["sex"], "limit": 0.1, **told})
    return fairness.check(spec, case(lab, FakeAround({"d@1": table})))


def people(random: Any, rows: int, shares: dict[str, float]) -> tuple[dict[str, Any], Any]:
    """Truth by coin, and who is chosen by a share of the group."""
    names = np.array(list(shares), dtype=object)[random.integers(0, len(shares), rows)]
    limit = np.array([shares[name] for name in names])
    chosen = (random.random(rows) < limit).astype(int)
    return {"target": random.integers(0, 2, rows), "sex": names}, chosen


@pytest.mark.parametrize(
    "metric",
    [
        "demographic_parity_difference",
        "demographic_parity_ratio",
        "equalized_odds_difference",
        "equalized_odds_ratio",
        "equal_opportunity_difference",
    ],
)
def test_values_are_those_of_fairlearn(metric: str) -> None:
    random = np.random.default_rng(0)
    table, chosen = people(random, 3000, {"f": 0.3, "m": 0.5, "x": 0.4})
    found = judged({"metric": metric, "limit": 0.5}, table, chosen)
    wanted = by_definition(metric, table["target"], chosen, table["sex"].astype(str))
    values: Any = found.evidence["values"]
    assert values["sex"] == pytest.approx(wanted)


def test_three_values() -> None:
    random = np.random.default_rng(1)
    table, chosen = people(random, 6000, {"f": 0.4, "m": 0.4})
    assert judged({}, table, chosen).verdict is Verdict.PASS
    table, chosen = people(random, 6000, {"f": 0.4, "m": 0.65})
    found = judged({}, table, chosen)
    assert found.verdict is Verdict.FAIL
    assert "m - f" in found.sentence
    table, chosen = people(random, 300, {"f": 0.4, "m": 0.47})
    assert judged({}, table, chosen).verdict is Verdict.INCONCLUSIVE
    ratio = {"metric": "demographic_parity_ratio", "limit": 0.8}
    table, chosen = people(random, 6000, {"f": 0.2, "m": 0.5})
    assert judged(ratio, table, chosen).verdict is Verdict.FAIL
    table, chosen = people(random, 9000, {"f": 0.5, "m": 0.5})
    assert judged(ratio, table, chosen).verdict is Verdict.PASS


def test_small_groups_and_zero_counts_are_inconclusive() -> None:
    random = np.random.default_rng(2)
    table, chosen = people(random, 4000, {"f": 0.4, "m": 0.4})
    table["sex"][:20] = "x"
    found = judged({}, table, chosen)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "sex=x: 20 rows, 100 are needed" in found.evidence["notes"]  # type: ignore[operator]
    table, chosen = people(random, 4000, {"f": 0.0, "m": 0.4})
    ratio = {"metric": "demographic_parity_ratio", "limit": 0.8}
    assert judged(ratio, table, chosen).verdict is Verdict.INCONCLUSIVE
    with pytest.raises(InvalidInput, match="no column 'age'"):
        judged({"sensitive": ["age"]}, table, chosen)


def test_combinations_of_attributes_are_looked_at() -> None:
    """Each attribute alone looks fair, together they don't."""
    random = np.random.default_rng(3)
    rows = 8000
    sex, age = random.integers(0, 2, rows), random.integers(0, 2, rows)
    chosen = (random.random(rows) < np.where(sex == age, 0.7, 0.3)).astype(int)
    table = {"target": random.integers(0, 2, rows), "sex": sex, "age": age}
    told = {"sensitive": ["sex", "age"]}
    assert judged(told, table, chosen).verdict is Verdict.FAIL
    assert judged({**told, "intersections": False}, table, chosen).verdict is Verdict.PASS


@pytest.mark.slow
def test_rates_of_wrong_verdicts() -> None:
    """At the limit it passes in at most 5 % and fails in at most 5 % of histories."""
    random = np.random.default_rng(4)
    histories = 500
    passed = failed = fair_failed = 0
    for _ in range(histories):
        table, chosen = people(random, 2000, {"f": 0.4, "m": 0.5})
        found = judged({}, table, chosen)
        passed += found.verdict is Verdict.PASS
        failed += found.verdict is Verdict.FAIL
        groups = dict.fromkeys("abcde", 0.4)
        table, chosen = people(random, 2000, groups)
        fair_failed += judged({}, table, chosen).verdict is Verdict.FAIL
    most = 0.05 + 2 * (0.05 * 0.95 / histories) ** 0.5
    assert passed / histories <= most
    assert failed / histories <= most
    assert fair_failed / histories <= 0.05
