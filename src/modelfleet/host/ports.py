"""Where this home listens: fixed ports, or free ones that stay the same over restarts."""

from __future__ import annotations

import socket

import msgspec

from modelfleet.core.errors import Conflict
from modelfleet.core.files import write_atomically
from modelfleet.core.layout import Layout
from modelfleet.core.settings import Settings


class Ports(msgspec.Struct, frozen=True, omit_defaults=True):
    api: int
    gateway: int
    metrics: int
    gateway_tls: int = 0
    """1 if the gateway speaks TLS"""


def read_ports(layout: Layout) -> Ports | None:
    """What run/ports.json says; None before the first start."""
    try:
        return msgspec.json.decode(layout.ports.read_bytes(), type=Ports)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def choose_ports(settings: Settings, ours: frozenset[int] = frozenset()) -> Ports:
    """Pick and write them. A port of 0 takes the one of last time, if it is free, or any.

    ours: ports on which processes of this home listen already. Raises `Conflict`.
    """
    before = read_ports(settings.layout) or Ports(0, 0, 0)
    host = settings.host
    chosen: list[int] = []
    for wanted, last in (
        (settings.port, before.api),
        (settings.gateway_port, before.gateway),
        (settings.metrics_port, before.metrics),
    ):
        if wanted:
            if wanted in chosen or not (wanted in ours or is_free(host, wanted)):
                raise Conflict(
                    f"Port {wanted} is taken.", hint="Choose another one, or 0 for any free one."
                )
            chosen.append(wanted)
        elif last and last not in chosen and (last in ours or is_free(host, last)):
            chosen.append(last)
        else:
            chosen.append(_any_free(host, chosen))
    api, gateway, metrics = chosen
    ports = Ports(api, gateway, metrics, int(settings.tls is not None))
    write_atomically(settings.layout.ports, msgspec.json.encode(ports))
    return ports


def is_free(host: str, port: int) -> bool:
    """Can a listener start here? Also detects listeners that share their port (SO_REUSEPORT)."""
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str) -> int:
    """One on which nobody listens now."""
    return _any_free(host, [])


def _any_free(host: str, but: list[int]) -> int:
    while True:
        with socket.socket(_family(host)) as probe:
            probe.bind((host, 0))
            port = int(probe.getsockname()[1])
        if port not in but:
            return port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def reachable(host: str) -> str:
    """An IP address at which a listener on `host` can be reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(host, host)
