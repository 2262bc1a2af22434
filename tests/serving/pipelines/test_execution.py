"""Random graphs: refused, or run in an order that data allows, each step at most once; and what
happens to a step that does not answer. The gateway is played by the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from graphs import CALLEES, JOINER, checked, document, step
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet.core.errors import InvalidInput
from modelfleet.serving.pipelines.check import check
from modelfleet.serving.pipelines.definition import read
from modelfleet.serving.pipelines.executor.calls import CallFailed, CallTimeout, Response
from modelfleet.serving.pipelines.executor.execution import (
    DeadlinePassed,
    Execution,
    Origin,
    StepFailed,
)
from modelfleet.serving.pipelines.executor.messages import answer_body
from modelfleet.serving.pipelines.executor.runner import Runner
from modelfleet.serving.pipelines.plan import PipelinePlan
from modelfleet_worker.oip import RequestDecoder
from modelfleet_worker.wire.signature import Signature, TensorSpec

Model = Callable[[dict[str, Any]], dict[str, Any]]
ROWS = np.arange(6.0).reshape(2, 3)


class Fleet:
    """Models by name; answers as the gateway would. Notes the calls in their order."""

    def __init__(self, **models: Model | Exception | int) -> None:
        self.models = models
        self.calls: list[str] = []
        self.headers: list[bytes] = []

    async def post(self, path: bytes, headers: bytes, body: bytes, seconds: float) -> Response:
        name = path.decode().removeprefix("/v2/models/").removesuffix("/infer")
        self.calls.append(name)
        self.headers.append(headers)
        model = self.models[name]
        await asyncio.sleep(0)
        if isinstance(model, Exception):
            raise model
        if isinstance(model, int):
            return Response(model, {}, b'{"error":"no"}')
        called = CALLEES[name.partition("/")[0]]
        inputs = tuple(TensorSpec(n, k.datatype, k.shape) for n, k in called.inputs.items())
        outputs = tuple(TensorSpec(n, k.datatype, k.shape) for n, k in called.outputs.items())
        size = next(
            line.partition(b": ")[2]
            for line in headers.split(b"\r\n")
            if line.startswith(b"inference-header")
        )
        decoded = RequestDecoder(Signature(inputs, outputs)).decode(body, size)
        given = dict(zip((spec.name for spec in inputs), decoded.inputs, strict=True))
        answer = model(given)
        wanted = {outputs[k]: answer[outputs[k].name] for k in decoded.outputs or []}
        content, length = answer_body(name, 1, "", wanted, frozenset(answer), {})
        return Response(200, {b"inference-header-content-length": b"%d" % (length or 0)}, content)


def scorer(inputs: dict[str, Any]) -> dict[str, Any]:
    total = inputs["x"].sum(axis=1)
    return {"score": total, "label": np.array([f"{v:g}" for v in total], dtype=object)}


def joiner(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"score": inputs["p"] + 10 * inputs["q"]}


def good() -> Fleet:
    return Fleet(scorer=scorer, joiner=joiner)


def execute(
    plan: PipelinePlan, fleet: Fleet, *, seconds: float = 5.0, runner: Runner | None = None
) -> Execution:
    async def go() -> Execution:
        made = Execution(
            runner or Runner(plan),
            fleet,  # type: ignore[arg-type]
            Origin("root", "0" * 31 + "1", "01", b"x-user: u1\r\n"),
            [ROWS],
            time.monotonic() + seconds,
        )
        await made.run()
        return made

    return asyncio.run(go())


def diamond(**more: object) -> PipelinePlan:
    join = {"name": "c", "model": "joiner", "inputs": {"p": "a.score", "q": "b.score"}}
    return checked(
        document(
            step("a"),
            step("b", inputs={"x": {"concat": [{"select": "input.x", "column": 0}] * 3}}, **more),
            join,
            outputs={"score": "c.score"},
        )
    )


def test_fan_out_and_join_equal_the_same_by_hand() -> None:
    found = execute(diamond(), good())
    by_hand = ROWS.sum(axis=1) + 10 * 3 * ROWS[:, 0]
    assert found.tensors["c.score"].tolist() == by_hand.tolist()


def test_what_travels_along() -> None:
    fleet = good()
    execute(checked(document(step("a", timeout_ms=500))), fleet)
    (headers,) = fleet.headers
    named = dict(line.split(b": ", 1) for line in headers.split(b"\r\n") if line)
    assert named[b"x-request-id"] == b"root"
    assert named[b"traceparent"].startswith(b"00-" + b"0" * 31 + b"1-")
    assert named[b"traceparent"].endswith(b"-01")
    assert 0 < int(named[b"x-mf-timeout-ms"]) <= 500
    assert named[b"x-user"] == b"u1"


def conditional(**more: object) -> PipelinePlan:
    return checked(
        document(
            step("a"),
            step("b", when="a.score > 5", otherwise={"score": -1.0, "label": {"from": "a.label"}})
            | more,
            outputs={"score": "b.score", "label": "b.label"},
        )
    )


def test_only_rows_that_meet_the_condition_reach_the_model() -> None:
    seen: list[int] = []

    def watched(inputs: dict[str, Any]) -> dict[str, Any]:
        seen.append(len(inputs["x"]))
        return scorer(inputs)

    found = execute(conditional(), Fleet(scorer=watched))
    assert seen == [2, 1]
    assert found.tensors["b.score"].tolist() == [-1.0, 12.0]
    assert found.tensors["b.label"].tolist() == ["3", "12"]


def test_a_model_that_no_row_needs_is_not_called() -> None:
    fleet = good()
    found = execute(conditional(when="a.score > 500"), fleet)
    assert fleet.calls == ["scorer"]
    assert found.tensors["b.score"].tolist() == [-1.0, -1.0]


def test_a_fallback_is_for_the_rows_that_were_asked() -> None:
    only = conditional(fallback={"constant": {"score": 7.0, "label": "none"}})
    calls = 0

    def second_fails(inputs: dict[str, Any]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise CallTimeout
        return scorer(inputs)

    found = execute(only, Fleet(scorer=second_fails))
    assert found.tensors["b.score"].tolist() == [-1.0, 7.0]
    assert found.tensors["b.label"].tolist() == ["3", "none"]
    assert found.fallbacks == {"b": "constant"}


FAILURES = [CallTimeout(), CallFailed("gone"), 500, 503, 429, 400, 404]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_constant_stands_in_for_any_failure(failure: Exception | int) -> None:
    plan = checked(document(step("a", fallback={"constant": {"score": 0.5}})))
    found = execute(plan, Fleet(scorer=failure))
    assert found.tensors["a.score"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("failure", "status"), list(zip(FAILURES, [504, 503, 500, 503, 429, 400, 500], strict=True))
)
def test_without_a_fallback_the_failure_names_its_step(
    failure: Exception | int, status: int
) -> None:
    with pytest.raises(StepFailed, match="step a: ") as raised:
        execute(checked(document(step("a"))), Fleet(scorer=failure))
    assert raised.value.status == status


def test_the_previous_version_answers_first_then_the_cache_then_the_constant() -> None:
    rule = {"previous": True, "cached_ms": 60_000, "constant": {"score": 0.5}}
    plan = checked(document(step("a", fallback=rule, breaker={"minimum": 20})))
    plan = msgspec.structs.replace(
        plan, steps=(msgspec.structs.replace(plan.steps[0], previous="1.0.0"),)
    )
    old, runner = "scorer/versions/1.0.0", Runner(plan)
    fleet = Fleet(**{"scorer": 500, old: scorer})
    assert execute(plan, fleet, runner=runner).fallbacks == {"a": "previous"}
    fleet.models = {"scorer": 500, old: 500}
    found = execute(plan, fleet, runner=runner)
    assert found.fallbacks == {"a": "constant"}  # an answer of the fallback is not remembered
    fleet.models = {"scorer": scorer, old: 500}
    assert execute(plan, fleet, runner=runner).fallbacks == {}
    fleet.models = {"scorer": 500, old: 500}
    found = execute(plan, fleet, runner=runner)
    assert found.fallbacks == {"a": "cached"}
    assert found.tensors["a.score"].tolist() == ROWS.sum(axis=1).tolist()


def test_an_optional_step_is_left_out_with_all_that_hangs_on_it() -> None:
    plan = checked(
        document(
            step("a"),
            {
                "name": "c",
                "model": "joiner",
                "inputs": {"p": "a.score", "q": "a.score"},
                "optional": True,
            },
            {
                "name": "d",
                "model": "joiner",
                "inputs": {"p": "c.score", "q": "a.score"},
                "optional": True,
            },
            outputs={"score": "a.score", "more": "d.score"},
        )
    )
    fleet = Fleet(scorer=scorer, joiner=500)
    found = execute(plan, fleet)
    assert set(found.missing) == {"c", "d"}
    assert fleet.calls == ["scorer", "joiner"]
    assert "a.score" in found.tensors
    assert "d.score" not in found.tensors


def test_an_open_circuit_answers_without_asking() -> None:
    plan = checked(document(step("a", breaker={"minimum": 3, "window": 3, "open_ms": 60_000})))
    runner, fleet = Runner(plan), Fleet(scorer=500)
    for _ in range(5):
        with pytest.raises(StepFailed):
            execute(plan, fleet, runner=runner)
    assert fleet.calls == ["scorer"] * 3
    with pytest.raises(StepFailed, match="its circuit is open") as raised:
        execute(plan, fleet, runner=runner)
    assert raised.value.status == 503
    counted = runner.counters.steps["a"]
    assert (counted.calls, counted.errors, counted.refused) == (3, 3, 3)


def test_refused_inputs_open_no_circuit() -> None:
    plan = checked(document(step("a", breaker={"minimum": 2, "window": 2})))
    runner, fleet = Runner(plan), Fleet(scorer=400)
    for _ in range(5):
        with pytest.raises(StepFailed, match="step a: scorer answered 400: no"):
            execute(plan, fleet, runner=runner)
    assert len(fleet.calls) == 5


def test_no_step_begins_after_the_deadline() -> None:
    fleet = good()
    with pytest.raises(DeadlinePassed):
        execute(diamond(), fleet, seconds=0.0)
    assert fleet.calls == []


class Punctual(Fleet):
    """Says that the time is over when the whole milliseconds it was given are."""

    async def post(self, path: bytes, headers: bytes, body: bytes, seconds: float) -> Response:
        given = headers.partition(b"x-mf-timeout-ms: ")[2].partition(b"\r\n")[0]
        await asyncio.sleep((int(given) - 1) / 1000)
        return await super().post(path, headers, body, seconds)


def test_a_model_that_used_up_the_deadline_leaves_nothing_for_a_fallback() -> None:
    rule = {"constant": {"score": 0.25}}
    with pytest.raises(DeadlinePassed):
        execute(checked(document(step("a", fallback=rule))), Punctual(scorer=504), seconds=0.05)
    patient = checked(document(step("a", fallback=rule, timeout_ms=20)))
    assert execute(patient, Punctual(scorer=504), seconds=5).fallbacks == {"a": "constant"}


def test_a_redefinition_keeps_circuits_of_steps_that_stay() -> None:
    plan = checked(document(step("a", breaker={"minimum": 1, "window": 1})))
    runner = Runner(plan)
    with pytest.raises(StepFailed):
        execute(plan, Fleet(scorer=500), runner=runner)
    again = Runner(msgspec.structs.replace(plan, revision=2), runner)
    assert again.breaker(plan.steps[0], None) is runner.breaker(plan.steps[0], None)
    other = checked(document(step("a", breaker={"minimum": 2, "window": 2})))
    assert Runner(other, runner).breaker(other.steps[0], None).state(0.0) == "closed"


def test_a_request_ends_on_the_plan_on_which_it_began() -> None:
    old = diamond()
    runner = Runner(old)
    Runner(checked(document(step("z"), outputs={"score": "z.score"})), runner)
    found = execute(old, good(), runner=runner)
    assert "c.score" in found.tensors
    assert runner.steps["a"].calls == 1
    assert set(runner.counters.steps) == {"z"}


NAMES = list("abcdefg")


@st.composite
def documents(draw: st.DrawFn) -> dict[str, object]:
    """Graphs of any kind, also with circles and steps that nobody needs; half of them good."""
    names = NAMES[: draw(st.integers(1, 7))]
    sources = ["input.v", *(f"{name}.score" for name in names)]
    good = draw(st.booleans())
    steps: list[dict[str, Any]] = []
    for place, name in enumerate(names):
        known = st.sampled_from(sources[: place + 1] if good else sources)
        inputs = {"p": draw(known), "q": draw(known)}
        steps.append({"name": name, "model": "joiner", "inputs": inputs})
    if good:
        taken = {source for one in steps for source in one["inputs"].values()}
        outputs = [source for source in sources[1:] if source not in taken]
        steps = draw(st.permutations(steps))
    else:
        outputs = draw(st.lists(st.sampled_from(sources[1:]), min_size=1, max_size=3, unique=True))
    return {
        "name": "random",
        "team": "t",
        "inputs": [{"name": "v", "datatype": "FP64", "shape": [-1]}],
        "steps": steps,
        "outputs": {f"o{k}": source for k, source in enumerate(outputs)},
    }


@settings(max_examples=300, deadline=None)
@given(documents())
def test_a_random_graph_is_refused_or_runs_in_order_each_step_once(
    found: dict[str, Any],
) -> None:
    inputs = {one["name"]: one["inputs"].values() for one in found["steps"]}
    needs = {
        name: {source.split(".")[0] for source in taken} - {"input"}
        for name, taken in inputs.items()
    }
    definition = read(found)
    try:
        plan = check(definition, dict.fromkeys(inputs, JOINER))
    except InvalidInput:
        idle = set(inputs) - _reached(needs, found["outputs"].values())
        if not idle and not _circular(needs):
            raise
        return
    assert not _circular(needs)
    assert {one.name for one in plan.steps} == set(inputs)
    order: list[str] = []
    values: dict[str, float] = {"input": 1.0}

    async def go() -> Execution:
        runner = Runner(plan)
        made = Execution(
            runner,
            Fleet(joiner=joiner),  # type: ignore[arg-type]
            Origin("r", "1" * 32, "00", b""),
            [np.array([1.0])],
            time.monotonic() + 60,
        )
        answer = made._answer

        async def noted(one: Any, arrays: Any, rows: int) -> Any:
            assert needs[one.name] <= set(order)
            outputs = await answer(one, arrays, rows)
            order.append(one.name)
            return outputs

        made._answer = noted  # type: ignore[method-assign]
        await made.run()
        return made

    made = asyncio.run(go())
    assert sorted(order) == sorted(inputs)
    for one in plan.steps:
        p, q = (values[fed.source.split(".")[0]] for fed in one.inputs)  # type: ignore[union-attr]
        values[one.name] = p + 10 * q
        assert made.tensors[f"{one.name}.score"].tolist() == [values[one.name]]


def _circular(needs: dict[str, set[str]]) -> bool:
    left = dict(needs)
    while left:
        free = [name for name, wanted in left.items() if not wanted & left.keys()]
        if not free:
            return True
        for name in free:
            del left[name]
    return False


def _reached(needs: dict[str, set[str]], outputs: Any) -> set[str]:
    border, found = [source.split(".")[0] for source in outputs], set()
    while border:
        name = border.pop()
        if name not in found:
            found.add(name)
            border += needs[name]
    return found
