"""All checks, in the order in which one would look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from modelfleet import __version__
from modelfleet.core.clock import iso, now_us
from modelfleet.host.doctor import databases, evidence, gateway, home, machine, probe, processes
from modelfleet.host.doctor.findings import Check, Examined, Finding, Report, not_examined

CHECKS: Mapping[str, Check] = {
    "python": machine.python,
    "kernel": machine.kernel,
    "uv": machine.uv,
    "envoy": machine.envoy,
    "disk": machine.disk,
    "clock": machine.clock,
    "open-files": machine.open_files,
    "memory": machine.memory,
    "home": home.folder,
    "settings": home.settings,
    "keys": home.keys,
    "certificates": home.certificates,
    "confinement": home.confinement,
    "database": databases.integrity,
    "schema": databases.schema,
    "control-planes": databases.control_planes,
    "audit": databases.audit_chain,
    "access-keys": databases.access_keys,
    "jobs": databases.jobs,
    "blobs": databases.blobs,
    "environments": databases.environments,
    "agent": processes.agent,
    "processes": processes.platform,
    "records": processes.stale_records,
    "ports": processes.ports,
    "reconciler": processes.reconciler,
    "heartbeat": processes.heartbeat,
    "workers": processes.workers,
    "versions": processes.versions,
    "gateway": gateway.configuration,
    "load": gateway.load,
    "members": gateway.members,
    "collector": evidence.lag,
    "dropped": evidence.dropped,
    "segments": evidence.segments,
    "probe": probe.endpoints,
}


def examine(place: Path, *, deep: bool = False, probe: bool = False) -> Report:
    """Look at the home `place` and at this machine. A check that breaks is a finding, too."""
    examined = Examined(place, deep=deep, probe=probe)
    found: list[Finding] = []
    for name, check in CHECKS.items():
        if name == "probe" and not probe:
            continue
        found += _run(name, check, examined)
    return Report(place, __version__, iso(now_us()), tuple(found))


def _run(name: str, check: Check, examined: Examined) -> list[Finding]:
    found: list[Finding] = []
    try:
        found += [replace(one, check=name) for one in check(examined)]
    except PermissionError as error:
        said = not_examined(f"{error.filename} may not be read", "Run it as the home's owner.")
        found.append(replace(said, check=name, status="fail"))
    except Exception as error:  # noqa: BLE001 - the others are to be heard, whatever happened here
        says = f"it can't be examined: {type(error).__name__}: {str(error)[:300]}"
        remedy = "What is looked at seems broken: see docs/operate.md, or report it."
        found.append(Finding(name, "fail", says, remedy))
    return found or [Finding(name, "ok", "nothing to look at")]
