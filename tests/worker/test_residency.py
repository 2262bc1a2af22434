"""More models than fit: what stays, what goes, and that a cold one answers."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import pytest

from modelfleet_worker.wire import desired
from modelfleet_worker.wire.control import ControlBlock, State
from modelfleet_worker.wire.desired import PoolSpec

ROW = [1.0, 2.0, 3.0, 4.0]


def write(fleet: Any, **fields: Any) -> int:
    fleet.revision += 1
    versions = tuple(fleet.versions.values())
    spec = PoolSpec(fleet.pool, fleet.revision, sys.executable, 1, 4096, versions, **fields)
    desired.dump(spec, fleet.desired)
    return int(fleet.revision)


def large(megabytes: int, seconds: float = 0.0) -> Any:
    """A predict function that holds memory, and is slow to load if it is told so."""

    class Model:
        def __init__(self) -> None:
            time.sleep(seconds)
            self.content = os.urandom(1 << 20) * megabytes

        def __call__(self, inputs: Any) -> Any:
            return {"y": inputs["x"].sum(axis=1)}

    class Saved:
        def __reduce__(self) -> Any:
            return Model, ()

    return Saved()


def events(fleet: Any, kind: str) -> list[int]:
    lines = [json.loads(line) for line in fleet.log().splitlines() if line.startswith("{")]
    return [line["index"] for line in lines if line["event"] == kind]


def test_cold_models_answer(fleet: Any, bundles: Any, request_of: Any) -> None:
    for index in range(1, 7):
        made = bundles.python(f"large{index}", large(30))
        fleet.add(index, made, pinned=index == 6)
    write(fleet, budget_mb=100)
    fleet.start()
    resident = events(fleet, "resident")
    assert resident[0] == 6
    assert len(resident) < 6
    cold = [index for index in range(1, 7) if index not in resident]
    for index in (*cold, *resident, *cold):
        answer = fleet.infer("m", request_of([ROW]), x_mf_version=str(index))
        assert (answer.status, answer.output("y")) == (200, [10.0]), answer.body
    assert events(fleet, "evicted")
    assert 6 not in events(fleet, "evicted")
    meta = fleet.client().ask("GET", f"/v2/models/large{cold[0]}")
    assert (meta.status, meta.body["inputs"][0]["name"]) == (200, "x")
    fleet.until(lambda: fleet.snapshot().running == 0)


def test_requests_wait_together_and_only_until_their_deadline(
    fleet: Any, bundles: Any, request_of: Any
) -> None:
    fleet.add(1, bundles.python("first", large(40)), pinned=True)
    fleet.add(2, bundles.python("slow", large(40, 1.0)))
    write(fleet, budget_mb=20)
    fleet.start()
    assert events(fleet, "resident") == [1]
    found: list[Any] = []

    def ask(**headers: str) -> None:
        found.append(fleet.infer("slow", request_of([ROW]), x_mf_version="2", **headers))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    threads.append(threading.Thread(target=ask, kwargs={"x_mf_timeout_ms": "300"}))
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    with ControlBlock.open(fleet.control_path()) as block:
        assert {slot.version for slot in block.slots()} == {2}
    assert fleet.infer("first", request_of([ROW]), x_mf_version="1").status == 200
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in found) == [200] * 5 + [504]
    assert events(fleet, "resident") == [1, 2]
    fleet.until(lambda: fleet.snapshot().running == 0)
    with ControlBlock.open(fleet.control_path()) as block:
        assert block.slots() == []


def test_a_quarantined_version_is_not_run(fleet: Any, bundles: Any, request_of: Any) -> None:
    fleet.add(1, bundles.linear_onnx())
    other = bundles.linear_onnx("other")
    fleet.add(2, other)
    write(fleet)
    fleet.start()
    reason = "it brought its worker down three times"
    fleet.add(2, other, quarantined=reason)
    fleet.acknowledged(write(fleet))
    answer = fleet.infer("other", request_of([ROW]), x_mf_version="2")
    assert (answer.status, reason in answer.error) == (500, True)
    assert fleet.client().ask("GET", "/v2/models/other/ready").status == 404
    assert fleet.infer("linear", request_of([ROW]), x_mf_version="1").status == 200
    fleet.add(2, other)
    fleet.acknowledged(write(fleet))
    assert fleet.infer("other", request_of([ROW]), x_mf_version="2").status == 200


class Deadly:
    def __reduce__(self) -> Any:
        return os._exit, (7,)

    def predict(self, inputs: Any) -> Any:
        return inputs


def test_a_load_that_kills_is_told_and_not_tried_again(
    fleet: Any, bundles: Any, request_of: Any
) -> None:
    fleet.add(1, bundles.linear_onnx())
    write(fleet)
    fleet.start()
    fleet.add(2, bundles.python("deadly", Deadly()))
    write(fleet)
    assert fleet.processes[0].wait(10) == 7
    block_path = fleet.control_path()
    with ControlBlock.open(block_path) as block:
        assert [(slot.version, slot.request_id) for slot in block.blamed()] == [(2, "")]
    block_path.rename(block_path.with_suffix(".dead"))  # as the host agent does
    fleet.start()
    assert (fleet.snapshot().state, fleet.snapshot().failed) == (State.READY, (2,))
    assert fleet.infer("linear", request_of([ROW]), x_mf_version="1").status == 200
    answer = fleet.infer("deadly", request_of([ROW]), x_mf_version="2")
    assert (answer.status, "brought a worker down" in answer.error) == (503, True)


@pytest.mark.slow
def test_a_thousand_models(fleet: Any, bundles: Any, request_of: Any) -> None:
    made = bundles.linear_onnx()
    for index in range(1, 1001):
        fleet.add(index, made, model=f"m{index}")
    write(fleet, budget_mb=1024)
    fleet.start()
    for index in (1, 500, 1000):
        assert fleet.infer("m", request_of([ROW]), x_mf_version=str(index)).status == 200
    assert len(events(fleet, "resident")) == 1000


def test_a_cold_load_that_killed_a_worker_is_not_carried_to_the_next(
    fleet: Any, bundles: Any, request_of: Any
) -> None:
    """The gateway sends the request again; a peer's slots say what it did."""
    fleet.add(1, bundles.python("first", large(40)), pinned=True)
    fleet.add(2, bundles.python("deadly", Deadly()))
    write(fleet, budget_mb=20)
    fleet.start(0)
    fleet.start(1)
    with pytest.raises(OSError):
        fleet.infer("deadly", request_of([ROW]), 0, x_mf_version="2", x_request_id="fatal")
    assert fleet.processes[0].wait(10) == 7
    block = fleet.control_path(0)
    block.rename(block.with_suffix(".dead"))  # as the host agent does
    again = fleet.infer(
        "deadly",
        request_of([ROW]),
        1,
        x_mf_version="2",
        x_request_id="fatal",
        x_envoy_attempt_count="2",
    )
    assert (again.status, "stopped the worker" in again.error) == (500, True)
    assert fleet.processes[1].poll() is None
