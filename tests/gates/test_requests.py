"""Requests of gates: queued once, cached by inputs, kept through crashes, on both stores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from modelfleet.core.audit import audit_event
from modelfleet.core.authorization import Principal, Role
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from modelfleet.core.ids import digest
from modelfleet.core.jobs import Handler, LocalJobRunner, job
from modelfleet.fleetfile.gates import Gate
from modelfleet.gates import kinds, list_runs, store
from modelfleet.gates.kinds.base import Case, Kind
from modelfleet.gates.requests import verdict_of
from modelfleet.gates.running import RUN_GATE
from modelfleet.gates.service import GateService
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.registry import Version
from modelfleet.registry.garbage import GarbageService
from modelfleet.wiring import Fleet
from people import ADMIN
from registrar import Registrar

CSV = b"a,target\n1,0\n2,1\n"


class Checks:
    """What each kind answers in this test; how often each was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.verdict = Verdict.PASS
        self.before: Callable[[], None] = lambda: None

    def find(self, name: str) -> Kind:
        real = _FIND(name)

        def check(spec: Gate, case: Case) -> GateRun:
            self.asked.append(name)
            case.say("looking", 1, 2)
            self.before()
            return GateRun(name, self.verdict, f"{name} says {self.verdict.value}.", {})

        return Kind(name, real.spec, check, real.uses, real.version)


_FIND = kinds.find


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch, fleet: Fleet) -> Checks:
    made = Checks()
    monkeypatch.setattr(kinds, "find", made.find)
    return made


@pytest.fixture
def version(registrar: Registrar) -> Version:
    registrar.model()
    return registrar.ready()


def waiting(fleet: Fleet) -> list[Mapping[str, Any]]:
    with fleet.database.read() as connection:
        rows = connection.execute(sa.select(job.c.arguments).where(job.c.kind == RUN_GATE))
        return [row.arguments for row in rows]


def run_all(fleet: Fleet) -> None:
    for arguments in waiting(fleet):
        fleet.gates.run(arguments)


def test_asked_run_and_kept(fleet: Fleet, version: Version, checks: Checks) -> None:
    made = fleet.gates.request(ADMIN, "churn", "latest", ["infrastructure", "security"])
    found = fleet.gates.get(ADMIN, made)
    assert [(one.gate, one.state, one.blocking) for one in found.gates] == [
        ("infrastructure", "queued", True),
        ("security", "queued", False),
    ]
    assert (found.verdict, found.ended, found.champion) == ("running", False, None)
    run_all(fleet)
    found = fleet.gates.get(ADMIN, made)
    assert (found.verdict, found.ended) == ("pass", True)
    [first, _] = [one.run for one in found.gates if one.run]
    assert (first.sentence, first.kind) == ("infrastructure says pass.", "infrastructure")
    assert {run.gate for run in list_runs(fleet.database, version.id)} == {
        "infrastructure",
        "security",
    }
    with fleet.database.read() as connection:
        actions = connection.execute(sa.select(audit_event.c.action)).scalars().all()
    assert actions.count("run-gate") == 2
    assert "request-gates" in actions


def test_what_is_known_is_not_run_again(fleet: Fleet, version: Version, checks: Checks) -> None:
    first = fleet.gates.request(ADMIN, "churn", "latest", ["infrastructure"])
    fleet.gates.request(ADMIN, "churn", "latest", ["infrastructure"])  # still queued: one job
    assert len(waiting(fleet)) == 1
    run_all(fleet)
    later = fleet.gates.request(ADMIN, "churn", "latest", ["infrastructure"])
    [gate] = fleet.gates.get(ADMIN, later).gates
    assert (gate.reused, gate.state) == (True, "done")
    assert len(waiting(fleet)) == 1
    again = fleet.gates.request(ADMIN, "churn", "latest", ["infrastructure"], again=True)
    assert len(waiting(fleet)) == 2
    other = {"infrastructure": {"memory": "500Mi"}}
    fleet.gates.request(ADMIN, "churn", "latest", [other])
    assert len(waiting(fleet)) == 3
    free = {"infrastructure": {"blocking": False}}  # whether it blocks changes no verdict
    fleet.gates.request(ADMIN, "churn", "latest", [free])
    assert len(waiting(fleet)) == 3
    run_all(fleet)
    assert fleet.gates.get(ADMIN, again).verdict == "pass"
    assert fleet.gates.get(ADMIN, first).verdict == "pass"


def test_what_was_not_decided_is_tried_again(
    fleet: Fleet, version: Version, checks: Checks
) -> None:
    checks.verdict = Verdict.INCONCLUSIVE
    first = fleet.gates.request(ADMIN, "churn", "latest", ["infrastructure"])
    run_all(fleet)
    checks.verdict = Verdict.FAIL
    second = fleet.gates.request(ADMIN, "churn", "latest", ["infrastructure"])
    run_all(fleet)
    assert fleet.gates.get(ADMIN, first).verdict == "inconclusive"
    assert fleet.gates.get(ADMIN, second).verdict == "fail"


def test_a_job_that_runs_twice_writes_once(fleet: Fleet, version: Version, checks: Checks) -> None:
    fleet.gates.request(ADMIN, "churn", "latest", ["infrastructure"])
    [arguments] = waiting(fleet)
    fleet.gates.run(arguments)
    checks.verdict = Verdict.FAIL
    fleet.gates.run(arguments)  # the verdict was written, the end of the job was not
    assert checks.asked == ["infrastructure"]
    assert [run.verdict for run in list_runs(fleet.database, version.id)] == [Verdict.PASS]


def test_a_job_that_fails_for_good_decides_nothing(
    fleet: Fleet, version: Version, checks: Checks
) -> None:
    made = fleet.gates.request(ADMIN, "churn", "latest", ["infrastructure"])
    [arguments] = waiting(fleet)
    fleet.gates.give_up(arguments, "OSError: the disk is full")
    [gate] = fleet.gates.get(ADMIN, made).gates
    assert gate.run is not None
    assert gate.run.verdict is Verdict.INCONCLUSIVE
    assert "the disk is full" in gate.run.sentence


def test_what_can_not_be_asked(fleet: Fleet, registrar: Registrar, version: Version) -> None:
    ask = fleet.gates.request
    with pytest.raises(InvalidInput, match="it is the same as 'signature'"):
        ask(ADMIN, "churn", "latest", ["signature", "signature"])
    quality = {"quality": {"dataset": "none@1", "metric": "accuracy", "minimum": 0.5}}
    with pytest.raises(NotFound, match="no data set none@1"):
        ask(ADMIN, "churn", "latest", [quality])
    with pytest.raises(NotFound, match="no version 9"):
        ask(ADMIN, "churn", "latest", ["signature"], "9.0.0")
    with pytest.raises(InvalidInput, match="its own champion"):
        ask(ADMIN, "churn", "latest", ["signature"], version.version)
    registrar.version()
    with pytest.raises(Conflict, match="is pending"):
        ask(ADMIN, "churn", "latest", ["signature"])
    with pytest.raises(InvalidInput, match="At most 50"):
        ask(ADMIN, "churn", version.version, ["signature"] * 51)
    with pytest.raises(NotFound):
        fleet.gates.get(ADMIN, "nothing")
    assert waiting(fleet) == []


def test_who_may(fleet: Fleet, version: Version, people: Callable[[Role, str], Principal]) -> None:
    viewer, other = people(Role.VIEWER, "growth"), people(Role.DATA_SCIENTIST, "risk")
    for one in (viewer, other):
        with pytest.raises(NotAllowed):
            fleet.gates.request(one, "churn", "latest", ["signature"])
    scientist = people(Role.DATA_SCIENTIST, "growth")
    made = fleet.gates.request(scientist, "churn", "latest", ["signature"])
    assert fleet.gates.get(viewer, made).requested_by == scientist.name
    with pytest.raises(NotAllowed):
        fleet.gates.get(other, made)


def test_in_the_callers_transaction(fleet: Fleet, version: Version, checks: Checks) -> None:
    with pytest.raises(ZeroDivisionError), fleet.database.begin() as connection:
        fleet.gates.request_in(connection, ADMIN, "churn", "latest", ["infrastructure"])
        raise ZeroDivisionError
    assert waiting(fleet) == []
    with fleet.database.begin() as connection:
        made = fleet.gates.request_in(connection, ADMIN, "churn", "latest", ["infrastructure"])
    run_all(fleet)
    with fleet.database.read() as connection:
        found = fleet.gates.state(connection, made)
    assert {name: run and run.verdict for name, run in found.items()} == {
        "infrastructure": Verdict.PASS
    }


class Said:
    """Approvals by a word."""

    def __init__(self) -> None:
        self.word = "waiting"
        self.seen: list[Any] = []
        self.asked: list[Any] = []

    def ask(self, connection: Any, actor: Any, *asked: Any, **more: Any) -> str:
        self.asked.append((*asked, more))
        return "a1"

    def standing(self, connection: Any, *asked: Any) -> tuple[str, str]:
        self.seen.append(asked)
        return self.word, f"It is {self.word}."


def test_approvals_are_read_and_bind_the_evidence(
    fleet: Fleet, version: Version, checks: Checks
) -> None:
    said = Said()
    fleet.gates.approvals = said
    gates = ["infrastructure", {"approval": {"role": "deployer", "quorum": 2}}]
    made = fleet.gates.request(ADMIN, "churn", "latest", gates)
    assert len(waiting(fleet)) == 1
    before = fleet.gates.get(ADMIN, made)
    assert [one.state for one in before.gates] == ["queued", "waiting"]
    assert said.asked == []  # nobody is asked before there is something to see
    run_all(fleet)
    [(about, digests, more)] = said.asked
    assert (about, more["role"], more["quorum"]) == (f"gate/{made}/approval", "deployer", 2)
    assert more["team"] == "growth"
    fleet.gates.get(ADMIN, made)
    (subject, first, role, quorum, not_by), (_, second, *_) = said.seen
    assert subject == f"gate/{made}/approval"
    assert (role, quorum, not_by) == ("deployer", 2, [ADMIN.name, version.created_by])
    assert first["bundle"] == second["bundle"] == version.bundle_digest
    assert first["evidence"] != second["evidence"]
    assert digests == second
    for word, verdict in (("approved", "pass"), ("rejected", "fail"), ("expired", "inconclusive")):
        said.word = word
        assert fleet.gates.get(ADMIN, made).verdict == verdict


def test_people_are_not_asked_about_what_failed(
    fleet: Fleet, version: Version, checks: Checks
) -> None:
    said = Said()
    fleet.gates.approvals = said
    checks.verdict = Verdict.FAIL
    fleet.gates.request(ADMIN, "churn", "latest", ["infrastructure", "approval"])
    run_all(fleet)
    assert said.asked == []
    fleet.gates.request(ADMIN, "churn", "latest", ["approval"])  # nothing else to wait for
    assert len(said.asked) == 1


def test_verdicts_of_several() -> None:
    def of(*found: str | None) -> str:
        runs = [None if one is None else GateRun("g", Verdict(one), "", {}) for one in found]
        return verdict_of([(True, run) for run in runs] + [(False, None)])

    assert of() == "pass"
    assert of("pass", "warn") == "warn"
    assert of("warn", "inconclusive") == "inconclusive"
    assert of("inconclusive", None) == "running"
    assert of(None, "fail") == "fail"


def test_uploads_of_gates_are_kept(fleet: Fleet, version: Version) -> None:
    sha256, _ = fleet.blobs.put([b"print(1)"])
    lost, _ = fleet.blobs.put([b"nobody names me"])
    data, _ = fleet.blobs.put([CSV])
    fleet.gates.request(ADMIN, "churn", "latest", [{"run": {"uses": f"a.py@sha256:{sha256}"}}])
    fleet.datasets.push(ADMIN, "eval", data, "csv", team="growth")
    garbage: GarbageService = fleet.garbage
    garbage.collect(ADMIN, grace_seconds=-1.0)
    garbage.collect(ADMIN, grace_seconds=-1.0)
    assert fleet.blobs.has(sha256)
    assert fleet.blobs.has(data)
    assert not fleet.blobs.has(lost)


def test_latest_data_are_settled_when_asked(fleet: Fleet, version: Version) -> None:
    data, _ = fleet.blobs.put([CSV])
    fleet.datasets.push(ADMIN, "eval", data, "csv", team="growth")
    told = {"quality": {"dataset": "eval@latest", "metric": "accuracy", "minimum": 0.5}}
    made = fleet.gates.request(ADMIN, "churn", "latest", [told])
    [gate] = fleet.gates.get(ADMIN, made).gates
    assert gate.spec["dataset"] == "eval@1"
    more, _ = fleet.blobs.put([CSV + b"3,0\n"])
    fleet.datasets.push(ADMIN, "eval", more, "csv")
    fleet.gates.request(ADMIN, "churn", "latest", [told])
    assert len({one["wanted"]["input_digest"] for one in waiting(fleet)}) == 2


def test_a_fleet_of_gates_leaves_a_thread_for_others(fleet: Fleet) -> None:
    """Three threads, gates one at a time: another job runs while gates wait and hang."""
    held, busy, other = threading.Event(), threading.Event(), threading.Event()
    running: list[int] = []

    def gate(_: Mapping[str, object]) -> None:
        running.append(1)
        busy.set()
        held.wait(20)
        running.pop()

    handlers = {
        RUN_GATE: Handler(gate, lambda *_: None, at_once=1),
        "other": Handler(lambda _: other.set(), lambda *_: None),
    }
    runner = LocalJobRunner(fleet.database, handlers)
    with fleet.database.begin() as connection:
        for number in range(8):
            runner.enqueue(connection, RUN_GATE, f"gate/{number}", {})
        runner.enqueue(connection, "other", "other/1", {})
    runner.start()
    try:
        assert busy.wait(10)
        assert other.wait(10)
        assert len(running) == 1
        held.set()
        for number in range(8):
            for _ in range(200):
                found = runner.status(f"gate/{number}")
                if found is not None and found.status == "succeeded":
                    break
                threading.Event().wait(0.05)
            assert found is not None
            assert found.status == "succeeded"
    finally:
        held.set()
        runner.stop()


def test_digests_tell_versions_apart(fleet: Fleet, registrar: Registrar, version: Version) -> None:
    other = registrar.ready()
    one = fleet.gates.request(ADMIN, "churn", version.version, ["infrastructure"])
    two = fleet.gates.request(ADMIN, "churn", other.version, ["infrastructure"])
    with fleet.database.read() as connection:
        found = [store.find_request(connection, made) for made in (one, two)]
    digests = {request.gates[0].input_digest for request in found if request}
    assert len(digests) == 2
    assert digest(b"") not in digests
    assert isinstance(fleet.gates, GateService)
