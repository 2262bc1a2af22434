"""Rows of a dependent are found again among what the upstream answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gate_support import subject

from modelfleet.gates import replay as replaying
from modelfleet.gates.replay import Replayer, _link
from modelfleet.serving.lab import Answers, Deadline
from modelfleet.serving.pipelines.definition import Condition
from modelfleet.serving.pipelines.plan import Fed, PipelinePlan, StepPlan
from modelfleet.serving.pipelines.replay import replay
from modelfleet.telemetry.recorded import Recorded
from modelfleet_worker.wire.signature import Signature, TensorSpec

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


class FakeLab:
    """The candidate halves what the champion answered; the dependent rounds its feature."""

    def score(self, subject, tables, deadline):  # type: ignore[no-untyped-def]
        found = []
        for table in tables:
            if subject.model == "next":
                found.append(Answers({"offer": (table["risk"] > 0.5).astype(int)}, 0.0))
            else:
                found.append(Answers({"score": table["x"][:, 0] / 2}, 0.0))
        return found


def test_a_model_gets_what_the_candidate_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    x = random.random((500, 1))
    ours = Recorded(500, {"x": x}, {"score": x[:, 0]})
    theirs = Recorded(200, {"risk": x[:200, 0]}, {"offer": np.zeros(200)})
    feature = Signature(
        (TensorSpec("risk", "FP64", (-1,)),), (TensorSpec("offer", "INT64", (-1,)),)
    )

    def recorded(_database, index, _signature, rows, since_us=0):  # type: ignore[no-untyped-def]
        return {1: ours, 2: theirs, 3: Recorded(0, {}, {})}[index]

    monkeypatch.setattr(replaying, "recorded", recorded)
    monkeypatch.setattr(replaying, "signature_of", lambda _: feature)
    champion, candidate = subject("1.0.0"), subject("1.1.0")
    made = Replayer(FakeLab(), Deadline.after(60), Path("/x"), candidate, champion, 1)  # type: ignore[arg-type]
    dependent = replace(subject("2.0.0"), model="next")
    found = made.model(dependent, 2, 200)
    assert (found.problem, found.rows) == ("", 200)
    np.testing.assert_array_equal(found.before["offer"], x[:200, 0] > 0.5)
    assert found.after["offer"].sum() == 0  # half of it is never above a half
    assert made.model(dependent, 3, 200).problem == "no requests of it are recorded"
