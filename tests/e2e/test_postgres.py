"""The platform on PostgreSQL: two control planes, one of them killed; the server gone and back."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from load import rows
from running import SETTINGS, Platform, eventually, say
from zoo import EXAMPLE, Heavy, Linear

from modelfleet.client import Client
from modelfleet.client.errors import ApiError
from modelfleet.core.database import Database
from modelfleet.core.jobs import job
from modelfleet.core.membership import members
from postgres_server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-postgres")]
NAME = "steady"
WRITERS = 100
TAKEOVER_SECONDS = 5.0
BROKEN = {
    "bundle.json": json.dumps(
        {
            "format": 1,
            "runtime": "python",
            "artifact": "model.pkl",
            "signature": {
                "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}],
                "outputs": [{"name": "score", "datatype": "FP64", "shape": [-1]}],
            },
        }
    ).encode()
}


@pytest.fixture(scope="module")
def durable() -> Iterator[Server]:
    made = Server(fsync="on", synchronous_commit="on")
    yield made
    made.end()


@pytest.fixture(scope="module")
def platform(durable: Server) -> Iterator[Platform]:
    url = durable.address(durable.create(name="fleet"))
    made = Platform(f'{SETTINGS}\n[database]\nurl = "{url}"\n')
    try:
        made.up()
        made.serve(NAME, Linear(), EXAMPLE, reference=EXAMPLE)
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def database(platform: Platform, durable: Server) -> Iterator[Database]:
    made = Database(durable.url("fleet"))
    yield made
    made.close()


@contextlib.contextmanager
def second_plane(platform: Platform) -> Iterator[Client]:
    """`modelfleet control`, and a client of it."""
    with (platform.home / "control.log").open("ab") as log:
        process = subprocess.Popen(
            [*platform.command, "control", "--home", str(platform.home)],
            stdout=subprocess.PIPE,
            stderr=log,
            env=platform.environment,
        )
    try:
        assert process.stdout is not None
        found = re.search(rb"http://[\d.:]+", process.stdout.readline())
        assert found is not None
        client = Client(found.group().decode(), home=platform.home, timeout=60)

        def answers() -> bool:
            assert process.poll() is None, (platform.home / "control.log").read_text()
            with contextlib.suppress(Exception):
                return client.model(NAME).name == NAME
            return False

        eventually(answers, 30)
        with client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_nothing_is_in_a_file(platform: Platform) -> None:
    assert not (platform.home / "fleet.db").exists()
    found = platform.run("doctor", "--json")
    report = json.loads(found.stdout)
    said = {one["check"]: one for one in report["findings"]}
    assert said["database"]["status"] == "ok", said["database"]
    assert said["audit"]["status"] == said["blobs"]["status"] == "ok"


def test_a_hundred_writers_at_two_control_planes(platform: Platform, database: Database) -> None:
    with second_plane(platform) as second:
        eventually(lambda: len(members(database)) == 2)
        planes = [platform.client, second]
        for name in ("busy", "tagged"):
            second.create_model(name, team="e2e")
        outcomes: Counter[str] = Counter()
        seconds: list[float] = []

        def write(number: int) -> str:
            with Client(planes[number % 2].api.url, home=platform.home, timeout=120) as client:
                began = time.monotonic()
                try:
                    what = _write(client, number)
                except ApiError as error:
                    what = str(error.status)
                seconds.append(time.monotonic() - began)
                return what

        with ThreadPoolExecutor(WRITERS) as threads:
            outcomes.update(threads.map(write, range(WRITERS)))
        say(f"{dict(outcomes)}; slowest write {max(seconds):.2f} s")
        # 25 names were made by two writers each; one of the two is told so.
        assert outcomes == {"version": 40, "model": 25, "409": 25, "key": 10}
        versions = second.versions("busy")
        assert sorted(one.sequence for one in versions) == list(range(1, 41))
        assert len({one.version for one in versions}) == 40
        assert len([one for one in platform.client.models(text="twice") if one]) == 25
    assert platform.run("audit", "verify").returncode == 0


def _write(client: Client, number: int) -> str:
    if number < 40:
        files = {**BROKEN, "model.pkl": f"no pickle {number}".encode()}
        client.register_files("busy", files, requirements=("numpy",), python="3.11")
        return "version"
    if number < 90:
        client.create_model(f"twice-{(number - 40) // 2}", team="e2e")
        return "model"
    client.api.post("/v1/keys", {"principal": "admin", "name": f"k{number}", "models": []})
    return "key"


def _settled(database: Database) -> bool:
    with database.read() as connection:
        active = sa.select(job.c.id).where(job.c.status.in_(("queued", "running")))
        return connection.execute(active).first() is None


def test_one_is_killed_in_the_middle_of_a_job(platform: Platform, database: Database) -> None:
    eventually(lambda: _settled(database), 120)
    with second_plane(platform) as second, platform.load(NAME, rows(3)) as load:
        (first_id, _), (second_id, _) = eventually(
            lambda: found if len(found := members(database)) == 2 else None
        )
        made = _registered_by(platform, database, first_id)
        before = platform.kill("control-plane")
        began = time.monotonic()
        eventually(lambda: members(database)[0][0] == second_id, TAKEOVER_SECONDS)
        took = time.monotonic() - began
        assert second.wait_until_ready("slow", made, 90).status == "ready"
        with database.read() as connection:
            rows_ = connection.execute(
                sa.select(job.c.status, job.c.attempts).order_by(job.c.created_at.desc()).limit(1)
            ).one()
        assert rows_.attempts == 2
        say(f"the other control plane led after {took:.1f} s")
        ended = second.deploy("slow", made, wait=True)  # its reconciler carries that out
        assert ended.state == "succeeded"
        platform.until_back("control-plane", before)
        assert platform.client.model("slow").name == "slow"
        load.wait_for(100)
        assert load.tally.bad == 0, load.tally
    eventually(lambda: len(members(database)) == 1)  # a planned end needs no waiting


def test_one_that_hangs_is_replaced_and_comes_back(platform: Platform, database: Database) -> None:
    with second_plane(platform) as second, platform.load(NAME, rows(3)) as load:
        (first_id, _), (second_id, _) = eventually(
            lambda: found if len(found := members(database)) == 2 else None
        )
        pid = platform.pid_of("control-plane")
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            eventually(lambda: members(database)[0][0] == second_id, 20)
            say(f"a hanging one was replaced after {time.monotonic() - began:.1f} s")
            made = second.register(
                Linear(2.0), EXAMPLE, name=NAME, team="e2e", wait=True, version="1.1.0"
            )
            assert second.deploy(NAME, made.version, wait=True).state == "succeeded"
        finally:
            with contextlib.suppress(ProcessLookupError):  # the agent may have ended it
                os.kill(pid, signal.SIGCONT)
        eventually(lambda: len(members(database)) == 2)
        assert members(database)[0][0] == second_id
        assert first_id not in {one for one, _ in members(database)}
        assert platform.client.model(NAME).name == NAME
        load.wait_for(100)
        assert load.tally.bad == 0, load.tally


def _registered_by(platform: Platform, database: Database, owner: str) -> str:
    """A version that `owner` is preparing just now."""
    for number in range(20):
        made = platform.client.register(
            Heavy(6), EXAMPLE, name="slow", team="e2e", version=f"1.0.{number}"
        )

        def owned() -> str | None:
            with database.read() as connection:
                found = connection.execute(
                    sa.select(job.c.owner).order_by(job.c.created_at.desc()).limit(1)
                ).scalar()
            return str(found) if found else None

        if eventually(owned, 60) == owner:
            return made.version
        platform.client.wait_until_ready("slow", made.version)
    raise AssertionError("the first control plane takes no jobs")


def test_the_server_is_gone_and_back(
    platform: Platform, durable: Server, database: Database
) -> None:
    with platform.load(NAME, rows(3)) as load:
        load.wait_for(50)
        durable.stop(signal.SIGQUIT)
        try:
            error = eventually(lambda: _refused(lambda: platform.client.models()))
            assert error.status == 503
            assert error.hint
            load.wait_for(300)
            found = platform.run("doctor", "--json")
            said = [one for one in json.loads(found.stdout)["findings"] if one["status"] == "fail"]
            assert "database" in {one["check"] for one in said}
            assert found.returncode == 1
        finally:
            durable.start()
        eventually(lambda: not _refused(lambda: platform.client.models()))
        made = platform.client.register(
            Linear(0.5), EXAMPLE, name=NAME, team="e2e", wait=True, version="2.0.0"
        )
        assert platform.client.deploy(NAME, made.version, wait=True).state == "succeeded"
        assert load.tally.bad == 0, load.tally


def _refused(what: Callable[[], Any]) -> ApiError | None:
    try:
        what()
    except ApiError as error:
        return error
    return None


def test_up_says_that_there_is_no_server(durable: Server) -> None:
    made = Platform('[database]\nurl = "postgresql://u:not-to-be-seen@127.0.0.1:1/none"\n')
    try:
        for command in (("up", "--port", "0"), ("control",)):
            found = made.run(*command)
            (made.home / "keys").mkdir(exist_ok=True)
            (made.home / "keys" / "signing.pem").touch()
            assert found.returncode in (2, 3), found.stderr
            assert "not-to-be-seen" not in found.stderr + found.stdout
        assert found.returncode == 3
        assert "reached" in found.stderr
    finally:
        made.end()


def test_sqlite_has_one_control_plane() -> None:
    made = Platform()
    try:
        made.up()
        found = made.run("control")
        assert found.returncode == 2
        assert "PostgreSQL" in found.stderr
        argv = [sys.executable, "-m", "modelfleet.app", "--home", str(made.home), "--port", "1"]
        again = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, env=made.environment
        )
        assert again.returncode == 5
        assert "runs already" in again.stderr
    finally:
        made.end()
