"""What the control plane wants of the gateway, in words of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelfleet.core.errors import InvalidInput

FULL = 10_000
"""Weights and fractions are basis points."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_HEADER = re.compile(r"[a-z0-9-]{1,100}")


@dataclass(frozen=True)
class Target:
    """A version that an endpoint names. Weight 0: reachable by pin only."""

    version_index: int
    version: str
    """semantic version"""
    sequence: int
    pool: str
    weight: int
    """basis points"""


@dataclass(frozen=True)
class Shadow:
    """A version that gets copies of requests; its answers go nowhere."""

    version_index: int
    pool: str
    fraction: int
    """basis points"""


@dataclass(frozen=True)
class EndpointRoutes:
    name: str
    targets: tuple[Target, ...]
    shadows: tuple[Shadow, ...] = ()
    sticky: str | None = None
    """request header whose value decides which version answers"""
    timeout_ms: int = 30_000
    per_try_timeout_ms: int | None = None
    """mends hangs of a worker: after it, another replica is asked"""
    retries_503: bool = True
    """a pipeline's 503 is its answer: another replica has no other models to ask"""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInput(f"{self.name[:120]!r} can't name an endpoint.")
        if self.sticky is not None and not _HEADER.fullmatch(self.sticky):
            raise InvalidInput(f"{self.sticky[:120]!r} is not a header name in lower case.")
        for share in (*(t.weight for t in self.targets), *(s.fraction for s in self.shadows)):
            if not 0 <= share <= FULL:
                raise InvalidInput(f"Endpoint {self.name}: {share} is not 0 to {FULL}.")
        indexes = [target.version_index for target in self.targets]
        if len(set(indexes)) != len(indexes):
            raise InvalidInput(f"Endpoint {self.name} names a version twice.")


@dataclass(frozen=True)
class PoolAddress:
    pool: str
    sockets: tuple[str, ...]
    """absolute paths of Unix sockets, one per replica"""


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
