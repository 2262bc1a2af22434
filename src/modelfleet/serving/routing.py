"""From endpoints to the gateway's configuration: a pure function.

An endpoint's new routes reach the gateway only when every version that gets live or mirrored
traffic is resident in all replicas of a pool; until then the endpoint keeps the routes it has.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from modelfleet.registry import Version
from modelfleet.serving import traffic
from modelfleet.serving.endpoints import Endpoint
from modelfleet.serving.gateway import (
    EndpointRoutes,
    GatewayConfig,
    PoolAddress,
    RateLimit,
    Rule,
    Shadow,
    Sticky,
    Target,
)
from modelfleet.serving.pools import PoolSpec, Residency


@dataclass(frozen=True)
class Plan:
    config: GatewayConfig
    applied: Mapping[str, int]
    """endpoint id to the revision of its routes that `config` holds"""


def routed_pools(config: GatewayConfig) -> dict[int, str]:
    """A pool to which the gateway sends each version (by index)."""
    return {index: pool for pool, index in _places(config)}


def _places(config: GatewayConfig) -> Iterator[tuple[str, int]]:
    """(pool, version index); while it moves, a version of two endpoints can be in two pools."""
    for one in config.endpoints:
        for target in one.targets:
            yield target.pool, target.version_index
        for shadow in one.shadows:
            yield shadow.pool, shadow.version_index


def held(
    written: GatewayConfig, acknowledged: bool, pools: Mapping[str, PoolSpec]
) -> frozenset[tuple[str, int]]:
    """(pool, version index) to which the gateway may still send requests.

    Until it acknowledges what was `written` last it may run any earlier configuration, so that
    all that is resident in `pools` is held.
    """
    if not acknowledged:
        return frozenset((pool, v.index) for pool, spec in pools.items() for v in spec.versions)
    return frozenset(_places(written))


def plan(
    endpoints: Sequence[Endpoint],
    versions: Mapping[str, Version],
    homes: Mapping[int, str],
    residency: Residency,
    sockets: Mapping[str, tuple[str, ...]],
    revoked: tuple[str, ...],
    before: GatewayConfig,
    *,
    light: Container[int] = (),
    pins: Mapping[str, Sequence[str]] | None = None,
    others: Sequence[EndpointRoutes] = (),
) -> Plan:
    """`versions` by id; `homes`: the pool where each version (by index) should be.

    light: versions (by index) whose requests stay with one replica.
    pins: ids of versions to be reachable by pin, by endpoint, once they are resident. others:
    routes that are planned elsewhere (pipelines).

    The revision grows by one if anything differs from `before`.
    """
    routed = routed_pools(before)
    known = {one.name: one for one in before.endpoints}
    made: list[EndpointRoutes] = []
    applied: dict[str, int] = {}
    for endpoint in endpoints:
        routes = _routes(endpoint, versions, homes, residency, routed)
        if routes is not None:
            wanted = [versions[v] for v in (pins or {}).get(endpoint.name, ()) if v in versions]
            routes = _with_pins(routes, wanted, homes, residency, routed)
            made.append(replace(routes, targets=tuple(_lightened(routes.targets, light))))
            applied[endpoint.id] = endpoint.revision
        elif endpoint.name in known:
            made.append(known[endpoint.name])
    made += others
    used = {t.pool for one in made for t in one.targets} | {
        s.pool for one in made for s in one.shadows
    }
    pools = tuple(PoolAddress(pool, sockets[pool]) for pool in sorted(used) if pool in sockets)
    config = replace(before, endpoints=tuple(made), pools=pools, revoked=revoked)
    if config != before:
        config = replace(config, revision=before.revision + 1)
    return Plan(config, applied)


def _routes(
    endpoint: Endpoint,
    versions: Mapping[str, Version],
    homes: Mapping[int, str],
    residency: Residency,
    routed: Mapping[int, str],
) -> EndpointRoutes | None:
    """The routes as they should be, or None while a version with traffic is not resident."""
    targets: list[Target] = []
    shadows: list[Shadow] = []
    for route in endpoint.routes:
        version = versions.get(route.version_id)
        pool = _pool(version.index, homes, residency, routed) if version else None
        if version is None or pool is None:
            return None
        if route.shadow:
            shadows.append(Shadow(version.index, pool, route.shadow))
        targets.append(Target(version.index, version.version, version.sequence, pool, route.weight))
    policy = endpoint.policy
    rules: list[Rule] = []
    for wanted in policy.rules:
        version = versions.get(wanted.version_id)
        pool = _pool(version.index, homes, residency, routed) if version else None
        if version is None or pool is None:
            return None
        if all(target.version_index != version.index for target in targets):
            targets.append(Target(version.index, version.version, version.sequence, pool, 0))
        rules.append(_rule(wanted, version.index))
    return EndpointRoutes(
        endpoint.name,
        tuple(targets),
        tuple(shadows),
        sticky=Sticky(policy.sticky.by, policy.sticky.name) if policy.sticky else None,
        rules=tuple(rules),
        rate_limit=RateLimit(policy.rate_limit.requests, policy.rate_limit.seconds)
        if policy.rate_limit
        else None,
        concurrency=policy.concurrency,
        priority=policy.priority,
        timeout_ms=policy.timeout_ms or endpoint.timeout_ms,
        per_try_timeout_ms=policy.per_try_timeout_ms,
    )


def _lightened(targets: Sequence[Target], light: Container[int]) -> Iterator[Target]:
    for target in targets:
        yield replace(target, light=target.version_index in light)


def _with_pins(
    routes: EndpointRoutes,
    wanted: Sequence[Version],
    homes: Mapping[int, str],
    residency: Residency,
    routed: Mapping[int, str],
) -> EndpointRoutes:
    """A version that is not resident holds nothing up."""
    have = {target.version_index for target in routes.targets}
    added = [
        Target(version.index, version.version, version.sequence, pool, 0)
        for version in wanted
        if version.index not in have
        and (pool := _pool(version.index, homes, residency, routed)) is not None
    ]
    return replace(routes, targets=(*routes.targets, *added))


def _rule(wanted: traffic.Rule, index: int) -> Rule:
    if wanted.header:
        value, prefix = wanted.equals or wanted.prefix, bool(wanted.prefix)
        return Rule(index, "header", value, wanted.header, prefix)
    if wanted.caller:
        return Rule(index, "caller", wanted.caller_id)
    return Rule(index, "team", wanted.team)


def _pool(
    index: int, homes: Mapping[int, str], residency: Residency, routed: Mapping[int, str]
) -> str | None:
    """Where a version can be reached: at home, else where the gateway finds it now."""
    home = homes.get(index)
    if home is not None and (home, index) in residency.ready:
        return home
    return routed.get(index)
