"""What the gateway does when it is too much: it refuses what is new and goes on with what is there.

Connections over the limit are closed at once. As memory runs out, in this order: connections are
not kept alive and free memory goes back; new requests get 503; new connections are closed.
"""

from __future__ import annotations

from dataclasses import dataclass

_MONITORS = "envoy.resource_monitors"
_TYPES = "type.googleapis.com/envoy.extensions.resource_monitors"
_CONNECTIONS = f"{_MONITORS}.global_downstream_max_connections"
_HEAP = f"{_MONITORS}.fixed_heap"
_AT_SHARE_OF_HEAP = {
    "shrink_heap": 0.90,
    "disable_http_keepalive": 0.90,
    "stop_accepting_requests": 0.95,
    "reject_incoming_connections": 0.98,
}

BUFFER_BYTES = 256 << 10
"""Read from a connection and not yet passed on. Whole bodies are kept elsewhere: see `listener`."""
HTTP2 = {
    "max_concurrent_streams": 128,
    "initial_stream_window_size": BUFFER_BYTES,
    "initial_connection_window_size": 1 << 20,
}
"""of clients: one connection must not hold more than many"""


@dataclass(frozen=True)
class Capacity:
    """Of the gateway as a whole."""

    connections: int = 50_000
    memory_mb: int = 0
    """0 is no limit"""


def render(capacity: Capacity) -> dict[str, object]:
    """`overload_manager` of the bootstrap."""
    monitors: list[dict[str, object]] = [
        {
            "name": _CONNECTIONS,
            "typed_config": {
                "@type": f"{_TYPES}.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": capacity.connections,
            },
        }
    ]
    actions: list[dict[str, object]] = []
    if capacity.memory_mb:
        monitors.append(
            {
                "name": _HEAP,
                "typed_config": {
                    "@type": f"{_TYPES}.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": capacity.memory_mb << 20,
                },
            }
        )
        actions = [
            {
                "name": f"envoy.overload_actions.{action}",
                "triggers": [{"name": _HEAP, "threshold": {"value": share}}],
            }
            for action, share in _AT_SHARE_OF_HEAP.items()
        ]
    return {"refresh_interval": "0.25s", "resource_monitors": monitors, "actions": actions}
