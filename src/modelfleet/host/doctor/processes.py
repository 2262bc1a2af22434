"""Agent, platform processes, workers: who lives, who doesn't, and what they last said."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from modelfleet.engines.local import records
from modelfleet.engines.local.processes import read_record
from modelfleet.host.compose import files_of
from modelfleet.host.doctor.findings import (
    NOTHING_RUNS,
    Examined,
    Finding,
    duration,
    fail,
    not_examined,
    ok,
    some,
    warn,
)
from modelfleet.host.health import RECONCILER_SECONDS
from modelfleet.host.ports import Ports, is_free
from modelfleet.serving import pools
from modelfleet.serving.pulse import read_pulse
from modelfleet_worker.wire.desired import PoolSpec

_MANY_RESTARTS = 3
_SILENT_SECONDS = 3.0
_HEARTBEAT_SECONDS = 60.0


def agent(examined: Examined) -> Iterator[Finding]:
    found = examined.status
    if not found.running:
        living = [one.name for one in records(files_of(examined.layout)) if one.alive()]
        if living:
            said = f"no host agent runs, but {some(living)} do: nobody brings them back"
            yield fail(said, "modelfleet up takes them over; modelfleet down ends them.")
        else:
            yield fail("modelfleet does not run in this home", NOTHING_RUNS)
        return
    if found.keeper_pid is None:
        said = f"agent {found.agent_pid} runs, but nobody would bring it back"
        yield warn(said, "modelfleet down, then modelfleet up, when it suits you.")
    else:
        yield ok(f"agent {found.agent_pid} runs")


def platform(examined: Examined) -> Iterator[Finding]:
    if not examined.status.running:
        yield not_examined("nothing runs")
        return
    for name, seen in sorted(examined.status.observed.processes.items()):
        last = f"; last exit: {seen.last_exit}" if seen.last_exit else ""
        remedy = f"modelfleet logs {name}"
        if seen.state == "backing-off":
            yield fail(f"{name} dies again and again ({seen.restarts} times){last}", remedy)
        elif seen.state != "ready":
            yield fail(f"{name} is {seen.state}{last}", remedy)
        elif seen.restarts >= _MANY_RESTARTS:
            yield warn(f"{name} is ready, after {seen.restarts} restarts{last}", remedy)
        else:
            yield ok(f"{name} is ready{last}")


def stale_records(examined: Examined) -> Iterator[Finding]:
    """Records of processes that are gone and that nobody wants back."""
    files = files_of(examined.layout)
    observed = examined.status.observed
    unreadable = [p.name for p in files.records.glob("*.json") if read_record(p) is None]
    dead = [one.name for one in records(files) if not one.alive()]
    if examined.status.running:
        dead = [name for name in dead if not observed.knows(name)]
    if unreadable:
        remedy = f"Remove them from {files.records}."
        yield warn(f"records that can't be read: {some(unreadable)}", remedy)
    if dead and examined.status.running:
        remedy = f"Harmless; remove them from {files.records}."
        yield warn(f"records of processes that are gone: {some(dead)}", remedy)
    if not unreadable and not (dead and examined.status.running):
        yield ok("every record is of a process that is wanted")


def ports(examined: Examined) -> Iterator[Finding]:
    settings, chosen = examined.settings, examined.status.ports
    if examined.status.running and chosen is None:
        remedy = "modelfleet down, then modelfleet up."
        yield fail(f"{examined.layout.ports} is missing or broken", remedy)
        return
    listening = _listening(examined, chosen)
    for name, wanted, used in (
        ("API", settings.port, chosen.api if chosen else 0),
        ("gateway", settings.gateway_port, chosen.gateway if chosen else 0),
        ("metrics", settings.metrics_port, chosen.metrics if chosen else 0),
    ):
        if name in listening:
            yield ok(f"{name}: {used} is ours")
        elif examined.status.running:
            yield not_examined(f"{name}: who should listen on {used} is not ready", "See above.")
        elif not wanted or is_free(settings.host, wanted):
            yield ok(f"{name}: {wanted or 'any'} is free")
        else:
            remedy = "End whoever listens there, or choose another port (0 is any)."
            yield fail(f"{name}: {wanted} is taken by somebody else", remedy)


def _listening(examined: Examined, chosen: Ports | None) -> set[str]:
    """Which of our ports belong to a ready process of ours."""
    who = {"API": "control-plane", "gateway": "gateway", "metrics": "collector"}
    alive = {one.name for one in records(files_of(examined.layout)) if one.alive()}
    if chosen is None:
        return set()
    numbers = {"API": chosen.api, "gateway": chosen.gateway, "metrics": chosen.metrics}
    return {
        name
        for name, process in who.items()
        if process in alive and not is_free(examined.settings.host, numbers[name])
    }


def reconciler(examined: Examined) -> Iterator[Finding]:
    if not examined.status.running:
        yield not_examined("nothing runs")
        return
    try:
        age = time.time() - examined.layout.reconciled.stat().st_mtime
    except FileNotFoundError:
        yield fail("it has never ended a round", "modelfleet logs control-plane")
        return
    if age > RECONCILER_SECONDS:
        yield fail(f"its last good round was {duration(age)} ago", "modelfleet logs control-plane")
    else:
        yield ok("it ended a round just now")


def heartbeat(examined: Examined) -> Iterator[Finding]:
    """What the dead man's switch last saw, and whether anybody would hear it."""
    if not examined.status.running:
        yield not_examined("nothing runs")
        return
    try:
        found = json.loads(examined.layout.heartbeat.read_bytes())
        age = time.time() - float(found["at"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        yield fail("it has never looked", "modelfleet logs heartbeat")
        return
    if age > _HEARTBEAT_SECONDS:
        yield fail(f"it last looked {duration(age)} ago", "modelfleet logs heartbeat")
    elif found["trouble"]:
        yield fail(f"it sees trouble: {found['trouble']}", "See that part.")
    elif not examined.settings.heartbeat.url:
        remedy = "Set heartbeat.url, or alert on modelfleet_heartbeat_timestamp_seconds."
        yield warn("all is ready, but nobody is told if that ends", remedy)
    else:
        yield ok(f"all was ready {duration(age)} ago")


def workers(examined: Examined) -> Iterator[Finding]:
    """Each worker by what the agent sees and by its own heartbeat."""
    if not examined.status.running:
        yield not_examined("nothing runs")
        return
    good = 0
    for pool, seen in sorted(examined.status.observed.pools.items()):
        if seen.error:
            yield fail(f"pool {pool}: {seen.error}", "modelfleet logs control-plane")
        for one in seen.replicas:
            name, remedy = f"{pool}/{one.replica}", f"modelfleet logs worker-{pool}-{one.replica}"
            pulse = read_pulse(examined.layout.control_block(pool, one.replica))
            last = f"; last exit: {one.last_exit}" if one.last_exit else ""
            if one.state == "backing-off":
                yield fail(f"{name} dies again and again ({one.restarts} times){last}", remedy)
            elif one.state != "ready" or pulse is None:
                yield fail(f"{name} is {one.state}{last}", remedy)
            elif pulse.silent_seconds > _SILENT_SECONDS:
                said = f"{name} had its last heartbeat {duration(pulse.silent_seconds)} ago"
                yield fail(said, remedy)
            elif one.restarts >= _MANY_RESTARTS:
                yield warn(f"{name} is ready, after {one.restarts} restarts{last}", remedy)
            else:
                good += 1
    yield ok(f"{good} workers are ready, with a heartbeat")


def versions(examined: Examined) -> Iterator[Finding]:
    """Versions that workers could not load, and those in quarantine."""
    if not examined.layout.desired.is_dir():
        yield not_examined("no pool was ever placed")
        return
    placed = pools.read_pools(examined.layout)
    named = {v.index: f"{v.model} {v.version}" for spec in placed.values() for v in spec.versions}
    yield from _quarantined(placed)
    if not examined.status.running:
        yield not_examined("nothing runs")
        return
    seen = pools.observe(examined.layout, placed)
    for index, reason in sorted(seen.failed.items()):
        said = f"{named.get(index, index)} could not be loaded: {reason}"
        yield fail(said, "Register a mended version; roll back if it has traffic.")
    absent = [
        f"{v.model} {v.version} ({pool})"
        for pool, spec in placed.items()
        for v in spec.versions
        if (pool, v.index) not in seen.ready and v.index not in seen.failed
    ]
    if absent:
        yield warn(f"not yet in all workers: {some(absent)}", "Wait, or see the workers above.")
    elif not seen.failed:
        yield ok(f"{len(named)} versions are in all their workers")


def _quarantined(placed: dict[str, PoolSpec]) -> Iterator[Finding]:
    for spec in placed.values():
        for one in spec.versions:
            if one.quarantined:
                remedy = f"Mend it, or: modelfleet quarantine release {one.model} {one.version}"
                said = f"{one.model} {one.version} is in quarantine: {one.quarantined}"
                yield fail(said, remedy)
