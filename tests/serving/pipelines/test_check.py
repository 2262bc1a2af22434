"""What can't work is refused when it is defined, and the message names the step."""

from __future__ import annotations

import pytest
from graphs import checked, document, step

from modelfleet.core.errors import InvalidInput


def diamond(**more: object) -> dict[str, object]:
    join = {"name": "c", "model": "joiner", "inputs": {"p": "a.score", "q": "b.score"}, **more}
    return document(join, step("a"), step("b"), outputs={"score": "c.score"})


def test_steps_come_in_an_order_in_which_each_can_run() -> None:
    plan = checked(diamond())
    assert [one.name for one in plan.steps] == ["a", "b", "c"]
    assert plan.steps[2].needs == ("a", "b")
    assert [one.name for one in plan.steps[0].outputs] == ["score"]  # nobody takes `label`
    assert [(fed.spec.name, fed.spec.shape) for fed in plan.outputs] == [("score", (-1,))]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (document(step("a", inputs={"y": "input.x"})), "Step a: scorer has no input 'y'"),
        (document(step("a", inputs={})), "Step a: nothing feeds scorer's input 'x'"),
        (document(step("a", inputs={"x": "input.y"})), "Step a, input x: there is no tensor"),
        (document(step("a", inputs={"x": "b.score"})), "Step a: there is no step 'b'"),
        (document(step("a", inputs={"x": "nodot"})), "Step a: 'nodot' is neither"),
        (
            document(step("a", inputs={"x": {"cast": "input.x", "to": "FP32"}})),
            r"Step a, input x: FP64 \[-1, 3\] is wanted, FP32",
        ),
        (
            document(step("a"), step("b", inputs={"x": "a.score"}), outputs={"s": "b.score"}),
            "Step b, input x: .* use a concat",
        ),
        (
            document(
                step("a"),
                step("b", inputs={"x": {"concat": ["a.score", "a.label"]}}),
                outputs={"s": "b.score"},
            ),
            "Step b, input x: concat needs one datatype",
        ),
        (
            document(
                step("a"),
                {
                    "name": "b",
                    "model": "joiner",
                    "inputs": {"p": {"select": "input.x", "column": 3}, "q": "a.score"},
                },
                outputs={"s": "b.score"},
            ),
            "Step b, input p: there is no column 3",
        ),
        (document(outputs={"s": "a.nothing"}), "The outputs: there is no tensor 'a.nothing'"),
        (document(step("a"), step("b")), "Step b: no output of the pipeline needs it"),
        (document(step("a"), step("a")), "two steps named a"),
        (document(step("input"), outputs={"s": "input.x"}), "No step may be named 'input'"),
        (document(step("a", when="input.x > 1")), "Step a, when: .* name a column"),
        (document(step("a", when="input.x[0] ~ 1")), "Step a, when: .* no comparison"),
        (document(step("a", when="input.x[0] > high")), "Step a, when: 'high' is no number"),
        (document(step("a", when='input.x[0] > "1"')), "Step a, when: .* a number only"),
        (document(step("a", when="input.x[7] > 1")), "Step a, when: there is no column 7"),
        (document(step("a", when="input.x[0] > 1")), "Step a, otherwise: the output 'score'"),
        (document(step("a", otherwise={"score": 1.0})), "Step a: otherwise needs a condition"),
        (
            document(step("a", fallback={"constant": {"score": "high"}})),
            "Step a, fallback, score: 'high' is no value of FP64",
        ),
        (
            document(step("a", fallback={"constant": {"label": "x"}})),
            "Step a, fallback: nobody takes an output 'label'",
        ),
        (
            diamond(inputs={"p": "a.score", "q": {"cast": "b.label", "to": "FP64"}}),
            "Step c, input q: texts and numbers can't be cast",
        ),
    ],
)
def test_what_can_not_work_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        checked(wrong)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("steps", [step("a", retries=3)], r"step a: Object contains unknown field `retries`"),
        ("steps", [step("a", timeout_ms=0)], "step a: Expected `int` >= 1"),
        ("steps", [step("a", fallback={})], "step a: a fallback names at least one"),
        ("steps", [step("a", inputs={"x": {"concat": ["b.x"], "to": "FP32"}})], "step a: cast"),
        ("steps", [], "steps"),
        ("inputs", [{"name": "x", "datatype": "FP64"}], "missing required field `shape`"),
        ("surprise", 1, "unknown field `surprise`"),
        ("name", "a/b", "name"),
    ],
)
def test_what_is_no_definition_is_refused(field: str, value: object, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        checked({**document(), field: value})


def test_rows_come_first() -> None:
    wrong = {**document(), "inputs": [{"name": "x", "datatype": "FP64", "shape": [3]}]}
    with pytest.raises(InvalidInput, match="Input x: the first dimension is the rows"):
        checked(wrong)


def test_a_cycle_is_named() -> None:
    join = {"model": "joiner"}
    wrong = document(
        {"name": "a", **join, "inputs": {"p": "c.score", "q": "d.score"}},
        {"name": "b", **join, "inputs": {"p": "a.score", "q": "d.score"}},
        {"name": "c", **join, "inputs": {"p": "b.score", "q": "d.score"}},
        step("d"),
        outputs={"s": "c.score"},
    )
    with pytest.raises(InvalidInput, match=r"cycle: (a -> b -> c -> a|b -> c -> a -> b|c -> a)"):
        checked(wrong)


def test_a_required_step_does_not_wait_for_an_optional_one() -> None:
    wrong = diamond()
    wrong["steps"][1]["optional"] = True  # type: ignore[index]
    with pytest.raises(InvalidInput, match="Step c: it takes from the optional step a"):
        checked(wrong)
    wrong["steps"][1]["fallback"] = {"constant": {"score": 0.5}}  # type: ignore[index]
    checked(wrong)
    checked(diamond(optional=True))


def test_a_skipped_row_may_take_its_value_from_elsewhere() -> None:
    found = checked(
        document(
            step("a"),
            step("b", when="a.score >= 0.7", otherwise={"score": {"from": "a.score"}}),
            outputs={"score": "b.score"},
        )
    )
    assert found.steps[1].needs == ("a",)
    with pytest.raises(InvalidInput, match=r"Step b, otherwise, score: .* use a select"):
        checked(
            document(
                step("a"),
                step("b", when="a.score >= 0.7", otherwise={"score": {"from": "input.x"}}),
                outputs={"score": "b.score"},
            )
        )
