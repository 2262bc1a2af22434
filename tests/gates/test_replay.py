"""Rows of a dependent are found again among what the upstream answered."""

from __future__ import annotations

import numpy as np

from modelfleet.gates.replay import _link
from modelfleet.serving.pipelines.definition import Condition
from modelfleet.serving.pipelines.plan import Fed, PipelinePlan, StepPlan
from modelfleet.serving.pipelines.replay import replay
from modelfleet.telemetry.recorded import Recorded
from modelfleet_worker.wire.signature import TensorSpec

SPEC = TensorSpec("y", "FP64", (-1,))


def test_a_feature_that_equals_an_answer_came_from_it() -> None:
    random = np.random.default_rng(0)
    answers = random.random((1000, 2))
    ours = Recorded(1000, {"x": random.random((1000, 1))}, {"probability": answers})
    rows = random.integers(0, 1000, 300)
    taken = answers[rows, 1].astype(np.float32)  # it may have travelled in single precision
    taken[:30] = 7.0  # and some came from elsewhere
    features = {"age": random.random(300), "risk": taken}
    found = _link(ours, features)
    assert found is not None
    assert (found.feature, found.output) == ("risk", "probability[1]")
    np.testing.assert_array_equal(found.rows[30:], rows[30:])
    assert set(found.rows[:30].tolist()) == {-1}
    assert _link(ours, {"age": random.random(300), "flag": np.ones(300)}) is None


def test_a_pipeline_over_many_rows() -> None:
    """The second step runs where the first one's answer is large; elsewhere it is a constant."""
    first = StepPlan("one", "m1", (Fed(SPEC, "input.x"),), (SPEC,), ())
    second = StepPlan(
        "two",
        "m2",
        (Fed(SPEC, "one.y"),),
        (SPEC,),
        ("one",),
        when=Condition("one.y", ">", 5),
        otherwise={"y": -1},
    )
    outputs = (Fed(TensorSpec("out", "FP64", (-1,)), "two.y"),)
    plan = PipelinePlan("p", 1000, (TensorSpec("x", "FP64", (-1,)),), outputs, (first, second))
    calls = []

    def call(step, inputs):  # type: ignore[no-untyped-def]
        calls.append((step.model, len(inputs["y"])))
        return {"y": inputs["y"] * 2}

    found = replay(plan, {"x": np.array([1.0, 2.0, 3.0, 4.0])}, 4, call)
    np.testing.assert_array_equal(found["out"], [-1, -1, 12, 16])
    assert calls == [("m1", 4), ("m2", 2)]
