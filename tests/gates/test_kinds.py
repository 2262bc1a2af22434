"""The kinds that need no statistics of their own, on made-up surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from gate_support import CLASSIFIER, REGRESSOR, FakeAround, FakeLab, case, outputs, subject
from sklearn.linear_model import LogisticRegression

from modelfleet.core.errors import InvalidInput
from modelfleet.fleetfile import gates as specs
from modelfleet.gates import kinds
from modelfleet.gates.kinds import dependents, drift, robustness, signature
from modelfleet.gates.kinds.base import Consumer, FeatureCounts, Replayed
from modelfleet.gates.kinds.dependencies import packages
from modelfleet.gates.kinds.infrastructure import _differences
from modelfleet.gates.kinds.latency import quantile_bounds
from modelfleet.gates.running import checked
from modelfleet.gates.store import Verdict
from modelfleet.registry.signature import BundleInfo, Signature, Tensor
from modelfleet.serving.lab import Answers, TimedOut

CHAMPION = subject("1.0.0")


def info(inputs: list[Tensor], out: list[Tensor]) -> BundleInfo:
    return replace(CLASSIFIER, signature=Signature(inputs, out))


X = CLASSIFIER.signature.inputs
OUT = CLASSIFIER.signature.outputs


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (info([Tensor("y", "FP64", [-1, 2])], OUT), "takes no input 'x' any more"),
        (info([Tensor("x", "FP32", [-1, 2], ["a", "b"])], OUT), "is FP32, was FP64"),
        (info([Tensor("x", "FP64", [-1, 2], ["b", "a"])], OUT), "in another order"),
        (info([Tensor("x", "FP64", [-1, 3], ["a", "b", "c"])], OUT), "has c beside"),
        (info([*X, Tensor("z", "FP64", [-1])], OUT), "needs the input 'z'"),
        (info(X, OUT[:1]), "output 'probability' is gone"),
        (info(X, [OUT[0], Tensor("probability", "FP64", [-1])]), "has the shape [-1]"),
    ],
)
def test_what_breaks_clients(changed: BundleInfo, said: str) -> None:
    around = FakeAround(known_consumers=[Consumer("application", "crm")])
    one = case(FakeLab({}), around, champion=CHAMPION, info=changed)
    found = signature.check(specs.Signature(), one)
    assert found.verdict is Verdict.FAIL
    assert said in found.sentence
    assert "application crm" in found.sentence
    found = signature.check(specs.Signature(compatible_with="champion"), one)
    assert (found.verdict, said in found.sentence) == (Verdict.FAIL, True)
    nobody = case(FakeLab({}), FakeAround(), champion=CHAMPION, info=changed)
    assert signature.check(specs.Signature(), nobody).verdict is Verdict.WARN


def test_more_outputs_break_nobody_and_pipelines_judge_for_themselves() -> None:
    more = info(X, [*OUT, Tensor("why", "BYTES", [-1])])
    around = FakeAround(
        known_consumers=[
            Consumer("application", "crm"),
            Consumer("pipeline", "offer", "", checked=True),
        ]
    )
    one = case(FakeLab({}), around, champion=CHAMPION, info=more)
    found = signature.check(specs.Signature(), one)
    assert found.verdict is Verdict.PASS
    assert found.evidence["notes"] == ["there is a new output 'why'"]
    around.known_consumers = [Consumer("pipeline", "offer", "Step risk: no.", checked=True)]
    found = signature.check(specs.Signature(), one)
    assert found.verdict is Verdict.FAIL
    assert "pipeline offer: Step risk: no." in found.sentence


def test_without_a_champion_applications_are_unknown() -> None:
    around = FakeAround(known_consumers=[Consumer("application", "crm")])
    found = signature.check(specs.Signature(), case(FakeLab({}), around))
    assert found.verdict is Verdict.INCONCLUSIVE


def counts(name: str, reference: list[int], recent: list[int]) -> FeatureCounts:
    labels = [str(k) for k in range(len(reference))]
    return FeatureCounts(name, True, labels, np.array(reference), np.array(recent))


def test_drift_has_three_values() -> None:
    same = counts("a", [1000] * 10, [300] * 10)
    moved = counts("b", [1000] * 10, [30] * 5 + [570] * 5)
    spec = specs.Drift(max_distance=0.1)
    around = FakeAround(features=[same])
    assert drift.check(spec, case(FakeLab({}), around)).verdict is Verdict.PASS
    around.features = [same, moved]
    found = drift.check(spec, case(FakeLab({}), around))
    assert (found.verdict, "b (distance" in found.sentence) == (Verdict.FAIL, True)
    assert found.evidence["histograms"][0]["name"] == "b"  # type: ignore[index]
    around.features = [counts("a", [1000] * 10, [60, 40] * 5)]
    few = specs.Drift(max_distance=0.05, min_rows=100)
    assert drift.check(few, case(FakeLab({}), around)).verdict is Verdict.INCONCLUSIVE
    few = specs.Drift(min_rows=10_000)
    assert "10000 are needed" in drift.check(few, case(FakeLab({}), around)).sentence
    with pytest.raises(InvalidInput, match="no feature 'z'"):
        drift.check(specs.Drift(features=("z",)), case(FakeLab({}), around))


def test_dependents_count_rows_that_change() -> None:
    before = {"y": np.arange(400, dtype=float), "label": np.array(["a"] * 400)}
    after = {"y": np.arange(400, dtype=float) + 1e-9, "label": np.array(["a"] * 400)}
    one = Replayed("pipeline", "offer", 400, before, after)
    around = FakeAround(replayed=[one])
    this = case(FakeLab({}), around, champion=CHAMPION)
    assert dependents.check(specs.Dependents(), this).verdict is Verdict.PASS
    changed = {"y": after["y"], "label": np.array(["b"] * 100 + ["a"] * 300)}
    around.replayed = [one, Replayed("model", "next@1.0.0", 400, before, changed)]
    found = dependents.check(specs.Dependents(), this)
    assert found.verdict is Verdict.FAIL
    assert "model next@1.0.0 answers 100 of 400" in found.sentence
    assert found.evidence["rows"][0]["label after"] == "b"  # type: ignore[index]
    around.replayed = [one, Replayed("pipeline", "x", 0, {}, {}, problem="nothing is recorded")]
    found = dependents.check(specs.Dependents(), this)
    assert found.verdict is Verdict.INCONCLUSIVE
    around.replayed = []
    assert dependents.check(specs.Dependents(), this).verdict is Verdict.PASS
    alone = case(FakeLab({}), around)
    assert dependents.check(specs.Dependents(), alone).verdict is Verdict.INCONCLUSIVE


class Function(FakeLab):
    """Answers by a function of the table."""

    def __init__(self, answer: Any) -> None:
        super().__init__({})
        self.answer = answer

    def score(self, one: Any, tables: Any, deadline: Any) -> list[Answers]:
        found = []
        for table in tables:
            try:
                found.append(Answers(self.answer(table), 0.0))
            except ValueError as error:
                found.append(Answers({}, 0.0, str(error)))
        return found


def test_robustness() -> None:
    rows = {"a": np.linspace(-3, 3, 600), "b": np.zeros(600), "kind": np.array(["x"] * 600)}
    around = FakeAround(requests=rows)
    spec = specs.Robustness(noise=0.01)

    def calm(table: Mapping[str, Any]) -> Any:
        return outputs(np.nan_to_num(1 / (1 + np.exp(-2 + np.nan_to_num(table["a"] / 1e3)))))

    found = robustness.check(spec, case(Function(calm), around))
    assert found.verdict is Verdict.PASS

    def nervous(table: Mapping[str, Any]) -> Any:
        return outputs((np.nan_to_num(table["a"]) * 1000 % 2 > 1).astype(float))

    assert robustness.check(spec, case(Function(nervous), around)).verdict is Verdict.FAIL

    def silent(table: Mapping[str, Any]) -> Any:
        return {"prediction": np.where(np.isnan(table["a"]), np.nan, table["a"] * 0)}

    found = robustness.check(spec, case(Function(silent), around, info=REGRESSOR))
    assert found.verdict is Verdict.WARN

    def strict(table: Mapping[str, Any]) -> Any:
        if np.isnan(table["a"]).any() or np.abs(table["a"]).max() > 100:
            raise ValueError("not with me")
        return calm(table)

    found = robustness.check(spec, case(Function(strict), around))
    assert found.verdict is Verdict.PASS
    assert "missing: refused (not with me)" in found.evidence["notes"]  # type: ignore[operator]


def test_security_never_passes(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    joblib.dump(model, tmp_path / "files" / "model.joblib")
    one = case(FakeLab({}), FakeAround(), tmp_path)
    found = kinds.find("security").check(specs.Security(), one)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.sentence.startswith("1 of 1 model files name nothing but parts of known models")
    (tmp_path / "files" / "bad.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    found = kinds.find("security").check(specs.Security(), one)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "bad.pkl (os.system)" in found.sentence


def test_the_place_of_language_models() -> None:
    kind = kinds.find("llm_safety")
    found = kind.check(specs.LlmSafety(), case(FakeLab({}), FakeAround()))
    assert (found.verdict, found.evidence["applicable"]) == (Verdict.PASS, False)
    tagged = case(FakeLab({}), FakeAround(), tags={"kind": "llm"})
    found = kind.check(specs.LlmSafety(), tagged)
    assert found.verdict is Verdict.INCONCLUSIVE


def test_forbidden_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = kinds.find("dependencies")
    monkeypatch.setattr("modelfleet.gates.kinds.dependencies._conflicts", lambda _: [])
    lock = "numpy==1.26.4 \\\n    --hash=sha256:00\nScikit_Learn==1.5.0 ; python_version > '3'\n"
    assert packages(lock) == {"numpy": "1.26.4", "scikit-learn": "1.5.0"}
    one = case(FakeLab({}), FakeAround(), lock=lock, champion=replace(CHAMPION, lock="numpy==2.0"))
    found = kind.check(specs.Dependencies(forbidden=("numpy<2",)), one)
    assert (found.verdict, found.sentence) == (Verdict.FAIL, "numpy 1.26.4 is forbidden (numpy<2).")
    assert found.evidence["rows"][0] == {  # type: ignore[index]
        "package": "numpy",
        "champion": "2.0",
        "candidate": "1.26.4",
    }
    found = kind.check(specs.Dependencies(forbidden=("scikit-learn>=1.6", "tensorflow")), one)
    assert found.verdict is Verdict.PASS
    assert kind.check(specs.Dependencies(), case(FakeLab({}), FakeAround())).verdict is (
        Verdict.INCONCLUSIVE
    )


def test_golden_answers_are_compared() -> None:
    golden = {"y": np.array([1.0, np.nan]), "label": np.array([0, 1])}
    fine = {"y": ([1.00001, None], [2], "FP64"), "label": ([0, 1], [2], "INT64")}
    assert _differences(golden, fine) == {}
    wrong = {"y": ([1.1, None], [2], "FP64"), "label": ([0, 0], [2], "INT64")}
    assert _differences(golden, wrong) == {"y": "by up to 0.1", "label": "1 of 2 values"}
    assert _differences(golden, {"y": ([None, 1.0], [2], "FP64")}) == {
        "y": "1 values are no numbers",
        "label": "it is not there",
    }


def test_bounds_of_a_quantile_hold() -> None:
    random = np.random.default_rng(0)
    truth = -np.log(0.05)
    below = above = 0
    for _ in range(500):
        low, _, high = quantile_bounds(np.sort(random.exponential(size=400)), 0.95, 0.95)
        below += low > truth
        above += high < truth
    assert below <= 40
    assert above <= 40
    assert quantile_bounds(np.arange(10.0), 0.95, 0.95)[2] == np.inf


def test_checks_that_can_not_be_made_have_verdicts() -> None:
    def raising(error: Exception) -> kinds.Kind:
        def check(spec: Any, one: Any) -> Any:
            raise error

        return kinds.Kind("x", specs.Gate, check)

    one = case(FakeLab({}), FakeAround())
    found = checked(raising(TimedOut("over")), specs.Gate(timeout=5.0), one)
    assert (found.verdict, found.sentence) == (
        Verdict.INCONCLUSIVE,
        "The check took longer than 5 s.",
    )
    found = checked(raising(InvalidInput("no")), specs.Gate(), one)
    assert found.verdict is Verdict.FAIL
    with pytest.raises(InvalidInput, match="no gate 'nothing'"):
        kinds.find("nothing")
