"""What the control plane wants of the gateway, in words of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from modelfleet.core.errors import InvalidInput

FULL = 10_000
"""Weights and fractions are basis points."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_HEADER = re.compile(r"[a-z0-9-]{1,100}")

Priority = Literal["high", "normal", "low"]


@dataclass(frozen=True)
class Target:
    """A version that an endpoint names. Weight 0: reachable by pin and by rules only."""

    version_index: int
    version: str
    """semantic version"""
    sequence: int
    pool: str
    weight: int
    """basis points"""
    light: bool = False
    """so quick that the gateway has more work with a request: one replica answers all it can
    bring, and does it at half the cost when it is awake anyway"""


@dataclass(frozen=True)
class Shadow:
    """A version that gets copies of requests; its answers go nowhere."""

    version_index: int
    pool: str
    fraction: int
    """basis points"""


@dataclass(frozen=True)
class Sticky:
    """What decides which version answers, so that the same client gets the same one."""

    by: Literal["header", "cookie", "caller"]
    name: str = ""
    """of the header or cookie"""

    def __post_init__(self) -> None:
        if self.by == "header" and not _HEADER.fullmatch(self.name):
            raise InvalidInput(f"{self.name[:120]!r} is not a header name in lower case.")


@dataclass(frozen=True)
class Rule:
    """Requests that go to one version before any weight counts."""

    version_index: int
    by: Literal["header", "caller", "team"]
    value: str
    """what a header holds; the caller's id; the team's name"""
    name: str = ""
    """of the header"""
    prefix: bool = False
    """the header's value only begins with `value`"""


@dataclass(frozen=True)
class RateLimit:
    """Of each caller by itself: a bucket that holds `requests` and is filled anew in `seconds`."""

    requests: int
    seconds: int


@dataclass(frozen=True)
class EndpointRoutes:
    name: str
    targets: tuple[Target, ...]
    shadows: tuple[Shadow, ...] = ()
    sticky: Sticky | None = None
    rules: tuple[Rule, ...] = ()
    """the first that fits decides"""
    rate_limit: RateLimit | None = None
    concurrency: int | None = None
    """requests that a worker runs at once for this endpoint; the worker sees to it"""
    priority: Priority = "normal"
    """of callers whose key says nothing"""
    timeout_ms: int = 30_000
    per_try_timeout_ms: int | None = None
    """mends hangs of a worker: after it, another replica is asked"""
    retries_503: bool = True
    """a pipeline's 503 is its answer: another replica has no other models to ask"""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInput(f"{self.name[:120]!r} can't name an endpoint.")
        for share in (*(t.weight for t in self.targets), *(s.fraction for s in self.shadows)):
            if not 0 <= share <= FULL:
                raise InvalidInput(f"Endpoint {self.name}: {share} is not 0 to {FULL}.")
        indexes = [target.version_index for target in self.targets]
        if len(set(indexes)) != len(indexes):
            raise InvalidInput(f"Endpoint {self.name} names a version twice.")
        for rule in self.rules:
            if rule.version_index not in indexes:
                raise InvalidInput(f"Endpoint {self.name}: a rule's version is not a target.")


@dataclass(frozen=True)
class PoolAddress:
    pool: str
    sockets: tuple[str, ...]
    """one per replica: the absolute path of a Unix socket, or `tcp://host:port` (mutual TLS)"""

    def __post_init__(self) -> None:
        for address in self.elsewhere:
            host, port = host_and_port(address)
            if not host or not 0 < port < 65536:
                raise InvalidInput(f"Pool {self.pool}: {address[:120]!r} is not tcp://host:port.")
        if self.by_name and len(self.elsewhere) < len(self.sockets):
            raise InvalidInput(
                f"Pool {self.pool} has replicas here and on named hosts: use IP addresses."
            )

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Addresses of replicas that are reached over the network."""
        return tuple(one for one in self.sockets if one.startswith(_TCP))

    @property
    def by_name(self) -> bool:
        """Whether a host must be looked up."""
        return not all(_is_ip(host_and_port(one)[0]) for one in self.elsewhere)


_TCP = "tcp://"


def host_and_port(address: str) -> tuple[str, int]:
    """Of `tcp://host:port`; an IPv6 host stands in brackets."""
    host, _, port = address.removeprefix(_TCP).rpartition(":")
    return host.strip("[]"), int(port) if port.isascii() and port.isdigit() else 0


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class GatewayConfig:
    revision: int
    endpoints: tuple[EndpointRoutes, ...] = ()
    pools: tuple[PoolAddress, ...] = ()
    revoked: tuple[str, ...] = ()
    """ids (`jti`) of keys that no longer count"""

    def __post_init__(self) -> None:
        for kind, names in (
            ("endpoint", [endpoint.name for endpoint in self.endpoints]),
            ("pool", [pool.pool for pool in self.pools]),
        ):
            if len(set(names)) != len(names):
                raise InvalidInput(f"The gateway's configuration names one {kind} twice.")
