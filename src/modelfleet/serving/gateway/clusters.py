"""Clusters: one or two per pool, never per model; settings that reached zero failed requests.

Requests of a pool go to the replica that has the least to do. Those for light models have a second
cluster with the same replicas, in which an endpoint stays with one of them while that one has no
more than nine tenths of what the pool has in hand: waking two processes in turns costs more than
the model. A replica that is slow or hangs is thereby left, too.

Endpoints stand inside the cluster (`STATIC`), because every endpoint file of its own would take
one of the few inotify instances that a user has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelfleet.serving.gateway import tls
from modelfleet.serving.gateway.config import GatewayConfig, PoolAddress, host_and_port
from modelfleet.serving.gateway.overload import BUFFER_BYTES

CONTROL_PLANE = "control-plane"
GRPC = "grpc"
_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def render(version: str, clusters: Sequence[dict[str, object]]) -> dict[str, object]:
    """cds.json."""
    return {"version_info": version, "resources": [{"@type": _CLUSTER, **c} for c in clusters]}


_NEAR_PERCENT = 90


def name_of(pool: str, *, near: bool = False) -> str:
    return f"pool-{pool}-near" if near else f"pool-{pool}"


def of(config: GatewayConfig, folder: Path) -> list[dict[str, object]]:
    """All clusters of the pools, as the routes of `config` name them."""
    near = {t.pool for one in config.endpoints for t in one.targets if t.light}
    plain = {t.pool for one in config.endpoints for t in one.targets if not t.light}
    plain |= {shadow.pool for one in config.endpoints for shadow in one.shadows}
    found = []
    for pool in config.pools:
        if pool.pool in plain or pool.pool not in near:
            found.append(pool_cluster(pool, folder))
        if pool.pool in near:
            found.append(_near(pool, folder))
    return found


def _near(pool: PoolAddress, folder: Path) -> dict[str, object]:
    """The same for light models."""
    found = pool_cluster(pool, folder)
    common, load = found["common_lb_config"], found["load_assignment"]
    assert isinstance(common, dict)
    assert isinstance(load, dict)
    name = name_of(pool.pool, near=True)
    # in percent of the mean over all replicas
    most = {"hash_balance_factor": max(_NEAR_PERCENT * len(pool.sockets), 100)}
    return found | {
        "name": name,
        "lb_policy": "RING_HASH",
        "common_lb_config": common | {"consistent_hashing_lb_config": most},
        "load_assignment": load | {"cluster_name": name},
    }


def pool_cluster(pool: PoolAddress, folder: Path) -> dict[str, object]:
    """A pool's cluster; replicas elsewhere are reached by mutual TLS (secrets are in `folder`).

    Only failures of the connection itself eject a replica: pools are shared by models, so one
    model's 5xx must not cost its neighbours their worker.
    """
    return {
        "name": name_of(pool.pool),
        "type": "STRICT_DNS" if pool.by_name else "STATIC",
        # Over a network, a handshake takes a few round trips.
        "connect_timeout": "1s" if pool.elsewhere else "0.25s",
        **_transport(pool, folder),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "lb_policy": "LEAST_REQUEST",
        "ignore_health_on_host_removal": True,
        "common_lb_config": {
            # With none healthy, try them all: one that came back may not have been asked yet, and a
            # refused connection costs no more than the next try.
            "healthy_panic_threshold": {"value": 1},
            "close_connections_on_host_set_change": False,
            # Else the balancer hears of a mended replica up to a second late, and if the other
            # one dies meanwhile, it knows of none.
            "update_merge_window": "0s",
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 4096,
                    "max_pending_requests": 8192,
                    "max_requests": 8192,
                    "retry_budget": {
                        "budget_percent": {"value": 50},
                        "min_retry_concurrency": 100,
                    },
                }
            ]
        },
        "health_checks": [
            {
                "timeout": "1s",
                # A good answer ends an ejection, too: so a mended replica is soon back.
                "interval": "0.25s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 4,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/v2/health/ready"},
            }
        ],
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 1,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "interval": "0.5s",
            "base_ejection_time": "2s",
            # Else each further ejection is longer, and two mended replicas can be out at once.
            "max_ejection_time": "2s",
            "max_ejection_percent": 50,
        },
        "load_assignment": {
            "cluster_name": name_of(pool.pool),
            "endpoints": [{"lb_endpoints": [_replica(one) for one in pool.sockets]}],
        },
    }


def _transport(pool: PoolAddress, folder: Path) -> dict[str, object]:
    if not pool.elsewhere:
        return {}
    secure = {"match": _ELSEWHERE, "transport_socket": tls.to_workers(folder, pool.pool)}
    plain = {
        "match": {},
        "transport_socket": {
            "name": "envoy.transport_sockets.raw_buffer",
            "typed_config": {"@type": f"{_SOCKETS}.raw_buffer.v3.RawBuffer"},
        },
    }
    found = [{"name": "elsewhere", **secure}, {"name": "here", **plain}]
    return {"transport_socket_matches": found}


def _replica(address: str) -> dict[str, object]:
    if address.startswith("/"):
        return {"endpoint": {"address": {"pipe": {"path": address}}}}
    host, port = host_and_port(address)
    at = {"socket_address": {"address": host, "port_value": port}}
    marks = {"filter_metadata": {"envoy.transport_socket_match": _ELSEWHERE}}
    return {"endpoint": {"address": at}, "metadata": marks}


_ELSEWHERE = {"elsewhere": True}
_SOCKETS = "type.googleapis.com/envoy.extensions.transport_sockets"


def control_plane(at: tuple[str, int]) -> dict[str, object]:
    """Where feedback goes. It stands in the bootstrap: it outlives every revision."""
    address: dict[str, object] = {"socket_address": {"address": at[0], "port_value": at[1]}}
    return {
        "name": CONTROL_PLANE,
        "type": "STATIC",
        "connect_timeout": "1s",
        # The control plane may come back on the port with old connections dead: don't keep them.
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {"idle_timeout": "2s"},
            }
        },
        "load_assignment": _assignment(CONTROL_PLANE, [address]),
    }


def grpc(socket: str) -> dict[str, object]:
    """The service that speaks gRPC, over HTTP/2 on its Unix socket; 503 while nobody listens."""
    return {
        "name": GRPC,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": _assignment(GRPC, [{"pipe": {"path": socket}}]),
    }


def _assignment(name: str, addresses: Sequence[dict[str, object]]) -> dict[str, object]:
    endpoints = [{"endpoint": {"address": address}} for address in addresses]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}
