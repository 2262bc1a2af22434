"""A real worker process: what it answers, follows, survives and leaves behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelfleet_worker.wire.control import ControlBlock, State
from modelfleet_worker.wire.ids import format_id
from modelfleet_worker.wire.segment import SHADOW
from modelfleet_worker.wire.spec import read_spec
from modelfleet_worker.wire.tensors import unpack

ROW = [1.0, 2.0, 3.0, 4.0]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def silly(trigger: float, act: Callable[[], Any]) -> Callable[[Any], Any]:
    """A model that sums its columns, but acts when the first value of the first row says so."""

    def predict(inputs: Any) -> Any:
        rows = inputs["x"] if isinstance(inputs, dict) else inputs
        if rows[0, 0] == trigger:
            act()
        total = rows.sum(axis=1)
        return {"y": total} if isinstance(inputs, dict) else total

    return predict


def do_raise() -> None:
    raise RuntimeError("no such airport: XYZ")


def do_exit_politely() -> None:
    raise SystemExit(3)


def do_exit() -> None:
    os._exit(3)


def do_hang() -> None:
    time.sleep(600)


def do_eat() -> None:
    np.ones(1 << 33)


def test_answers_record_and_headers(fleet: Any, bundles: Any, request_of: Any) -> None:
    made = bundles.logistic()
    fleet.add(17, made, version="1.2.0")
    fleet.add(18, bundles.linear_onnx())
    revision = fleet.write()
    fleet.start()
    seen = fleet.snapshot()
    assert (seen.state, seen.revision, seen.failed, seen.error) == (State.READY, revision, (), "")

    before = time.time_ns()
    answer = fleet.infer(
        "late%2DJFK",
        request_of([ROW, ROW]),
        x_mf_version="17",
        x_request_id="0190a5b2-0000-7000-8000-00000000000a",
        x_mf_caller="team",
        x_mf_client_request_id="theirs",
        x_mf_shadow="1",
        x_envoy_attempt_count="2",
        traceparent=TRACE,
    )
    assert answer.status == 200
    prediction = answer.headers["x-mf-prediction-id"]
    assert answer.headers["x-mf-model-version"] == "1.2.0"
    assert answer.headers["x-request-id"] == "0190a5b2-0000-7000-8000-00000000000a"
    assert answer.body["model_name"] == "late-JFK"
    assert answer.body["model_version"] == "1.2.0"
    assert answer.body["id"] == prediction
    assert len(answer.output("label")) == 2
    assert sum(answer.output("probability")) == pytest.approx(2)

    (record,) = fleet.records()
    assert format_id(record.prediction_id) == prediction
    assert (record.version, record.status, record.rows) == (17, 200, 2)
    assert (record.attempt, record.flags) == (2, SHADOW)
    assert record.request_id == "0190a5b2-0000-7000-8000-00000000000a"
    assert (record.caller, record.client_request_id) == ("team", "theirs")
    assert (record.endpoint, record.error) == ("late-JFK", "")
    assert record.trace_id == bytes.fromhex(TRACE[3:35])
    assert before < record.time_ns < time.time_ns()
    assert 0 < record.latency_ns < 10**9
    signature = read_spec(made[0]).signature
    assert unpack(signature.inputs[0], record.inputs[0], 2).tolist() == [ROW, ROW]
    assert unpack(signature.outputs[0], record.outputs[0], 2).tolist() == answer.output("label")

    direct = fleet.infer("linear", request_of([ROW], id="mine"))
    assert (direct.body["id"], direct.output("prediction")) == ("mine", [30.0])


def test_bad_input_is_told_and_recorded(fleet: Any, bundles: Any, request_of: Any) -> None:
    fleet.add(17, bundles.linear_onnx(refuse_missing=True))
    fleet.write()
    fleet.start()
    good = request_of([ROW])
    cases = [
        (good.replace(b"FP64", b"FP32"), {}, 400, "datatype 'FP32'"),
        (good.replace(b'"x"', b'"y"'), {}, 400, "unknown tensor 'y'"),
        (request_of([[1.0, 2.0]]), {}, 400, "the shape [1, 2]"),
        (b'{"inputs":[]}', {}, 400, "missing tensor 'x'"),
        (good.replace(b"1.0", b"NaN"), {}, 400, "NaN"),
        (b'{"inputs":', {}, 400, "not valid JSON"),
        (good, {"x_mf_version": "99"}, 503, "version 99 is not resident"),
        (good, {"x_mf_version": "many"}, 503, "not resident"),
        (good, {"x_mf_timeout_ms": "0"}, 504, "deadline"),
    ]
    for body, headers, status, text in cases:
        answer = fleet.infer("linear", body, **headers)
        assert (answer.status, text in answer.error) == (status, True), answer.body
        assert len(answer.headers["x-mf-prediction-id"]) == 36
    assert fleet.infer("nobody", good).status == 404
    recorded = [(record.version, record.status) for record in fleet.records()]
    assert recorded == [(17, 400)] * 6 + [(99, 503), (0, 503), (17, 504), (0, 404)]
    assert all(record.error for record in fleet.records())


def test_versions_that_do_not_load_leave_the_others_alone(
    fleet: Any, bundles: Any, request_of: Any
) -> None:
    corrupt = bundles.linear_onnx("corrupt")
    with open(corrupt[0] / "files" / "artifact", "ab") as stream:
        stream.write(b"x")
    fleet.add(17, bundles.linear_onnx())
    fleet.add(18, corrupt)
    fleet.write()
    fleet.start()
    seen = fleet.snapshot()
    assert (seen.state, seen.failed) == (State.READY, (18,))
    assert "corrupt 1.0.0: BundleCorrupt: artifact:" in seen.error
    assert fleet.infer("linear", request_of([ROW]), x_mf_version="17").status == 200
    assert fleet.infer("linear", request_of([ROW]), x_mf_version="18").status == 503

    content = (corrupt[0] / "files" / "artifact").read_bytes()
    (corrupt[0] / "files" / "artifact").write_bytes(content[:-1])
    assert fleet.acknowledged(fleet.write()).failed == ()
    assert fleet.snapshot().error == ""
    assert fleet.infer("linear", request_of([ROW]), x_mf_version="18").status == 200


def test_an_empty_pool_is_ready_at_once(fleet: Any) -> None:
    fleet.write()
    fleet.start()
    assert fleet.snapshot().revision == 1
    assert fleet.client().ask("GET", "/v2/health/ready").status == 200


def test_a_broken_desired_file_changes_nothing(fleet: Any, bundles: Any, request_of: Any) -> None:
    fleet.add(17, bundles.linear_onnx())
    fleet.write()
    fleet.start()
    fleet.desired.write_bytes(b'{"pool":')
    fleet.until(lambda: "pool.json" in fleet.snapshot().error)
    assert fleet.infer("linear", request_of([ROW])).status == 200
    fleet.desired.unlink()
    time.sleep(0.2)
    assert fleet.infer("linear", request_of([ROW])).status == 200


def test_files_of_newer_releases(fleet: Any, bundles: Any, request_of: Any) -> None:
    fleet.add(17, bundles.linear_onnx())
    fleet.write()
    fleet.start()
    known = json.loads(fleet.desired.read_bytes())
    more = known | {"revision": known["revision"] + 1, "of_tomorrow": [1]}
    replace(fleet.desired, json.dumps(more).encode())
    fleet.until(lambda: fleet.snapshot().revision == more["revision"])
    other = {"format": 2, "revision": more["revision"] + 1, "pools": {}}
    replace(fleet.desired, json.dumps(other).encode())
    fleet.until(lambda: "format 2 of a newer release" in fleet.snapshot().error)
    assert fleet.snapshot().revision == more["revision"]
    assert fleet.infer("linear", request_of([ROW])).status == 200


def replace(path: Path, content: bytes) -> None:
    made = path.with_suffix(".new")
    made.write_bytes(content)
    made.replace(path)


def test_hand_off_loses_no_request(fleet: Any, bundles: Any, request_of: Any) -> None:
    slow = bundles.python("slow", silly(-1, do_raise))
    fleet.add(17, bundles.linear_onnx("first"))
    fleet.write()
    fleet.start()
    current, stop, failures, asked = ["17"], threading.Event(), [], [0]

    def ask() -> None:
        client = fleet.client()
        while not stop.is_set():
            headers = {"x-mf-version": current[0]}
            answer = client.ask("POST", "/v2/models/m/infer", request_of([ROW]), headers)
            asked[0] += 1
            if answer.status != 200:
                failures.append(answer.body)
        client.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for index in range(18, 24):
            fleet.add(index, bundles.linear_onnx(f"m{index}") if index % 2 else slow)
            assert fleet.acknowledged(fleet.write()).failed == ()
            current[0] = str(index)
            del fleet.versions[index - 1]
            fleet.acknowledged(fleet.write())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert asked[0] > 100
    fleet.until(lambda: fleet.infer("m", request_of([ROW]), x_mf_version="17").status == 503)


def test_models_that_raise_or_leave(fleet: Any, bundles: Any, request_of: Any) -> None:
    for index, (kind, act) in enumerate(
        [
            (bundles.estimator, do_raise),
            (bundles.python, do_raise),
            (bundles.estimator, do_exit_politely),
            (bundles.python, do_exit_politely),
        ],
        start=17,
    ):
        fleet.add(index, kind(f"m{index}", silly(9.0, act)))
    fleet.write()
    fleet.start()
    bad = request_of([[9.0, 0, 0, 0]])
    for index in (17, 18):
        answer = fleet.infer("m", bad, x_mf_version=str(index))
        assert (answer.status, answer.error) == (500, "RuntimeError: no such airport: XYZ")
    for index in (19, 20):
        assert fleet.infer("m", bad, x_mf_version=str(index)).error == "SystemExit: 3"
    for index in (17, 18, 19, 20):
        assert fleet.infer("m", request_of([ROW]), x_mf_version=str(index)).output("y") == [10.0]
    assert "do_raise" in fleet.log()
    assert fleet.snapshot().running == 0


def test_a_model_that_hangs_holds_up_nobody_else(fleet: Any, bundles: Any, request_of: Any) -> None:
    fleet.add(17, bundles.python("hangs", silly(9.0, do_hang)))
    fleet.add(18, bundles.linear_onnx())
    fleet.write()
    fleet.start()
    answers: list[Any] = []
    bad = request_of([[9.0, 0, 0, 0]])
    stuck = [
        threading.Thread(
            target=lambda: answers.append(
                fleet.infer("hangs", bad, x_mf_timeout_ms="1500", x_request_id="deadly")
            )
        )
        for _ in range(2)
    ]
    for thread in stuck:
        thread.start()
    for _ in range(50):
        assert fleet.infer("linear", request_of([ROW])).status == 200
    for thread in stuck:
        thread.join()
    assert [answer.status for answer in answers] == [504, 504]
    with ControlBlock.open(fleet.control_path()) as block:
        assert [(slot.version, slot.request_id) for slot in block.slots()] == [(17, "deadly")]
        assert block.snapshot().silent_for() < 2
    assert {record.status for record in fleet.records()} == {200, 504}


def test_a_hang_on_the_event_loop_shows_in_the_heartbeat(
    fleet: Any, bundles: Any, request_of: Any
) -> None:
    fleet.add(17, bundles.estimator("hangs", silly(9.0, do_hang)))
    fleet.write()
    fleet.start()
    fleet.until(lambda: fleet.snapshot().silent_for() < 1)
    client = fleet.client()
    client.request("POST", "/v2/models/hangs/infer", request_of([[9.0, 0, 0, 0]]))
    fleet.until(lambda: fleet.snapshot().silent_for() > 1)
    client.close()


def test_a_request_that_kills_a_worker_does_not_kill_the_next(
    fleet: Any, bundles: Any, request_of: Any
) -> None:
    fleet.add(17, bundles.python("exits", silly(9.0, do_exit)))
    fleet.write()
    fleet.start(0)
    fleet.start(1)
    bad = request_of([[9.0, 0, 0, 0]])
    with pytest.raises(OSError):
        fleet.infer("exits", bad, replica=0, x_request_id="deadly")
    first = fleet.infer("exits", request_of([ROW]), 1, x_request_id="o", x_envoy_attempt_count="2")
    assert first.status == 200
    again = fleet.infer("exits", bad, 1, x_request_id="deadly", x_envoy_attempt_count="2")
    assert again.status == 500
    assert "stopped the worker that ran it before" in again.error
    assert fleet.processes[1].poll() is None


def test_a_model_that_eats_memory_gets_an_error(fleet: Any, bundles: Any, request_of: Any) -> None:
    fleet.add(17, bundles.python("eats", silly(9.0, do_eat)))
    fleet.write(memory_mb=1024)
    fleet.start()
    answer = fleet.infer("eats", request_of([[9.0, 0, 0, 0]]))
    assert answer.status == 500
    assert "MemoryError" in answer.error
    assert fleet.infer("eats", request_of([ROW])).status == 200


def test_kill_9_leaves_readable_segments(fleet: Any, bundles: Any, request_of: Any) -> None:
    fleet.add(17, bundles.linear_onnx())
    fleet.write()
    fleet.start()
    client, seen = fleet.client(), []
    body = request_of([ROW])
    for _ in range(300):
        answer = client.ask("POST", "/v2/models/linear/infer", body)
        seen.append(answer.headers["x-mf-prediction-id"])
    client.request("POST", "/v2/models/linear/infer", body)
    fleet.processes[0].kill()
    fleet.processes[0].wait()
    client.close()
    recorded = [format_id(record.prediction_id) for record in fleet.records()]
    assert recorded[:300] == seen
    assert len(recorded) <= 301


def test_sigterm_answers_what_is_in_and_ends(fleet: Any, bundles: Any, request_of: Any) -> None:
    fleet.add(17, bundles.python("slow", silly(9.0, lambda: time.sleep(1.0))))
    fleet.write()
    fleet.start()
    idle, busy = fleet.client(), fleet.client()
    assert idle.ask("GET", "/v2/health/live").status == 200
    busy.request("POST", "/v2/models/slow/infer", request_of([[9.0, 0, 0, 0]]))
    fleet.until(lambda: fleet.snapshot().running == 1)
    fleet.processes[0].send_signal(signal.SIGTERM)
    fleet.until(lambda: fleet.snapshot().state == State.DRAINING)
    ready = idle.ask("GET", "/v2/health/ready")
    assert (ready.status, ready.headers["connection"]) == (503, "close")
    response = busy.getresponse()
    assert (response.status, response.headers["connection"]) == (200, "close")
    response.read()
    assert fleet.processes[0].wait(timeout=10) == 0
    assert [record.status for record in fleet.records()] == [200]
    idle.close()
    busy.close()


def test_a_busy_model_answers_in_batches(fleet: Any, bundles: Any, request_of: Any) -> None:
    def predict(inputs: Any) -> Any:
        time.sleep(0.1)
        return {"y": inputs["x"].sum(axis=1)}

    fleet.add(17, bundles.python("slow", predict))
    fleet.write()
    fleet.start()
    found: dict[int, Any] = {}

    def ask(k: int) -> None:
        found[k] = fleet.infer("slow", request_of([[float(k), 0, 0, 0]]))

    begun = time.monotonic()
    threads = [threading.Thread(target=ask, args=(k,)) for k in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {k: answer.output("y") for k, answer in found.items()} == {
        k: [float(k)] for k in range(20)
    }
    assert time.monotonic() - begun < 1.5  # one by one it takes two seconds


def test_what_cannot_be_in_time_is_shed(fleet: Any, bundles: Any, request_of: Any) -> None:
    fleet.add(17, bundles.python("slow", silly(9.0, lambda: time.sleep(1.0))))
    fleet.write()
    fleet.start()
    busy = fleet.client()
    busy.request("POST", "/v2/models/slow/infer", request_of([[9.0, 0, 0, 0]]))
    fleet.until(lambda: fleet.snapshot().running == 1)
    for _ in range(2):  # teaches the lane nothing yet: the run has not ended
        fleet.infer("slow", request_of([ROW]), x_mf_timeout_ms="600")
    assert busy.getresponse().status == 200
    busy.close()
    busy = fleet.client()
    busy.request("POST", "/v2/models/slow/infer", request_of([[9.0, 0, 0, 0]]))
    fleet.until(lambda: fleet.snapshot().running == 1)
    shed = fleet.infer("slow", request_of([ROW]), x_mf_timeout_ms="1")
    assert (shed.status, shed.headers["retry-after"]) == (429, "1")
    assert "before the deadline" in shed.error
    busy.close()


def test_the_log_goes_on_without_a_reader(
    fleet: Any, bundles: Any, request_of: Any, tmp_path: Path
) -> None:
    """The agent's end of the pipes is gone: the worker still follows and serves."""
    fleet.add(17, bundles.linear_onnx())
    fleet.write()
    fleet.start()
    fleet.processes[0].stdout.close()
    fleet.add(18, bundles.linear_onnx("second"))
    fleet.acknowledged(fleet.write())
    assert fleet.infer("second", request_of([ROW])).status == 200
