"""What the gateway does with the requests for one endpoint, and how its workers are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelfleet.serving.gateway import admin
from modelfleet.serving.gateway.actions import retries
from modelfleet.serving.gateway.clusters import name_of
from modelfleet.serving.gateway.config import EndpointRoutes, GatewayConfig
from modelfleet.serving.gateway.decide import Asked, Decision, decide, in_words
from modelfleet.serving.gateway.shed import FairShare


@dataclass(frozen=True)
class Share:
    version: str
    sequence: int
    percent: float
    """of live requests; 0 is reachable by pin and by rules only"""
    pool: str


@dataclass(frozen=True)
class Replica:
    pool: str
    address: str
    health: str
    """healthy, or what is wrong; unknown if the gateway doesn't answer"""


@dataclass(frozen=True)
class Explanation:
    endpoint: str
    known: bool
    """False: the gateway was told nothing of it and answers 404"""
    written: int
    """revision of the configuration that was written last"""
    running: int
    """revision that the gateway acknowledged; 0 if it doesn't answer or is still changing"""
    refused: int
    """updates that the gateway refused since it started"""
    versions: tuple[Share, ...] = ()
    replicas: tuple[Replica, ...] = ()
    rules: tuple[str, ...] = ()
    """in the order in which they are tried"""
    shadows: tuple[str, ...] = ()
    patience: tuple[str, ...] = ()
    """timeouts and retries"""
    limits: tuple[str, ...] = ()
    access: str = ""
    decision: Decision | None = None

    @property
    def in_step(self) -> bool:
        return self.written == self.running


def explain(
    config: GatewayConfig,
    name: str,
    *,
    running: int,
    refused: int,
    health: Mapping[str, str] | None,
    shares: Sequence[FairShare] = (),
    asked: Asked | None = None,
) -> Explanation:
    """`health` by address, see `health_of`. shares: of callers, where too much is asked."""
    found = next((one for one in config.endpoints if one.name == name), None)
    if found is None:
        missing = Decision(404, "The gateway was told nothing of this endpoint.") if asked else None
        return Explanation(name, False, config.revision, running, refused, decision=missing)
    used = {target.pool for target in found.targets} | {one.pool for one in found.shadows}
    replicas = tuple(
        Replica(pool.pool, address, (health or {}).get(address, "unknown"))
        for pool in config.pools
        if pool.pool in used
        for address in pool.sockets
    )
    versions = {target.version_index: target.version for target in found.targets}
    return Explanation(
        endpoint=name,
        known=True,
        written=config.revision,
        running=running,
        refused=refused,
        versions=tuple(
            Share(one.version, one.sequence, one.weight / 100, one.pool) for one in found.targets
        ),
        replicas=replicas,
        rules=tuple(f"{in_words(one)}: {versions[one.version_index]}" for one in found.rules),
        shadows=tuple(
            f"{one.fraction / 100:g} % of inference is copied to {versions[one.version_index]}"
            for one in found.shadows
        ),
        patience=_patience(found),
        limits=(*_limits(found), *_shed(found, shares)),
        access=f"Keys with the scope {name} or *, or with {name}:infer, :metadata or :feedback "
        "for that alone; none that was revoked.",
        decision=decide(found, asked) if asked else None,
    )


def _patience(endpoint: EndpointRoutes) -> tuple[str, ...]:
    words = [f"a request may take {endpoint.timeout_ms} ms, or what x-mf-timeout-ms says"]
    if endpoint.per_try_timeout_ms is not None:
        words.append(f"after {endpoint.per_try_timeout_ms} ms another replica is asked")
    again = retries()
    words.append(
        f"up to {again['num_retries']} more tries at other replicas when a connection fails or "
        "a worker says 503"
    )
    return tuple(words)


def _limits(endpoint: EndpointRoutes) -> tuple[str, ...]:
    words = [f"priority {endpoint.priority}, unless the caller's key says otherwise"]
    if endpoint.rate_limit is not None:
        limit = endpoint.rate_limit
        words.append(f"{limit.requests} requests in {limit.seconds} s for each caller, then 429")
    if endpoint.concurrency is not None:
        words.append(f"{endpoint.concurrency} requests at once in one worker")
    light = [target.version for target in endpoint.targets if target.light]
    if light:
        words.append(
            f"{', '.join(light)}: so quick that one replica answers it, while that one is well and "
            "has no more than nine tenths of the pool's requests"
        )
    return tuple(words)


def _shed(endpoint: EndpointRoutes, shares: Sequence[FairShare]) -> Iterator[str]:
    for share in shares:
        if share.endpoint == endpoint.name:
            yield (f"more is asked than the model can answer: for now {share.in_words}, then 429")


_HEALTHY = "healthy"


def health_of(admin_socket: Path) -> dict[str, str] | None:
    """How Envoy finds each worker, by address; None while it doesn't answer."""
    body = admin.get(admin_socket, "/clusters?format=json")
    if body is None:
        return None
    found: dict[str, str] = {}
    for cluster in msgspec.json.decode(body).get("cluster_statuses", []):
        if not str(cluster.get("name", "")).startswith(name_of("")):
            continue
        for host in cluster.get("host_statuses", []):
            address, health = _address(host["address"]), _health(host.get("health_status", {}))
            if found.get(address, _HEALTHY) == _HEALTHY:  # two clusters may know it
                found[address] = health
    return found


def _address(address: Mapping[str, Any]) -> str:
    if "pipe" in address:
        return str(address["pipe"]["path"])
    at = address["socket_address"]
    return f"tcp://{at['address']}:{at['port_value']}"


def _health(status: Mapping[str, Any]) -> str:
    troubles = {
        "failed_active_health_check": "does not answer health checks",
        "failed_outlier_check": "ejected: its connections fail",
    }
    return "; ".join(words for name, words in troubles.items() if status.get(name)) or _HEALTHY
