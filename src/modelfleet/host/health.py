"""Is the platform ready, seen from outside of its processes? Four questions, asked over the wire
like any client would, so that a process that hangs is as silent as one that is gone.

The heartbeat asks them all the time, the control plane when it is asked for its health.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from modelfleet.core.layout import Layout
from modelfleet.host.ports import Ports, reachable, read_ports

PATIENCE_SECONDS = 5.0
"""for each answer"""
RECONCILER_SECONDS = 15.0
"""An older last round of the reconciler is trouble."""


@dataclass(frozen=True)
class Part:
    """`trouble` is empty if all is well."""

    name: str
    trouble: str


def look(layout: Layout, host: str, *, but: Sequence[str] = ()) -> list[Part]:
    """Each part and its trouble. host: where the platform listens. but: parts not to ask."""
    ports = read_ports(layout)
    if ports is None:
        return [Part("host", "it was never started")]
    questions: dict[str, Callable[[], str]] = {
        "api": lambda: _get(_plain(host, ports.api), "/healthz"),
        "gateway": lambda: _get(to_gateway(host, ports, PATIENCE_SECONDS), "/v2/health/live"),
        "collector": lambda: _get(_plain("127.0.0.1", ports.metrics), "/healthz"),
        "reconciler": lambda: _reconciler(layout),
    }
    asked = {name: ask for name, ask in questions.items() if name not in but}
    with ThreadPoolExecutor(len(asked)) as threads:  # one that hangs must not hold up the others
        answers = list(threads.map(lambda ask: ask(), asked.values()))
    return [Part(name, answer) for name, answer in zip(asked, answers, strict=True)]


def _plain(host: str, port: int) -> HTTPConnection:
    return HTTPConnection(reachable(host), port, timeout=PATIENCE_SECONDS)


def to_gateway(host: str, ports: Ports, seconds: float) -> HTTPConnection:
    """To the gateway of this machine; whose name its certificate bears doesn't matter here."""
    if not ports.gateway_tls:
        return HTTPConnection(reachable(host), ports.gateway, timeout=seconds)
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(reachable(host), ports.gateway, timeout=seconds, context=trusting)


def _get(connection: HTTPConnection, path: str) -> str:
    """Why it did not answer well; empty if it did."""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(300).decode(errors="replace")
    except TimeoutError:
        return f"no answer within {PATIENCE_SECONDS:g} s"
    except (OSError, HTTPException) as error:
        return f"no answer: {error}"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"{answer.status} {body}"


def _reconciler(layout: Layout) -> str:
    try:
        age = time.time() - layout.reconciled.stat().st_mtime
    except FileNotFoundError:
        return "it has never ended a round"
    return f"its last good round was {age:.0f} s ago" if age > RECONCILER_SECONDS else ""
