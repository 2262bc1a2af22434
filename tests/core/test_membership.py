"""Control planes of one database: who leads, what becomes of the dead, who may still write."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import sqlalchemy as sa

from modelfleet.core import membership as module
from modelfleet.core.database import Database, fenced
from modelfleet.core.errors import Conflict, Unavailable
from modelfleet.core.jobs import Handler, LocalJobRunner, job
from modelfleet.core.membership import Membership, member, members

Joined = Callable[..., Membership]


@pytest.fixture
def database_kind() -> str:
    """On SQLite there is only one."""
    return "postgres"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)


@pytest.fixture
def joined(database: Database) -> Iterator[Joined]:
    made: list[Membership] = []

    def join(fleet: str = "f", beating: bool = True, locks: Path | None = None) -> Membership:
        made.append(Membership(database, fleet, locks))
        if beating:
            made[-1].start()
        else:
            made[-1]._join()
        return made[-1]

    yield join
    for one in made:
        one.stop()


def until(what: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_oldest_leads_and_the_next_follows(database: Database, joined: Joined) -> None:
    first, second, third = joined(), joined(), joined()
    assert [one.leads for one in (first, second, third)] == [True, False, False]
    assert [found for found, _ in members(database)] == [first.id, second.id, third.id]
    first.stop()
    until(lambda: second.leads)
    assert not third.leads
    assert not first.leads


def test_one_that_falls_silent_is_replaced_and_may_not_write(
    database: Database, joined: Joined
) -> None:
    silent = joined(beating=False)
    assert silent.leads
    second = joined()
    until(lambda: second.leads)
    assert not silent.leads
    silent._until = time.monotonic() + 60  # it does not know yet
    silent._leads = True
    with (
        pytest.raises(Unavailable, match="Another control plane leads"),
        fenced(silent.check_lead),
        database.begin() as connection,
    ):
        connection.execute(sa.delete(member))
    assert [found for found, _ in members(database)] == [second.id]
    with fenced(second.check_lead), database.begin():
        pass
    before = silent.id
    silent.beat()  # it wakes up, and joins behind the other
    assert silent.id != before
    assert not silent.leads
    assert second.leads


def test_after_an_outage_nobody_is_buried_alive(database: Database, joined: Joined) -> None:
    first = joined(beating=False)
    second = joined(beating=False)
    time.sleep(0.7)  # both are late: the database was away
    second._since = None
    second.beat()
    assert len(members(database)) == 2
    first.beat()
    assert first.leads
    assert [found for found, _ in members(database)] == [first.id, second.id]


def test_who_lost_its_lock_is_dead_at_once(
    database: Database, joined: Joined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 60.0)
    first = joined(beating=False, locks=tmp_path / "locks")
    second = joined(locks=tmp_path / "locks")
    time.sleep(0.5)
    assert [found for found, _ in members(database)] == [first.id, second.id]
    assert first._held is not None
    os.close(first._held)  # as the kernel does
    first._held = None
    until(lambda: second.leads)
    assert [path.stem for path in (tmp_path / "locks").iterdir()] == [second.id]
    second.stop()
    assert list((tmp_path / "locks").iterdir()) == []


def test_another_home_is_refused(database: Database, joined: Joined) -> None:
    joined("one")
    with pytest.raises(Conflict, match="another home"):
        joined("two")
    assert len(members(database)) == 1


def test_a_home_that_is_gone_makes_room(database: Database, joined: Joined) -> None:
    joined("one", beating=False)
    time.sleep(0.7)
    assert joined("two").leads


def test_jobs_of_the_dead_are_run_by_the_living_and_its_writes_fail(
    database: Database, joined: Joined
) -> None:
    begun, hold, outcome = threading.Event(), threading.Event(), []

    def slow(arguments: Mapping[str, object]) -> None:
        begun.set()
        hold.wait(20)
        try:
            with database.begin() as connection:
                connection.execute(sa.update(job).values(error="written by the dead"))
        except Unavailable as error:
            outcome.append(error.message)
            raise

    done: list[object] = []
    given_up: list[object] = []
    dead = joined(beating=False)
    first = LocalJobRunner(
        database, {"w": Handler(slow, lambda *_: given_up.append(1))}, membership=dead
    )
    first.MAX_ATTEMPTS = 1
    with database.begin() as connection:
        first.enqueue(connection, "w", "a", {"n": 1})
    second = LocalJobRunner(
        database, {"w": Handler(done.append, lambda *_: None)}, membership=joined()
    )
    first.start()
    try:
        assert begun.wait(10)
        second.start()
        until(lambda: done)
        until(lambda: (found := second.status("a")) is not None and found.status == "succeeded")
    finally:
        hold.set()
        first.stop()
        second.stop()
    found = second.status("a")
    assert outcome == ["The job a is another control plane's by now."]
    assert given_up == []
    assert found is not None
    assert (found.status, found.attempts, found.error) == ("succeeded", 2, "")


def test_a_job_is_run_once_by_two_runners(database: Database, joined: Joined) -> None:
    done: list[object] = []

    def work(arguments: Mapping[str, object]) -> None:
        done.append(arguments["n"])

    handlers = {"w": Handler(work, lambda *_: None)}
    runners = [LocalJobRunner(database, handlers, membership=joined()) for _ in range(2)]
    with database.begin() as connection:
        for n in range(30):
            runners[0].enqueue(connection, "w", str(n), {"n": n})
    for one in runners:
        one.start()
    until(lambda: len(done) >= 30)
    for one in runners:
        one.stop()
    assert sorted(done) == list(range(30))  # type: ignore[type-var]


def test_locks_of_the_dead_are_swept(database: Database, joined: Joined, tmp_path: Path) -> None:
    first = joined(beating=False, locks=tmp_path / "locks")
    time.sleep(0.7)  # it holds its lock, and hangs
    second = joined(locks=tmp_path / "locks")
    assert second.leads
    assert [path.stem for path in (tmp_path / "locks").iterdir()] == [second.id]
    first.beat()
    assert sorted(path.stem for path in (tmp_path / "locks").iterdir()) == sorted(
        [first.id, second.id]
    )
