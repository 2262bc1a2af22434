"""What the API takes of a rollout is what the rollouts room knows."""

from __future__ import annotations

from dataclasses import fields

from modelfleet.api.rollouts import AnalysisBody
from modelfleet.rollouts.analysis import Analysis


def test_the_analysis_is_whole_and_has_the_same_defaults() -> None:
    body = AnalysisBody()
    ours = {one.name: one.default for one in fields(Analysis)}
    assert body.model_dump() == ours
    assert Analysis(**body.model_dump()) == Analysis()
