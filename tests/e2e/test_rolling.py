"""Everything is replaced under load, one process after the other: nobody's request is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from load import rows
from running import Platform, processes_of, say
from zoo import EXAMPLE, Linear

from modelfleet.core.errors import NotFound
from modelfleet.core.layout import Layout
from modelfleet.host import roll, status

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]


def pids(platform: Platform) -> dict[str, int | None]:
    seen = status(platform.layout()).observed
    found = {name: process.pid for name, process in seen.processes.items()}
    for pool, observed in seen.pools.items():
        found |= {f"{pool}-{one.replica}": one.pid for one in observed.replicas}
    return found


def test_a_rolling_restart_fails_no_request(platform: Platform) -> None:
    platform.serve("steady", Linear(), EXAMPLE)
    with platform.load("steady", rows(3), connections=16) as load:
        for _ in range(2):
            load.wait_for(200)
            before = pids(platform)
            done = platform.run("restart", "--rolling")
            assert done.returncode == 0, done
            after = pids(platform)
            assert set(after) == set(before)
            assert not set(after.values()) & set(before.values())
            assert f"Replaced {len(before)} processes" in done.stderr
        load.wait_for(200)
    say(f"two rolling restarts of {len(before)} processes: {load.tally}")
    assert load.tally.bad == 0, f"{load.tally}"
    assert platform.ask("steady", {}).status == 400
    running = [line for line in processes_of(platform.home).values() if "bootstrap.json" in line]
    assert len(running) <= 3  # the former gateways end when their clients are gone


def test_without_an_agent_nothing_is_restarted(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="agent does not run"):
        roll(Layout(tmp_path))
