"""The listener: from the client's bytes to a request that routes can trust."""

from __future__ import annotations

from pathlib import Path

from modelfleet.serving.gateway import access, limits, overload, tls
from modelfleet.serving.gateway.bootstrap import NODE
from modelfleet.serving.gateway.replies import local_replies
from modelfleet.serving.gateway.routes import ROUTES

_TYPES = "type.googleapis.com/envoy"
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"
_DEADLINE_ASIDE = "mf-deadline"
_READ_ANYWAY_BYTES = 64 << 20


def render(
    version: str,
    *,
    host: str,
    port: int,
    jwks: str,
    max_body_bytes: int,
    folder: Path,
    secure: bool,
    inside: Path,
) -> dict[str, object]:
    """lds.json: two listeners whose routes come from `folder`/rds.json.

    secure: clients speak TLS only. inside: the socket at which the platform's own processes call
    models, with keys like everybody.
    """
    transport: dict[str, object] = {}
    if secure:
        transport["transport_socket"] = tls.to_clients(folder)
    port_address: dict[str, object] = {"socket_address": {"address": host, "port_value": port}}
    socket_address: dict[str, object] = {"pipe": {"path": str(inside), "mode": 0o600}}
    http = _http(jwks, max_body_bytes, folder)
    return {
        "version_info": version,
        "resources": [
            _listener(NODE, port_address, transport, http) | {"enable_reuse_port": True},
            _listener(f"{NODE}-inside", socket_address, {}, http) | {"enable_reuse_port": False},
        ],
    }


def _listener(
    name: str, address: dict[str, object], transport: dict[str, object], http: dict[str, object]
) -> dict[str, object]:
    return {
        "@type": f"{_TYPES}.config.listener.v3.Listener",
        "name": name,
        "address": address,
        "per_connection_buffer_limit_bytes": overload.BUFFER_BYTES,
        "filter_chains": [
            {
                **transport,
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": http,
                    }
                ],
            }
        ],
    }


def _http(jwks: str, max_body_bytes: int, folder: Path) -> dict[str, object]:
    return {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "gateway",
        "server_name": "modelfleet",
        "use_remote_address": True,
        "preserve_external_request_id": False,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "request_headers_timeout": "10s",
        "request_timeout": "120s",
        "stream_idle_timeout": "120s",
        "http2_protocol_options": overload.HTTP2,
        "common_http_protocol_options": {
            "idle_timeout": "600s",
            "headers_with_underscores_action": "DROP_HEADER",
        },
        "early_header_mutation_extensions": [
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.http.early_header_mutation.header_mutation.v3"
                    ".HeaderMutation",
                    "mutations": _inbound_headers(),
                },
            }
        ],
        "local_reply_config": local_replies(max_body_bytes),
        "rds": {
            "route_config_name": ROUTES,
            "config_source": {
                "path_config_source": {"path": str(folder / "rds.json")},
                "resource_api_version": "V3",
            },
        },
        "http_filters": [
            *access.filters(jwks),
            *limits.filters(),
            *_body_limits(max_body_bytes),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            },
        ],
    }


def _body_limits(max_body_bytes: int) -> list[dict[str, object]]:
    """413 for bodies over the limit, in a way that clients can read.

    Answering before a body has arrived ends in a reset for clients that write before they read.
    So bodies are read up to a hard limit, which also lets a retry send them again, and are
    refused after that by their length, which the buffer filter knows for chunked ones too.
    """
    hard = max(_READ_ANYWAY_BYTES, 2 * max_body_bytes)
    too_large = {"start": max_body_bytes + 1, "end": 1 << 62}
    return [
        {
            "name": "envoy.filters.http.buffer",
            "typed_config": {
                "@type": f"{_TYPES}.extensions.filters.http.buffer.v3.Buffer",
                "max_request_bytes": hard,
            },
        },
        {
            "name": "envoy.filters.http.fault",
            "typed_config": {
                "@type": f"{_TYPES}.extensions.filters.http.fault.v3.HTTPFault",
                "abort": {"http_status": 413, "percentage": {"numerator": 100}},
                "headers": [{"name": "content-length", "range_match": too_large}],
                "disable_downstream_cluster_stats": True,
            },
        },
    ]


def _inbound_headers() -> list[dict[str, object]]:
    """Nobody outside speaks in our name; the client's own request id is kept aside.

    The deadline alone is the client's to set: it steps aside while ours are stripped.
    """
    return [
        {"remove": _DEADLINE_ASIDE},
        _set(_DEADLINE_ASIDE, "%REQ(x-mf-timeout-ms)%"),
        {"remove_on_match": {"key_matcher": {"prefix": "x-mf-", "ignore_case": True}}},
        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-", "ignore_case": True}}},
        _set("x-mf-timeout-ms", f"%REQ({_DEADLINE_ASIDE})%"),
        {"remove": _DEADLINE_ASIDE},
        _set("x-mf-client-request-id", "%REQ(x-request-id)%"),
        {"remove": "x-request-id"},
    ]


def _set(name: str, value: str) -> dict[str, object]:
    header = {"key": name, "value": value}
    return {"append": {"header": header, "append_action": _OVERWRITE}}
