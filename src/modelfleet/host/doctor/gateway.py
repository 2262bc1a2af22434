"""The gateway: does it run what was written, and whom does it find well?"""

from __future__ import annotations

from collections.abc import Iterator

from modelfleet.host.doctor.findings import Examined, Finding, fail, not_examined, ok, some, warn
from modelfleet.serving.gateway import GatewayFiles, admin
from modelfleet.serving.gateway.explain import health_of

_LOGS = "modelfleet logs gateway"
_LOAD = r"(downstream_global_cx_overflow|^overload\..*active)$"


def configuration(examined: Examined) -> Iterator[Finding]:
    if not examined.status.running:
        yield not_examined("nothing runs")
        return
    files = GatewayFiles(examined.layout)
    wanted, found = files.configuration().revision, files.statistics()
    if found is None:
        yield fail("it does not answer on its admin socket", _LOGS)
        return
    if found.rejected:
        said = f"it refused {found.rejected} configurations since it started"
        yield fail(said, f"{_LOGS}; it runs the last good one")
    running = files.acknowledged()
    if found.warming_clusters:
        said = f"{found.warming_clusters} of its clusters still look for a healthy worker"
        yield warn(said, "Wait a second; then see the workers.")
    elif running != wanted:
        yield fail(f"it runs revision {running}, wanted is {wanted}", _LOGS)
    else:
        yield ok(f"it runs revision {running}, the one that was written")


def load(examined: Examined) -> Iterator[Finding]:
    """Did it refuse connections or requests because there were too many?"""
    if not examined.status.running:
        yield not_examined("nothing runs")
        return
    found = admin.statistics(examined.layout.gateway_admin_socket, _LOAD)
    if found is None:
        yield not_examined("the gateway does not answer", _LOGS)
        return
    active = [name for name, value in found.items() if name.endswith("active") and value != "0"]
    refused = sum(int(value) for name, value in found.items() if name.endswith("overflow"))
    if active:
        said = f"it is short of memory: {some(name.split('.')[-2] for name in active)}"
        yield fail(said, "Raise serving.gateway_memory_mb, or send it less.")
    if refused:
        said = f"it refused {refused} connections over its limit since it started"
        yield warn(said, "Raise serving.max_connections, or let clients share connections.")
    if not active and not refused:
        yield ok("it has refused nothing for being too much")


def members(examined: Examined) -> Iterator[Finding]:
    if not examined.status.running:
        yield not_examined("nothing runs")
        return
    found = health_of(examined.layout.gateway_admin_socket)
    if found is None:
        yield not_examined("the gateway does not answer", _LOGS)
        return
    bad = {where: health for where, health in found.items() if health != "healthy"}
    if bad:
        said = some(f"{where}: {health}" for where, health in bad.items())
        yield fail(f"{len(bad)} of {len(found)} are not well: {said}", "See the workers.")
    else:
        yield ok(f"all {len(found)} workers that it knows are healthy")
