"""What gates can be told, and what contradicts itself."""

from __future__ import annotations

import pytest

from modelfleet.fleetfile import gate_lists, gates

QUALITY = {"dataset": "d@1", "metric": "accuracy", "minimum": 0.8}


def test_names_are_given() -> None:
    found = gate_lists.parse_all(
        [
            "signature",
            {"quality": QUALITY},
            {"quality": {**QUALITY, "metric": "f1"}},
            {"quality": {**QUALITY, "metric": "recall", "name": "recall"}},
            {"run": {"uses": "./checks/business rules.py"}},
        ]
    )
    names = [one.name for one in found]
    assert names == ["signature", "quality", "quality-2", "recall", "business-rules"]
    assert found[0].entry == {"signature": {}}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["nothing"], "there is no gate 'nothing'"),
        ([{"quality": QUALITY, "drift": {}}], "one kind an entry"),
        ([3], "one kind an entry"),
        ([{"quality": {"dataset": "d@1", "metric": "accuracy"}}], "needs a minimum"),
        ([{"quality": {**QUALITY, "minimum": 1.5}}], "1.5 can't be met"),
        ([{"quality": {**QUALITY, "metric": "rmse", "minimum": -1}}], "-1.0 can't be met"),
        ([{"quality": {**QUALITY, "noninferior": 0.01}}], "it needs vs: champion"),
        ([{"quality": {**QUALITY, "slices": ["target"]}}], "can't be a slice, too"),
        ([{"quality": {**QUALITY, "metrik": 1}}], "metrik: Extra inputs"),
        (["latency"], "latency needs a limit"),
        ([{"dependencies": {"forbidden": ["numpy"]}}], "every worker needs numpy"),
        ([{"dependencies": {"forbidden": ["a b"]}}], "is no requirement"),
        ([{"run": {"uses": "a.py", "environment": {"PATH": "x"}}}], "PATH is not yours to set"),
        (["signature", "signature"], "it is the same as 'signature'"),
        ([{"quality": QUALITY}, {"quality": {**QUALITY, "minimum": 0.9}}], "with other limits"),
        ([{"reproducibility": {}}, {"reproducibility": {"tolerance": 0.1}}], "other limits"),
        ([{"drift": {"name": "a"}}, {"robustness": {"name": "a"}}], "a gate 'a' already"),
        ([{"fairness": {"dataset": "d", "sensitive": ["a", "a"], "limit": 0.1}}], "named twice"),
    ],
)
def test_what_can_not_be(entries: list[object], said: str) -> None:
    with pytest.raises(ValueError, match=None) as caught:
        gate_lists.parse_all(entries)
    assert said in str(caught.value)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="gate 1") as caught:
        gate_lists.parse_all([{"quality": {"metric": "auc"}}, "nothing", "latency"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert lines[0] == "gate 1 (quality): dataset: Field required"


def test_files_and_what_they_become() -> None:
    sha = "a" * 64
    _, spec = gates.parse({"run": {"uses": "checks/a.py", "dataset": "eval.csv"}})
    assert gate_lists.local_files(spec) == {"dataset": "eval.csv", "uses": "checks/a.py"}
    _, spec = gates.parse({"run": {"uses": f"a.py@sha256:{sha}", "dataset": "churn@latest"}})
    assert gate_lists.local_files(spec) == {}
    assert gate_lists.digests_of({"run": {"uses": f"a.py@sha256:{sha}"}}) == {sha}
    assert gate_lists.digests_of("signature") == set()
    assert gate_lists.file_of(f"a.py@sha256:{sha}") == "a.py"
