"""Jobs as rows: they outlive whoever runs them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import sqlalchemy as sa

from modelfleet.core.database import Database
from modelfleet.core.jobs import Handler, LocalJobRunner, job

Started = Callable[..., LocalJobRunner]


class Work:
    """A handler that notes its calls, and fails while `failures` are left."""

    def __init__(self, failures: int = 0, hold: threading.Event | None = None) -> None:
        self.failures = failures
        self.hold = hold
        self.done: list[object] = []
        self.given_up: list[tuple[object, str]] = []
        self.begun = threading.Event()

    def run(self, arguments: Mapping[str, object]) -> None:
        self.begun.set()
        if self.hold is not None:
            self.hold.wait(10)
        if self.failures:
            self.failures -= 1
            raise ValueError("not today")
        self.done.append(arguments["n"])

    def give_up(self, arguments: Mapping[str, object], reason: str) -> None:
        self.given_up.append((arguments["n"], reason))

    @property
    def handlers(self) -> dict[str, Handler]:
        return {"work": Handler(self.run, self.give_up)}


@pytest.fixture
def started(database: Database) -> Iterator[Started]:
    made: list[LocalJobRunner] = []

    def start(handlers: Mapping[str, Handler], threads: int = 2) -> LocalJobRunner:
        made.append(LocalJobRunner(database, handlers, threads))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.stop()


def enqueue(database: Database, runner: LocalJobRunner, key: str, kind: str = "work") -> None:
    with database.begin() as connection:
        runner.enqueue(connection, kind, key, {"n": key})


def wait(runner: LocalJobRunner, key: str, status: str) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        found = runner.status(key)
        if found is not None and found.status == status:
            return
        time.sleep(0.01)
    raise AssertionError(f"{key} is {runner.status(key)}, not {status}")


def test_a_key_is_queued_once_and_run_once(database: Database, started: Started) -> None:
    work = Work()
    runner = started(work.handlers)
    enqueue(database, runner, "a")
    wait(runner, "a", "succeeded")
    enqueue(database, runner, "a")
    enqueue(database, runner, "b")
    wait(runner, "b", "succeeded")
    assert work.done == ["a", "b"]
    assert runner.status("c") is None


def test_a_job_of_an_undone_transaction_never_was(database: Database) -> None:
    runner = LocalJobRunner(database, {})
    with contextlib.suppress(RuntimeError), database.begin() as connection:
        runner.enqueue(connection, "work", "a", {})
        raise RuntimeError
    assert runner.status("a") is None


def test_what_ran_when_the_process_died_runs_again(database: Database, started: Started) -> None:
    work = Work()
    enqueue(database, LocalJobRunner(database, {}), "a")
    with database.begin() as connection:  # as a killed process leaves it
        connection.execute(sa.update(job).values(status="running", attempts=1))
    runner = started(work.handlers)
    wait(runner, "a", "succeeded")
    found = runner.status("a")
    assert found is not None
    assert found.attempts == 2


def test_failures_are_tried_again_until_it_works(database: Database, started: Started) -> None:
    work = Work(failures=2)
    runner = started(work.handlers)
    enqueue(database, runner, "a")
    wait(runner, "a", "succeeded")
    found = runner.status("a")
    assert found is not None
    assert found.attempts == 3
    assert work.given_up == []


def test_after_three_failures_it_is_given_up(database: Database, started: Started) -> None:
    work = Work(failures=99)
    runner = started(work.handlers)
    enqueue(database, runner, "a")
    wait(runner, "a", "failed")
    assert work.failures == 96
    assert work.given_up == [("a", "ValueError: not today")]
    found = runner.status("a")
    assert found is not None
    assert found.error == "ValueError: not today"


def test_an_unknown_kind_and_a_failing_give_up_end_too(
    database: Database, started: Started
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("twice")

    runner = started({"bad": Handler(fail, fail)})
    enqueue(database, runner, "a", "unheard-of")
    enqueue(database, runner, "b", "bad")
    wait(runner, "a", "failed")
    wait(runner, "b", "failed")


def test_only_what_has_not_begun_can_be_cancelled(database: Database, started: Started) -> None:
    hold = threading.Event()
    work = Work(hold=hold)
    runner = started(work.handlers, threads=1)
    enqueue(database, runner, "a")
    assert work.begun.wait(10)
    enqueue(database, runner, "b")
    assert not runner.cancel("a")
    assert runner.cancel("b")
    assert not runner.cancel("b")
    hold.set()
    wait(runner, "a", "succeeded")
    assert work.done == ["a"]
    found = runner.status("b")
    assert found is not None
    assert found.status == "cancelled"


def test_a_job_begins_when_it_is_committed(database: Database, started: Started) -> None:
    work = Work()
    runner = started(work.handlers)
    waited = []
    for number in range(5):
        work.begun.clear()
        with database.begin() as connection:
            runner.enqueue(connection, "work", f"{number}", {"n": number})
            time.sleep(0.05)  # whoever looks now sees nothing yet, and would wait for half a second
        began = time.monotonic()
        assert work.begun.wait(10)
        waited.append(time.monotonic() - began)
    assert min(waited) < 0.3
