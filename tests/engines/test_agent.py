"""The host agent, with processes and workers that do nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_support import HOST, Home, wait_until

from modelfleet.core.errors import NotFound
from modelfleet.engines.local import down
from modelfleet.engines.local.processes import start_time

pytestmark = pytest.mark.e2e


def test_a_pool_is_placed_scaled_and_drained(home: Home) -> None:
    home.up()
    home.place(replicas=2)
    wait_until(lambda: home.ready(2), "two workers")
    before = home.pids()
    home.engine.scale("p", 3)
    wait_until(lambda: home.ready(3), "three workers")
    assert home.pids()[:2] == before
    home.engine.scale("p", 1)
    wait_until(lambda: home.ready(1), "one worker")
    assert home.pids() == before[:1]
    home.engine.drain("p")
    wait_until(lambda: not home.observed().pools, "the pool's end")
    assert {record.name for record in home.alive()} == {"sleeper", "orphan", "late"}
    with pytest.raises(NotFound):
        home.engine.scale("p", 1)


def test_the_killed_come_back(home: Home) -> None:
    home.up()
    home.place()
    wait_until(home.ready, "workers")
    victim = home.replicas()[1]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(lambda: home.ready() and home.pids()[1] != victim.pid, "the worker", 2.0)
    after = home.replicas()[1]
    assert (after.restarts, after.last_exit) == (1, "killed by SIGKILL")
    assert after.incarnation > victim.incarnation
    for name in ("sleeper", "orphan"):
        pid = home.process(name)
        os.kill(pid, signal.SIGKILL)
        took = wait_until(lambda n=name, p=pid: home.process(n) != p, name, 2.0)  # type: ignore[misc]
        assert took < 1.0
    assert home.observed().processes["sleeper"].restarts == 1


def test_a_crash_loop_backs_off_and_says_why(home: Home) -> None:
    home.behave("crash")
    home.up()
    home.place(replicas=1)
    wait_until(lambda: home.replicas() and home.replicas()[0].state == "backing-off", "back-off")
    found = home.replicas()[0]
    assert found.restarts >= 3
    assert found.last_exit == "exit code 1: this model can't be loaded"
    home.behave("ok")
    wait_until(lambda: home.ready(1), "recovery")


def test_the_silent_are_replaced(home: Home) -> None:
    home.behave("silent")
    home.up()
    home.place(replicas=1)
    wait_until(lambda: home.ready(1), "a worker")
    home.behave("ok")
    took = wait_until(lambda: home.replicas()[0].restarts == 1, "the kill", 5.0)
    assert took > 1.5
    assert home.replicas()[0].last_exit.startswith("no heartbeat for 3.")


def test_a_stopped_worker_is_replaced(home: Home) -> None:
    home.up()
    home.place(replicas=1)
    wait_until(lambda: home.ready(1), "a worker")
    pid = home.pids()[0]
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: home.ready(1) and home.pids() != [pid], "another worker", 6.0)


def test_who_eats_memory_is_replaced(home: Home) -> None:
    home.behave("eat:300")
    home.up()
    home.place(replicas=1, memory_mb=200)
    wait_until(lambda: home.replicas() and home.replicas()[0].restarts, "the kill", 5.0)
    assert home.replicas()[0].last_exit.startswith("memory: ")
    assert home.replicas()[0].last_exit.endswith(" MB, 200 MB are allowed")


def test_changes_replace_workers_one_at_a_time(home: Home) -> None:
    home.up()
    home.place()
    wait_until(home.ready, "workers")
    before = home.pids()
    home.place(python="b")
    most_down = 0

    def all_new() -> bool:
        nonlocal most_down
        found = home.replicas()
        most_down = max(most_down, sum(r.state != "ready" for r in found))
        return home.ready() and not set(before) & set(home.pids())

    wait_until(all_new, "new workers")
    assert most_down == 1
    assert {replica.last_exit for replica in home.replicas()} == {"replaced by its new form"}
    assert {replica.restarts for replica in home.replicas()} == {0}


def test_a_broken_file_changes_nothing(home: Home) -> None:
    home.up()
    home.place()
    wait_until(home.ready, "workers")
    before = home.pids()
    home.engine.place("p", b'{"pool": "other", "python": "x"}')
    wait_until(lambda: home.observed().pools["p"].error, "the complaint")
    home.engine.place("p", b"{")
    wait_until(lambda: "truncated" in home.observed().pools["p"].error, "the complaint")
    assert home.pids() == before
    home.place()
    wait_until(lambda: not home.observed().pools["p"].error, "the cure")
    assert home.pids() == before


def test_a_killed_agent_comes_back_and_takes_over(home: Home) -> None:
    home.up()
    home.place()
    wait_until(home.ready, "workers")
    workers, sleeper = home.pids(), home.process("sleeper")
    orphan, agent = home.process("orphan"), home.agent_pid()
    os.kill(agent, signal.SIGKILL)
    took = wait_until(lambda: (a := home.agent()) and a.pid != agent, "a new agent", 3.0)
    assert took < 3.0
    # What died while nobody watched is found dead.
    victim = workers[0]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: home.pids()[0] != victim and home.ready(), "the worker")
    assert home.pids()[1] == workers[1]
    assert home.process("sleeper") == sleeper
    assert home.process("orphan") == orphan, "a detached process survives the agent"


def test_a_fresh_agent_of_the_same_pid_disturbs_nothing(home: Home) -> None:
    home.up()
    home.place()
    wait_until(home.ready, "workers")
    before = {record.name: record.pid for record in home.alive()}
    agent = home.agent()
    assert agent is not None
    agent.signal(signal.SIGHUP)
    wait_until(lambda: (a := home.agent()) and a.incarnation != agent.incarnation, "a fresh agent")
    assert home.agent_pid() == agent.pid
    home.engine.scale("p", 3)
    wait_until(lambda: home.ready(3), "a third worker")
    after = {record.name: record.pid for record in home.alive()}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_end_leaves_no_process(home: Home, number: signal.Signals) -> None:
    home.up()
    home.place()
    wait_until(home.ready, "workers")
    started = home.alive()
    assert len(started) == 5
    home.end(number)
    assert [record.name for record in started if start_time(record.pid) == record.start] == []
    assert home.agent() is None
    assert (home.path / "late").exists(), "stopped in order, not killed"


def test_a_stubborn_worker_is_killed(home: Home) -> None:
    home.behave("stubborn")
    home.up()
    home.place(replicas=1)
    wait_until(lambda: home.ready(1), "a worker")
    home.end()
    assert home.alive() == []


def test_without_its_keeper_the_agent_serves_on_until_it_is_told(home: Home) -> None:
    home.up()
    home.place()
    wait_until(home.ready, "workers")
    workers = home.pids()
    orphan = home.process("orphan")
    assert home.keeper is not None
    home.keeper.kill()
    home.keeper.wait()
    wait_until(lambda: home.process("orphan") != orphan, "what died with the keeper", 3.0)
    wait_until(home.observed_ready, "everything")
    assert home.pids() == workers
    second = subprocess.run(
        [sys.executable, HOST, "keeper", str(home.path)], capture_output=True, check=False
    )
    assert b"already runs on this home" in second.stderr
    assert down(home.files)
    assert home.alive() == []
    assert home.agent() is None
    assert not down(home.files)


def test_leftovers_of_a_violent_end_are_taken_over(home: Home) -> None:
    home.up()
    home.place()
    wait_until(home.ready, "workers")
    workers = home.pids()
    assert home.keeper is not None
    home.keeper.kill()
    home.keeper.wait()
    os.kill(home.agent_pid(), signal.SIGKILL)
    wait_until(lambda: home.agent() is None, "the end of the agent")
    home.up()
    wait_until(home.ready, "workers")
    assert home.pids() == workers
    home.end()
    assert home.alive() == []


def test_a_pool_that_went_while_nobody_watched_is_ended(home: Home) -> None:
    home.up()
    home.place()
    wait_until(home.ready, "workers")
    assert home.keeper is not None
    home.keeper.kill()
    home.keeper.wait()
    os.kill(home.agent_pid(), signal.SIGKILL)
    wait_until(lambda: home.agent() is None, "the end of the agent")
    home.engine.drain("p")
    home.up()
    wait_until(lambda: {r.name for r in home.alive()} == {"sleeper", "orphan", "late"}, "its end")


def test_down_from_another_shell(home: Home) -> None:
    home.up()
    assert down(home.files)
    assert home.keeper is not None
    assert home.keeper.wait(timeout=10) == 0
    assert home.alive() == []


def test_two_homes_side_by_side(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path)
    try:
        home.up()
        other.up()
        for one in (home, other):
            one.place()
            wait_until(one.ready, "workers")
        assert not set(home.pids()) & set(other.pids())
        before = other.pids()
        assert down(home.files)
        assert other.ready()
        assert other.pids() == before
    finally:
        other.kill_everything()
