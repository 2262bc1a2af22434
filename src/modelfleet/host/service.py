"""Starting, ending and looking at one home."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelfleet.core.errors import NotFound, Unavailable
from modelfleet.core.files import write_atomically
from modelfleet.core.layout import Layout
from modelfleet.core.settings import Settings
from modelfleet.engines import Observed
from modelfleet.engines.local import down as end_everything
from modelfleet.engines.local import keep, read_observed, records, refuse_if_served
from modelfleet.engines.local.processes import read_record
from modelfleet.host.compose import files_of, overrides_as_environment
from modelfleet.host.ports import Ports, choose_ports, read_ports
from modelfleet.host.workers import check_workers, make_folders


@dataclass(frozen=True)
class HostStatus:
    """`running`: an agent supervises. Without one, `observed` is what the last one saw."""

    home: Path
    running: bool
    agent_pid: int | None
    keeper_pid: int | None
    """the foreground process that would bring the agent back; None if it is gone"""
    ports: Ports | None
    observed: Observed

    @property
    def ready(self) -> bool:
        return self.running and self.observed.ready()


def run(
    settings: Settings,
    announce: Callable[[HostStatus], None] = lambda _: None,
    *,
    agent: Sequence[str] | None = None,
) -> None:
    """The foreground of `modelfleet up`: returns after Ctrl-C, SIGTERM or `down`.

    announce: called once, when everything is ready. agent: another command line for the agent.
    Raises `Conflict` (already running, port taken), `InvalidInput` (workers can't be confined,
    certificate and key of the gateway don't fit), `Unavailable` (no database server).
    """
    # The agent, too, imports this module, in a hurry.
    from modelfleet.core.database import check
    from modelfleet.core.keys import SigningKey
    from modelfleet.serving.gateway.tls import read_pair

    layout = settings.layout
    files = files_of(layout)
    refuse_if_served(files)
    make_folders(settings)
    check_workers(settings, sys.executable)
    if settings.tls is not None:
        read_pair(*settings.tls)
    check(settings)
    choose_ports(settings, ours=_listening(layout))
    SigningKey(layout)
    argv = agent or (sys.executable, "-m", "modelfleet.host", "--home", str(layout.home))
    announced: list[bool] = []

    def tick() -> None:
        if not announced and (now := status(layout)).ready:
            announced.append(True)
            announce(now)

    layout.observed.unlink(missing_ok=True)
    keep(argv, files, {**os.environ, **overrides_as_environment(settings)}, tick)


def down(layout: Layout) -> bool:
    """Stop everything of this home from another shell; False if nothing ran."""
    return end_everything(files_of(layout))


def restart(layout: Layout, seconds: float = 10.0) -> None:
    """Replace the agent by a fresh one (new code, new settings); nothing else is disturbed.

    Raises `NotFound` if no agent runs, `Unavailable` if the new one doesn't come.
    """
    files = files_of(layout)
    before = read_record(files.agent)
    if before is None or not before.alive():
        raise NotFound("The host agent does not run.", hint="Start it: modelfleet up.")
    before.signal(signal.SIGHUP)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = read_record(files.agent)
        if now is not None and now.incarnation != before.incarnation:
            return
        time.sleep(0.05)
    raise Unavailable("The new host agent did not come.", hint=f"See {files.log('agent')}.")


def roll(
    layout: Layout,
    progress: Callable[[int, int, str], None] = lambda _done, _all, _next: None,
    seconds: float = 600.0,
) -> int:
    """Replace every process of this home, one after the other; serving goes on. Returns how many.

    The agent comes first, so that new code and settings count. progress: called with the number
    of replaced processes, of all, and the name of one that is still to come. Raises `NotFound` if
    no agent runs, `Unavailable` if one does not become ready: then the rest stays as it is.
    """
    files = files_of(layout)
    before = {one.name: one.incarnation for one in records(files) if one.alive()}
    write_atomically(layout.generation, str(time.time_ns()).encode())
    restart(layout)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = {one.name: one.incarnation for one in records(files) if one.alive()}
        seen = read_observed(files.observed)
        waiting = [
            name
            for name, incarnation in before.items()
            if (now.get(name) == incarnation or not seen.is_ready(name)) and seen.knows(name)
        ]
        progress(len(before) - len(waiting), len(before), waiting[0] if waiting else "")
        if not waiting:
            return len(before)
        time.sleep(0.1)
    raise Unavailable(
        f"{waiting[0]} was not replaced within {seconds:g} s.",
        hint=f"See its log in {layout.logs}.",
    )


def status(layout: Layout) -> HostStatus:
    files = files_of(layout)
    agent, keeper = read_record(files.agent), read_record(files.keeper)
    agent_pid = agent.pid if agent and agent.alive() else None
    return HostStatus(
        home=layout.home,
        running=agent_pid is not None,
        agent_pid=agent_pid,
        keeper_pid=keeper.pid if keeper and keeper.alive() else None,
        ports=read_ports(layout),
        observed=read_observed(files.observed),
    )


def log_files(layout: Layout) -> dict[str, Path]:
    """The log of each process, by its name."""
    return {path.stem: path for path in sorted(layout.logs.glob("*.log"))}


def tail(layout: Layout, process: str, lines: int = 100) -> list[str]:
    """The last lines of a process's log. Raises `NotFound`."""
    path = log_files(layout).get(process)
    if path is None:
        raise NotFound(
            f"There is no log of {process}.", hint=f"Known: {', '.join(log_files(layout))}."
        )
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 400 * lines))
        return stream.read().decode(errors="replace").splitlines()[-lines:]


def _listening(layout: Layout) -> frozenset[int]:
    """Ports of processes that a dead agent left; the next agent takes them over."""
    ports = read_ports(layout)
    if ports is None:
        return frozenset()
    owners = {"control-plane": ports.api, "gateway": ports.gateway, "collector": ports.metrics}
    return frozenset(
        owners[record.name]
        for record in records(files_of(layout))
        if record.name in owners and record.alive()
    )
